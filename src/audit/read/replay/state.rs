//! The state that follows from the records so far, with the history of each value.

use std::collections::BTreeMap;
use std::fmt;

use super::chain;
use crate::audit::format::event::{AgentStatus, Event};
use crate::audit::format::record::Record;
use crate::audit::read::reader::DecryptedRecord;
use crate::clock::Timestamp;
use crate::id::RequestId;

/// Milliseconds from an event's record until every decision uses it. In between are at most one
/// earlier batch and its own batch. Each takes at most as long as a sync may (30 s).
const EFFECT_MS: i64 = 60_000;

/// A value's history: each value with the time since when it is valid.
#[derive(Clone, Debug)]
struct Past<T>(Vec<(Timestamp, T)>);

impl<T> Default for Past<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Past<T> {
    /// Adds a value.
    fn now(&mut self, at: Timestamp, value: T) {
        self.0.push((at, value));
    }

    /// The current value.
    fn last(&self) -> Option<&T> {
        self.0.last().map(|(_, value)| value)
    }

    /// All values that a caller with that arrival time can have met. `before` is the value before
    /// the first record.
    fn since(&self, arrived: Timestamp, before: T) -> Vec<T> {
        // A decision may use a state that is up to `EFFECT_MS` old.
        let from = Timestamp(arrived.0 - EFFECT_MS);
        let known = self
            .0
            .iter()
            .filter(|(since, _)| *since <= from)
            .map(|(_, value)| value.clone())
            .next_back();
        let later =
            self.0.iter().filter(|(since, _)| *since > from).map(|(_, value)| value.clone());
        std::iter::once(known.unwrap_or(before)).chain(later).collect()
    }
}

/// The replayed state.
#[derive(Clone, Debug, Default)]
pub struct ReplayedState {
    /// The status of agents, of namespaces as `research/*`, and of principals as `principal
    /// team:research`.
    statuses: BTreeMap<String, Past<AgentStatus>>,
    /// The fixed principal of an agent, where it has one.
    principals: BTreeMap<String, Past<Option<String>>>,
    tokens: BTreeMap<String, Past<bool>>,
    expires: BTreeMap<String, Timestamp>,
    keys: BTreeMap<String, Past<bool>>,
    /// Retired keys, whose newer tokens are void. The log does not have the time when a token was
    /// signed.
    retired: BTreeMap<String, Past<bool>>,
    revoked_handles: BTreeMap<String, Past<bool>>,
    /// The token of a handle.
    handles: BTreeMap<String, Past<String>>,
    /// Whether a token belongs to a handle.
    behind: BTreeMap<String, Past<bool>>,
    /// The time at which an operator accepted a clock that is earlier than the log. Until the clock
    /// reaches it again, all records have this time.
    stopped: Option<Timestamp>,
}

/// The key of all agents of a namespace. It is never an agent's name.
fn all_of(namespace: &str) -> String {
    format!("{namespace}/*")
}

/// The key of a principal. It is never an agent's name.
fn principal_row(principal: &str) -> String {
    format!("principal {principal}")
}

/// The caller of a request, by its record.
pub(super) struct RecordedCaller {
    pub(super) agent: String,
    pub(super) principal: String,
    /// The arrival time of the request.
    arrived: Timestamp,
    chain: Vec<(String, String)>,
    handle: Option<String>,
}

impl RecordedCaller {
    /// The caller of a record with the time `at`.
    pub(super) fn of(told: &DecryptedRecord, at: Timestamp) -> Self {
        let request = told.text("request").and_then(|request| request.parse::<RequestId>().ok());
        Self {
            arrived: request.map_or(at, |request| Timestamp(request.arrived()).min(at)),
            agent: told.text("agent").unwrap_or_default(),
            principal: told.text("principal").unwrap_or_default(),
            chain: chain(told),
            handle: told.text("handle"),
        }
    }

    /// The key of its namespace.
    fn namespace(&self) -> String {
        all_of(self.agent.split('/').next().unwrap_or_default())
    }

    /// The agent, and all agents that it was delegated from.
    fn lineage(&self) -> impl Iterator<Item = &str> {
        // The first slash separates the namespace, so it does not end a name.
        let ends =
            self.agent.match_indices('/').map(|(place, _)| place).skip(1).chain([self.agent.len()]);
        ends.filter_map(|end| self.agent.get(..end))
    }
}

/// A reason to refuse a caller.
#[derive(Clone, Debug)]
pub(super) enum Against {
    /// An agent, namespace or principal that is not active.
    Inactive(String),
    /// A revoked token, key or handle.
    Revoked(String),
    /// An expired token.
    Expired(String),
}

impl fmt::Display for Against {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inactive(name) => write!(out, "{name} is not active"),
            Self::Revoked(what) => write!(out, "{what} is revoked"),
            Self::Expired(token) => write!(out, "token {token} has expired"),
        }
    }
}

