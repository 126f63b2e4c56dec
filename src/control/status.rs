//! Commands and questions about the status of agents, namespaces and principals.

use serde_json::{Value, json};

use crate::audit::format::event::{AgentStatus, Event};
use crate::control::views::agent_view;
use crate::control::{Command, Control, ControlFault, StatusVerb};
use crate::id::{AgentName, Principal};
use crate::registry::StatusChange;
use crate::suggest::nearest;

/// The maximum number of similar names in an error.
const NEAR_MAX: usize = 3;

/// The row of a reply about a changed status.
pub(super) fn status_view(event: &Event) -> Option<Value> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "standings alone")]
    match event {
        Event::AgentStatus { agent, status, .. } => {
            Some(json!({ "agent": agent.as_str(), "status": status.as_str() }))
        }
        Event::NamespaceStatus { namespace, status, .. } => {
            Some(json!({ "namespace": namespace, "status": status.as_str() }))
        }
        Event::PrincipalStatus { principal, status, .. } => {
            Some(json!({ "principal": principal.as_str(), "status": status.as_str() }))
        }
        _ => None,
    }
}

/// The status after `verb`, from the status `now`.
fn changed(name: &str, now: AgentStatus, verb: StatusVerb) -> Result<AgentStatus, ControlFault> {
    use AgentStatus::{Active, Quarantined, Revoked, Suspended};
    let hint = match (verb, now) {
        // A revocation is permanent, so no verb ends it.
        (_, Revoked) => "this is permanent; register another name",
        (StatusVerb::Suspend, Active) => return Ok(Suspended),
        (StatusVerb::Suspend, Suspended | Quarantined) => {
            "only an active agent or namespace can be suspended"
        }
        (StatusVerb::Resume, Suspended) | (StatusVerb::Release, Quarantined) => return Ok(Active),
        (StatusVerb::Resume, Active | Quarantined) => {
            "only a suspended agent or namespace can be resumed"
        }
        (StatusVerb::Quarantine, Quarantined) => "it is already in quarantine",
        (StatusVerb::Quarantine, Active | Suspended) => return Ok(Quarantined),
        (StatusVerb::Release, Active | Suspended) => {
            "only an agent or namespace in quarantine can be released"
        }
        (StatusVerb::Revoke, Active | Suspended | Quarantined) => return Ok(Revoked),
    };
    Err(ControlFault::Status { agent: name.to_owned(), status: now.as_str(), hint })
}

/// The status of a principal after `verb`, from the status `now`.
fn principal_changed(
    principal: &Principal,
    now: AgentStatus,
    verb: StatusVerb,
) -> Result<AgentStatus, ControlFault> {
    use AgentStatus::{Active, Quarantined, Revoked, Suspended};
    let hint = match (verb, now) {
        (StatusVerb::Suspend, Active) => return Ok(Suspended),
        (StatusVerb::Suspend, Suspended | Quarantined | Revoked) => "it is already stopped",
        (StatusVerb::Resume | StatusVerb::Release, Active) => {
            "only a suspended principal can be released"
        }
        (StatusVerb::Resume | StatusVerb::Release, Suspended | Quarantined | Revoked) => {
            return Ok(Active);
        }
        (StatusVerb::Quarantine | StatusVerb::Revoke, _) => {
            "a principal can only be suspended and released"
        }
    };
    Err(ControlFault::Status { agent: principal.to_string(), status: now.as_str(), hint })
}

/// Names that an operator may have meant by `name`, at most [`NEAR_MAX`], each once. The one with
/// the fewest edits is first.
fn similar<'n>(known: &[&'n str], name: &str) -> Vec<&'n str> {
    let mut near: Vec<&str> = Vec::new();
    near.extend(nearest(known.iter().copied(), name));
    let last = name.rsplit('/').next();
    for known in known {
        // An agent with the same last segment in another namespace is a likely mistake.
        if near.len() < NEAR_MAX && known.rsplit('/').next() == last && !near.contains(known) {
            near.push(known);
        }
    }
    near
}

/// Whether a text can be the first part of an agent's name.
fn is_namespace(text: &str) -> bool {
    format!("{text}/x").parse::<AgentName>().is_ok() && !text.contains('/')
}

impl Control {
    /// The record of an agent's new status.
    pub(super) fn agent_status(
        &self,
        name: &str,
        verb: StatusVerb,
        reason: String,
        unregistered: bool,
    ) -> Result<Event, ControlFault> {
        let agent = self.meant(name)?;
        let row = self.registry.agent(agent.as_str());
        // A misspelled name would stop no agent, and the operator would not notice. So it needs an
        // option.
        if row.is_none() && !unregistered {
            return Err(
                self.unknown(agent.as_str(), "; use --unregistered to stop the name even so")
            );
        }
        let now = row.map_or(AgentStatus::Active, |row| row.status.status);
        let status = changed(agent.as_str(), now, verb)?;
        Ok(Event::AgentStatus { agent, status, reason })
    }

