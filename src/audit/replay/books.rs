//! The books as they follow from the records so far, with all that they ever said.

use std::collections::BTreeMap;

use super::chain;
use crate::audit::event::{Event, Standing};
use crate::audit::reader::Told;
use crate::audit::record::Record;
use crate::clock::Timestamp;

/// A decision is recorded a little after it was made: what the books said within this time before its record counts, in ms.
const LATE_MS: i64 = 1_000;

/// What something was, and since when.
#[derive(Clone, Debug)]
struct Past<T>(Vec<(Timestamp, T)>);

impl<T> Default for Past<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Past<T> {
    fn now(&mut self, at: Timestamp, value: T) {
        self.0.push((at, value));
    }

    /// All that it was within the time in which a decision recorded at `at` was made; `before` is what it was at first.
    fn around(&self, at: Timestamp, before: T) -> Vec<T> {
        let from = Timestamp(at.0 - LATE_MS);
        let known = self.0.iter().filter(|(since, _)| *since <= from).map(|(_, value)| value.clone()).next_back();
        let later = self.0.iter().filter(|(since, _)| *since > from && *since <= at).map(|(_, value)| value.clone());
        std::iter::once(known.unwrap_or(before)).chain(later).collect()
    }
}

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Books {
    standings: BTreeMap<String, Past<Standing>>,
    /// In whose name an agent acts, where that is fixed.
    principals: BTreeMap<String, Past<Option<String>>>,
    tokens: BTreeMap<String, Past<bool>>,
    expires: BTreeMap<String, Timestamp>,
    keys: BTreeMap<String, Past<bool>>,
    /// Keys whose newer tokens are void; when a token was signed does not stand in the log.
    retired: BTreeMap<String, Past<bool>>,
    revoked_handles: BTreeMap<String, Past<bool>>,
    /// The token that a handle stands for.
    handles: BTreeMap<String, Past<String>>,
    /// The handle that a token stands behind.
    behind: BTreeMap<String, Past<bool>>,
}

/// Whose request it was, as its record says.
pub(super) struct Caller {
    pub(super) agent: String,
    pub(super) principal: String,
    chain: Vec<(String, String)>,
    handle: Option<String>,
}

impl Caller {
    pub(super) fn of(told: &Told) -> Self {
        Self {
            agent: told.text("agent").unwrap_or_default(),
            principal: told.text("principal").unwrap_or_default(),
            chain: chain(told),
            handle: told.text("handle"),
        }
    }

    /// The agent and all that it was delegated from.
    fn lineage(&self) -> impl Iterator<Item = &str> {
        let ends = self.agent.match_indices('/').map(|(place, _)| place).skip(1).chain([self.agent.len()]);
        ends.filter_map(|end| self.agent.get(..end))
    }
}

impl Books {
    pub(super) fn apply(&mut self, record: &Record) {
        let at = record.at;
        match &record.event {
            Event::AgentRegistered { agent, principal, .. } => {
                let principal = principal.as_ref().map(|principal| principal.as_str().to_owned());
                self.principals.entry(agent.as_str().to_owned()).or_default().now(at, principal);
            }
            Event::AgentStanding { agent, standing, .. } => {
                self.standings.entry(agent.as_str().to_owned()).or_default().now(at, *standing);
            }
            Event::TokenRegistered { token, expires, .. } => {
                self.expires.insert(token.to_string(), *expires);
            }
            Event::TokenRevoked { token, .. } => self.tokens.entry(token.to_string()).or_default().now(at, true),
            Event::HandleSet { handle, id, .. } => {
                let handle = self.handles.entry(handle.to_string()).or_default();
                if let Some((_, former)) = handle.0.last() {
                    self.behind.entry(former.clone()).or_default().now(at, true);
                }
                handle.now(at, id.to_string());
                self.behind.entry(id.to_string()).or_default().now(at, true);
            }
            Event::HandleRevoked { handle, .. } => self.revoked_handles.entry(handle.to_string()).or_default().now(at, true),
            Event::KeyRetired { kid, from, .. } => self.retired.entry(kid.to_string()).or_default().now(from.unwrap_or(at), true),
            Event::KeyRevoked { kid, .. } => self.keys.entry(kid.to_string()).or_default().now(at, true),
            Event::Start { .. }
            | Event::Stop
            | Event::Reload { .. }
            | Event::Epoch { .. }
            | Event::Pruned { .. }
            | Event::Clock { .. }
            | Event::Forgotten { .. }
            | Event::KeysChanged { .. }
            | Event::ModelAccepted { .. }
            | Event::Admission(_)
            | Event::Outcome(_)
            | Event::Refusal(_)
            | Event::Refusals(_)
            | Event::Strangers(_)
            | Event::KeyAdded { .. } => {}
        }
    }