/// The kinds of records that can be the reason of a refusal with that code.
pub(super) fn reasons(code: &str) -> &'static [&'static str] {
    match code {
        "agent-suspended" | "agent-quarantined" => &["agent-status", "namespace-status"],
        "agent-revoked" => &["agent-status"],
        "principal-suspended" => &["principal-status"],
        "token-revoked" => &["token-revoked"],
        "key-revoked" => &["key-retired", "key-revoked"],
        "handle-revoked" => &["handle-revoked", "handle-set"],
        "handle-required" => &["handle-set"],
        _ => &[],
    }
}

impl ReplayedState {
    /// Applies a record to the state.
    pub(super) fn apply(&mut self, record: &Record) {
        let at = record.at;
        match &record.event {
            Event::AgentRegistered { agent, principal, .. } => {
                let principal = principal.as_ref().map(|principal| principal.as_str().to_owned());
                self.principals.entry(agent.as_str().to_owned()).or_default().now(at, principal);
            }
            Event::AgentStatus { agent, status, .. } => {
                self.statuses.entry(agent.as_str().to_owned()).or_default().now(at, *status);
            }
            Event::NamespaceStatus { namespace, status, .. } => {
                self.statuses.entry(all_of(namespace)).or_default().now(at, *status);
            }
            Event::PrincipalStatus { principal, status, .. } => {
                self.statuses
                    .entry(principal_row(principal.as_str()))
                    .or_default()
                    .now(at, *status);
            }
            Event::TokenRegistered { token, expires, .. } => {
                self.expires.insert(token.to_string(), *expires);
            }
            Event::TokenRevoked { token, .. } => {
                self.tokens.entry(token.to_string()).or_default().now(at, true)
            }
            Event::HandleSet { handle, id, .. } => {
                let handle = self.handles.entry(handle.to_string()).or_default();
                if let Some(former) = handle.last() {
                    // A former token of the handle stays bound to it: it never becomes valid
                    // without the handle.
                    self.behind.entry(former.clone()).or_default().now(at, true);
                }
                handle.now(at, id.to_string());
                self.behind.entry(id.to_string()).or_default().now(at, true);
            }
            Event::HandleRevoked { handle, .. } => {
                self.revoked_handles.entry(handle.to_string()).or_default().now(at, true)
            }
            Event::KeyRetired { kid, from, .. } => {
                // A retirement can have a later start than its record.
                self.retired.entry(kid.to_string()).or_default().now(from.unwrap_or(at), true)
            }
            Event::Clock { accepted: true, .. } => self.stopped = Some(at),
            Event::KeyRevoked { kid, .. } => {
                self.keys.entry(kid.to_string()).or_default().now(at, true)
            }
            Event::Start { .. }
            | Event::Stop
            | Event::Reload { .. }
            | Event::Handover { .. }
            | Event::Epoch { .. }
            | Event::Pruned { .. }
            | Event::Clock { accepted: false, .. }
            | Event::Forgotten { .. }
            | Event::Restored { .. }
            | Event::Backup { .. }
            | Event::Exported { .. }
            | Event::Disclosed { .. }
            | Event::TokenSigned { .. }
            | Event::ReloadRefused { .. }
            | Event::KeysChanged { .. }
            | Event::ModelAccepted { .. }
            | Event::Admission(_)
            | Event::Outcome(_)
            | Event::Refusal(_)
            | Event::Refusals(_)
            | Event::UnauthenticatedRefusals(_)
            | Event::Written(_)
            | Event::KeyAdded { .. } => {}
        }
    }

    /// All reasons to refuse that caller. The gateway checks an admitted caller again after its
    /// admission is durable, with the state of all earlier records. So the request may not be
    /// served then.
    pub(super) fn refuses(&self, caller: &RecordedCaller, at: Timestamp) -> Vec<Against> {
        let mut found = Vec::new();
        let now = |past: Option<&Past<bool>>| past.and_then(Past::last).is_some_and(|is| *is);
        for name in caller
            .lineage()
            .map(str::to_owned)
            .chain([caller.namespace(), principal_row(&caller.principal)])
        {
            if self
                .statuses
                .get(&name)
                .and_then(Past::last)
                .is_some_and(|status| *status != AgentStatus::Active)
            {
                found.push(Against::Inactive(name));
            }
        }
        for (token, kid) in &caller.chain {
            if now(self.tokens.get(token)) {
                found.push(Against::Revoked(format!("token {token}")));
            }
            if now(self.keys.get(kid)) {
                found.push(Against::Revoked(format!("key {kid}")));
            }
            // With a stopped clock, expiry cannot be evaluated.
            if self.stopped != Some(at)
                && self.expires.get(token).is_some_and(|expires| *expires <= at)
            {
                found.push(Against::Expired(token.clone()));
            }
        }
        if let Some(handle) =
            caller.handle.as_ref().filter(|handle| now(self.revoked_handles.get(*handle)))
        {
            found.push(Against::Revoked(format!("handle {handle}")));
        }
        found
    }

    /// Whether a reason to refuse a request that was recorded at `at` has ended since.
    pub(super) fn is_over(&self, against: &Against, at: Timestamp) -> bool {
        let Against::Inactive(name) = against else { return false };
        let since = self.statuses.get(name).map(|past| past.0.as_slice()).unwrap_or_default();
        since.iter().any(|(since, status)| *since >= at && *status == AgentStatus::Active)
    }