    /// The named agent. Without a slash it is in the namespace `default`, unless a namespace has
    /// that name.
    fn meant(&self, name: &str) -> Result<AgentName, ControlFault> {
        if name.contains('/') {
            return Ok(name.parse()?);
        }
        let agent: AgentName = format!("default/{name}").parse()?;
        // An ambiguous name is refused, so that the command never stops the wrong agents.
        if self.has_agents(name) {
            Err(ControlFault::Ambiguous(name.to_owned()))
        } else {
            Ok(agent)
        }
    }

    /// The record of a namespace's new status.
    pub(super) fn namespace_status(
        &self,
        namespace: &str,
        verb: StatusVerb,
        reason: String,
        unregistered: bool,
    ) -> Result<Event, ControlFault> {
        let shown = format!("{namespace}/*");
        if !is_namespace(namespace) {
            return Err(ControlFault::Name(crate::id::NameFault::Agent(
                // The name is invalid, so the message repeats only a part of it.
                shown.chars().take(80).collect(),
            )));
        }
        let now = self.registry.namespace(namespace).status;
        // A stopped namespace can always be changed, even without registered agents.
        if now == AgentStatus::Active && !self.has_agents(namespace) && !unregistered {
            let known = self.registry.agents();
            let near = match nearest(known.iter().map(|row| row.name.namespace()), namespace) {
                Some(near) => format!("; did you mean {near}/*?"),
                None => String::new(),
            };
            let near = format!(
                ": it has no registered agent{near}; use --unregistered to stop the namespace even \
                    so"
            );
            return Err(ControlFault::Unknown { name: shown, near });
        }
        if verb == StatusVerb::Revoke {
            let hint =
                "a namespace can be suspended or put in quarantine; revoke its agents one by one";
            return Err(ControlFault::Status { agent: shown, status: now.as_str(), hint });
        }
        Ok(Event::NamespaceStatus {
            namespace: namespace.to_owned(),
            status: changed(&shown, now, verb)?,
            reason,
        })
    }

    /// Whether a namespace has registered agents.
    fn has_agents(&self, namespace: &str) -> bool {
        self.registry.agents().iter().any(|row| row.name.namespace() == namespace)
    }

    /// The record of a principal's new status.
    pub(super) fn principal_status(
        &self,
        principal: Principal,
        verb: StatusVerb,
        reason: String,
        unregistered: bool,
    ) -> Result<Event, ControlFault> {
        let now = self.registry.principal(&principal).status;
        let known = self.registry.principals();
        if now == AgentStatus::Active && !known.contains(&principal) && !unregistered {
            let near = match nearest(known.iter().map(Principal::as_str), principal.as_str()) {
                Some(near) => format!("; did you mean {near}?"),
                None => String::new(),
            };
            let near = format!(
                ": no agent, token or handle acts for it{near}; use --unregistered to stop it even \
                    so"
            );
            return Err(ControlFault::Unknown { name: principal.to_string(), near });
        }
        let status = principal_changed(&principal, now, verb)?;
        Ok(Event::PrincipalStatus { principal, status, reason })
    }

    /// The error for an agent's name that is not registered.
    pub(super) fn unknown(&self, name: &str, hint: &str) -> ControlFault {
        let rows = self.registry.agents();
        let known: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let near = similar(&known, name);
        let near = if near.is_empty() {
            String::new()
        } else {
            format!("; did you mean {}?", near.join(" or "))
        };
        ControlFault::Unknown { name: name.to_owned(), near: format!("{near}{hint}") }
    }

    /// A note if a stopped name is not registered.
    pub(super) fn by_name_alone(&self, command: &Command) -> Option<String> {
        let Command::AgentStatus { agent, .. } = command else { return None };
        let agent = self.meant(agent).ok()?;
        if self.registry.agent(agent.as_str()).is_some() {
            return None;
        }
        Some(format!("no agent {agent} is registered: only its name has the new status"))
    }

    /// All agents, and the stopped namespaces.
    pub(super) fn agents(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        for agent in self.registry.agents() {
            rows.push(agent_view(&agent));
        }
        for (name, status) in self.registry.stopped_namespaces() {
            rows.push(stopped("namespace", &name, &status));
        }
        rows
    }

    /// The stopped principals.
    pub(super) fn stopped_principals(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        for (name, status) in self.registry.stopped_principals() {
            rows.push(stopped("principal", &name, &status));
        }
        rows
    }
}

/// A row about a stopped namespace or principal.
fn stopped(word: &str, name: &str, status: &StatusChange) -> Value {
    let reason = status.reason();
    json!({
        word: name,
        "status": status.as_str(),
        "since": reason.map(|(since, _)| since.to_string()),
        "reason": reason.map(|(_, why)| why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_similar_name_is_listed_once() {
        let known = ["acme/reader", "bcme/reader", "team/reader", "team/writer"];
        assert_eq!(similar(&known, "bcmee/reader"), ["bcme/reader", "acme/reader", "team/reader"]);
        assert_eq!(similar(&known, "team/nobody"), [""; 0]);
    }
}