    /// Whatever refuses that caller for certain: through all of the time in which the decision was made.
    pub(super) fn refuses(&self, caller: &Caller, at: Timestamp) -> Vec<String> {
        let mut found = Vec::new();
        let always = |past: Option<&Past<bool>>| past.is_some_and(|past| past.around(at, false).iter().all(|is| *is));
        for name in caller.lineage() {
            let stands = self.standings.get(name).map(|past| past.around(at, Standing::Active)).unwrap_or_default();
            if !stands.is_empty() && stands.iter().all(|standing| *standing != Standing::Active) {
                found.push(format!("{name} is not active"));
            }
        }
        for (token, kid) in &caller.chain {
            if always(self.tokens.get(token)) {
                found.push(format!("token {token} is revoked"));
            }
            if always(self.keys.get(kid)) {
                found.push(format!("key {kid} is revoked"));
            }
            if self.expires.get(token).is_some_and(|expires| expires.0 + LATE_MS < at.0) {
                found.push(format!("token {token} has expired"));
            }
        }
        let leaf = caller.chain.last().map(|(token, _)| token);
        match &caller.handle {
            Some(handle) => {
                if always(self.revoked_handles.get(handle)) {
                    found.push(format!("handle {handle} is revoked"));
                }
                let stood = self.handles.get(handle).map(|past| past.around(at, String::new())).unwrap_or_default();
                if leaf.is_none_or(|leaf| !stood.contains(leaf)) {
                    found.push(format!("handle {handle} stands for another token"));
                }
            }
            None if leaf.is_some_and(|leaf| always(self.behind.get(leaf))) => {
                found.push("its token stands behind a handle".to_owned())
            }
            None => {}
        }
        found
    }

    /// Whether the books say what the refusal with that code says; `None` for codes that they know nothing of.
    pub(super) fn explains(&self, code: &str, caller: &Caller, at: Timestamp) -> Option<bool> {
        let ever = |past: Option<&Past<bool>>| past.is_some_and(|past| past.around(at, false).contains(&true));
        let stands = |wanted| {
            caller
                .lineage()
                .filter_map(|name| self.standings.get(name))
                .any(|past| past.around(at, Standing::Active).contains(&wanted))
        };
        Some(match code {
            "agent-suspended" => stands(Standing::Suspended),
            "agent-quarantined" => stands(Standing::Quarantined),
            "agent-revoked" => stands(Standing::Revoked),
            "token-revoked" => caller.chain.iter().any(|(token, _)| ever(self.tokens.get(token))),
            "key-revoked" => caller.chain.iter().any(|(_, kid)| ever(self.keys.get(kid)) || ever(self.retired.get(kid))),
            "handle-revoked" => {
                let behind = |(token, _): &(String, String)| {
                    let stood = |past: &Past<String>| past.0.iter().any(|(_, known)| known == token);
                    self.handles.iter().filter(move |(_, past)| stood(past)).map(|(handle, _)| handle).collect::<Vec<_>>()
                };
                let handles = caller.chain.iter().flat_map(behind).chain(&caller.handle);
                handles.into_iter().any(|handle| ever(self.revoked_handles.get(handle)))
            }
            "token-behind-handle" => caller.chain.last().is_some_and(|(leaf, _)| ever(self.behind.get(leaf))),
            _ => return None,
        })
    }

    /// One line of JSON for each agent, token, key and handle of which the books say something at their end.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut agents: BTreeMap<&str, (&str, Option<&str>)> = BTreeMap::new();
        for (name, past) in &self.principals {
            agents.entry(name).or_insert(("active", None)).1 = past.0.last().and_then(|(_, principal)| principal.as_deref());
        }
        for (name, past) in &self.standings {
            agents.entry(name).or_insert(("active", None)).0 = past.0.last().map_or("active", |(_, standing)| standing.as_str());
        }
        for (agent, (standing, principal)) in agents {
            lines.push(serde_json::json!({ "agent": agent, "principal": principal, "standing": standing }).to_string());
        }
        let revoked = |word: &str, past: &BTreeMap<String, Past<bool>>| {
            past.keys().map(|id| format!(r#"{{"{word}":"{id}","revoked":true}}"#)).collect::<Vec<_>>()
        };
        lines.extend(revoked("token", &self.tokens));
        lines.extend(revoked("key", &self.keys));
        lines.extend(revoked("handle", &self.revoked_handles));
        let stands =
            |(handle, past): (&String, &Past<String>)| Some(format!(r#"{{"handle":"{handle}","token":"{}"}}"#, past.0.last()?.1));
        lines.extend(self.handles.iter().filter_map(stands));
        lines
    }
}