    /// Removes every status that can be reversed: the records that reversed it may be lost.
    pub(super) fn lose(&mut self) {
        self.statuses.retain(|_, past| past.last() == Some(&AgentStatus::Revoked));
    }

    /// Whether the caller showed the wrong credential, by every state since its arrival: the handle
    /// of another token, or a token that needs a handle. The gateway checks this once, at the
    /// arrival.
    pub(super) fn shown_wrongly(&self, caller: &RecordedCaller) -> Option<String> {
        let (leaf, _) = caller.chain.last()?;
        match &caller.handle {
            Some(handle) => {
                let stood = self
                    .handles
                    .get(handle)
                    .map(|past| past.since(caller.arrived, String::new()))
                    .unwrap_or_default();
                (!stood.contains(leaf)).then(|| format!("handle {handle} stands for another token"))
            }
            None => {
                let behind = self.behind.get(leaf)?.since(caller.arrived, false);
                behind.iter().all(|is| *is).then(|| "its token stands behind a handle".to_owned())
            }
        }
    }

    /// Whether the state explains a refusal with that code; `None` for codes that do not depend on
    /// the state.
    pub(super) fn explains(&self, code: &str, caller: &RecordedCaller) -> Option<bool> {
        let ever = |past: Option<&Past<bool>>| {
            past.is_some_and(|past| past.since(caller.arrived, false).contains(&true))
        };
        let stands = |wanted| {
            caller
                .lineage()
                .map(str::to_owned)
                .chain([caller.namespace()])
                .filter_map(|name| self.statuses.get(&name))
                .any(|past| past.since(caller.arrived, AgentStatus::Active).contains(&wanted))
        };
        Some(match code {
            "agent-suspended" => stands(AgentStatus::Suspended),
            "agent-quarantined" => stands(AgentStatus::Quarantined),
            "agent-revoked" => stands(AgentStatus::Revoked),
            "principal-suspended" => {
                let past = self.statuses.get(&principal_row(&caller.principal));
                past.is_some_and(|past| {
                    past.since(caller.arrived, AgentStatus::Active)
                        .iter()
                        .any(|was| *was != AgentStatus::Active)
                })
            }
            "token-revoked" => caller.chain.iter().any(|(token, _)| ever(self.tokens.get(token))),
            "key-revoked" => caller
                .chain
                .iter()
                // A retired key refuses only newer tokens. Their signing time is unknown here, so
                // every refusal counts as explained.
                .any(|(_, kid)| ever(self.keys.get(kid)) || ever(self.retired.get(kid))),
            // The record may have the token without the handle. Then each handle that ever had the
            // token counts.
            "handle-revoked" => {
                let behind = |(token, _): &(String, String)| {
                    let stood =
                        |past: &Past<String>| past.0.iter().any(|(_, known)| known == token);
                    self.handles
                        .iter()
                        .filter(move |(_, past)| stood(past))
                        .map(|(handle, _)| handle)
                        .collect::<Vec<_>>()
                };
                let handles = caller.chain.iter().flat_map(behind).chain(&caller.handle);
                handles.into_iter().any(|handle| ever(self.revoked_handles.get(handle)))
            }
            "handle-required" => {
                caller.chain.last().is_some_and(|(leaf, _)| ever(self.behind.get(leaf)))
            }
            _ => return None,
        })
    }

    /// One line of JSON for each agent, token, key and handle in the final state.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut agents: BTreeMap<&str, (&str, Option<&str>)> = BTreeMap::new();
        for (name, past) in &self.principals {
            agents.entry(name).or_insert(("active", None)).1 =
                past.last().and_then(Option::as_deref);
        }
        for (name, past) in &self.statuses {
            // A status may exist without a registration, whose record may be pruned or unreadable.
            agents.entry(name).or_insert(("active", None)).0 =
                past.last().map_or("active", |status| status.as_str());
        }
        for (name, (status, principal)) in agents {
            let row = match (name.strip_suffix("/*"), name.strip_prefix("principal ")) {
                (Some(namespace), _) => {
                    serde_json::json!({ "namespace": namespace, "status": status })
                }
                (None, Some(stopped)) => {
                    serde_json::json!({ "principal": stopped, "status": status })
                }
                (None, None) => {
                    serde_json::json!({ "agent": name, "principal": principal, "status": status })
                }
            };
            lines.push(row.to_string());
        }
        let revoked = |word: &str, past: &BTreeMap<String, Past<bool>>| {
            past.keys()
                .map(|id| format!(r#"{{"{word}":"{id}","revoked":true}}"#))
                .collect::<Vec<_>>()
        };
        lines.extend(revoked("token", &self.tokens));
        lines.extend(revoked("key", &self.keys));
        lines.extend(revoked("handle", &self.revoked_handles));
        let stands = |(handle, past): (&String, &Past<String>)| {
            Some(format!(r#"{{"handle":"{handle}","token":"{}"}}"#, past.last()?))
        };
        lines.extend(self.handles.iter().filter_map(stands));
        lines
    }
}
