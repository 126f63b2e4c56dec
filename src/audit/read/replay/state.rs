//! The state that follows from the records so far, with the history of each value.

use std::collections::BTreeMap;
use std::fmt;

use crate::audit::format::event::{AgentStatus, Event};
use crate::audit::format::payload::text_of;
use crate::audit::format::record::Record;
use crate::audit::read::reader::DecryptedRecord;
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::json;

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
        let (_, value) = self.0.last()?;
        Some(value)
    }

    /// All values that a caller with that arrival time can have met. `before` is the value before
    /// the first record.
    fn since(&self, arrived: Timestamp, before: T) -> Vec<T> {
        // A decision may use a state that is up to `EFFECT_MS` old.
        let from = Timestamp(arrived.0 - EFFECT_MS);
        let (mut known, mut later) = (&before, Vec::new());
        for (since, value) in &self.0 {
            if *since <= from {
                known = value;
            } else {
                later.push(value.clone());
            }
        }
        later.insert(0, known.clone());
        later
    }
}

/// The histories of values, by the id or name that has the value.
#[derive(Clone, Debug)]
struct Histories<T>(BTreeMap<String, Past<T>>);

impl<T> Default for Histories<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone> Histories<T> {
    /// Adds a value.
    fn now(&mut self, id: String, at: Timestamp, value: T) {
        self.0.entry(id).or_default().now(at, value);
    }

    /// The current value.
    fn last(&self, id: &str) -> Option<&T> {
        self.0.get(id)?.last()
    }

    /// As [`Past::since`]. No value where the id never had one.
    fn since(&self, id: &str, arrived: Timestamp, before: T) -> Vec<T> {
        match self.0.get(id) {
            Some(past) => past.since(arrived, before),
            None => Vec::new(),
        }
    }
}

impl Histories<bool> {
    /// Whether the value is true now.
    fn is_set(&self, id: &str) -> bool {
        self.last(id) == Some(&true)
    }

    /// Whether a caller with that arrival time can have met the value true.
    fn was_set(&self, id: &str, arrived: Timestamp) -> bool {
        self.since(id, arrived, false).contains(&true)
    }

    /// One line of JSON for each id: `word` is its member, and it is revoked.
    fn revoked_lines(&self, word: &str, lines: &mut Vec<String>) {
        for id in self.0.keys() {
            lines.push(format!(r#"{{"{word}":"{id}","revoked":true}}"#));
        }
    }
}

/// The replayed state.
#[derive(Clone, Debug, Default)]
pub struct ReplayedState {
    /// The status of agents, of namespaces as `research/*`, and of principals as `principal
    /// team:research`.
    statuses: Histories<AgentStatus>,
    /// The fixed principal of an agent, where it has one.
    principals: Histories<Option<String>>,
    tokens: Histories<bool>,
    expires: BTreeMap<String, Timestamp>,
    keys: Histories<bool>,
    /// Retired keys, whose newer tokens are void. The log does not have the time when a token was
    /// signed.
    retired: Histories<bool>,
    revoked_handles: Histories<bool>,
    /// The token of a handle.
    handles: Histories<String>,
    /// Whether a token belongs to a handle.
    bound: Histories<bool>,
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

/// A token of a caller's chain, and the key that signed it.
struct RecordedLink {
    token: String,
    kid: String,
}

impl RecordedLink {
    /// The chain of a record, the root token first. `None` where the record has none.
    fn chain(told: &DecryptedRecord) -> Option<Vec<Self>> {
        let payload = told.payload.as_deref()?;
        let document = json::parse(payload.as_bytes(), &json::Limits::deep(4)).ok()?;
        let mut chain = Vec::new();
        for link in document.as_object()?.get("chain")?.as_array()? {
            chain.push(Self { token: Self::text(link, "token"), kid: Self::text(link, "kid") });
        }
        Some(chain)
    }

    /// A text of a link; empty where it is missing.
    fn text(link: &json::Value<'_>, member: &str) -> String {
        let text = link.as_object().and_then(|object| text_of(object, member));
        text.unwrap_or_default().to_owned()
    }
}

/// The caller of a request, by its record.
pub(super) struct RecordedCaller {
    pub(super) agent: String,
    pub(super) principal: String,
    /// The arrival time of the request.
    arrived: Timestamp,
    chain: Vec<RecordedLink>,
    handle: Option<String>,
}

impl RecordedCaller {
    /// The caller of a record with the time `at`.
    pub(super) fn of(told: &DecryptedRecord, at: Timestamp) -> Self {
        let arrived = match told.text_or_empty("request").parse::<RequestId>() {
            Ok(request) => Timestamp(request.arrived()).min(at),
            Err(_) => at,
        };
        Self {
            arrived,
            agent: told.text_or_empty("agent"),
            principal: told.text_or_empty("principal"),
            chain: RecordedLink::chain(told).unwrap_or_default(),
            handle: told.text("handle"),
        }
    }

    /// The keys of its statuses: of all agents that it was delegated from, of the agent itself, and
    /// of its namespace.
    fn status_rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        // The first slash separates the namespace, so it does not end a name.
        for (end, _) in self.agent.match_indices('/').skip(1) {
            if let Some(ancestor) = self.agent.get(..end) {
                rows.push(ancestor.to_owned());
            }
        }
        rows.push(self.agent.clone());
        rows.push(match self.agent.split_once('/') {
            Some((namespace, _)) => all_of(namespace),
            None => all_of(&self.agent),
        });
        rows
    }

    /// Whether its chain has that token.
    fn has_token(&self, token: &str) -> bool {
        self.chain.iter().any(|link| link.token == token)
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
                self.principals.now(agent.as_str().to_owned(), at, principal);
            }
            Event::AgentStatus { agent, status, .. } => {
                self.statuses.now(agent.as_str().to_owned(), at, *status);
            }
            Event::NamespaceStatus { namespace, status, .. } => {
                self.statuses.now(all_of(namespace), at, *status);
            }
            Event::PrincipalStatus { principal, status, .. } => {
                self.statuses.now(principal_row(principal.as_str()), at, *status);
            }
            Event::TokenRegistered { token, expires, .. } => {
                self.expires.insert(token.to_string(), *expires);
            }
            Event::TokenRevoked { token, .. } => self.tokens.now(token.to_string(), at, true),
            Event::HandleSet { handle, id, .. } => {
                let handle = handle.to_string();
                if let Some(former) = self.handles.last(&handle) {
                    // A former token of the handle stays bound to it: it never becomes valid
                    // without the handle.
                    self.bound.now(former.clone(), at, true);
                }
                self.handles.now(handle, at, id.to_string());
                self.bound.now(id.to_string(), at, true);
            }
            Event::HandleRevoked { handle, .. } => {
                self.revoked_handles.now(handle.to_string(), at, true);
            }
            Event::KeyRetired { kid, from, .. } => {
                // A retirement can have a later start than its record.
                self.retired.now(kid.to_string(), from.unwrap_or(at), true);
            }
            Event::Clock { accepted: true, .. } => self.stopped = Some(at),
            Event::KeyRevoked { kid, .. } => self.keys.now(kid.to_string(), at, true),
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
        let mut rows = caller.status_rows();
        rows.push(principal_row(&caller.principal));
        for name in rows {
            match self.statuses.last(&name) {
                None | Some(AgentStatus::Active) => {}
                Some(_) => found.push(Against::Inactive(name)),
            }
        }
        for RecordedLink { token, kid } in &caller.chain {
            if self.tokens.is_set(token) {
                found.push(Against::Revoked(format!("token {token}")));
            }
            if self.keys.is_set(kid) {
                found.push(Against::Revoked(format!("key {kid}")));
            }
            // With a stopped clock, expiry cannot be evaluated.
            if self.stopped != Some(at)
                && let Some(expires) = self.expires.get(token)
                && *expires <= at
            {
                found.push(Against::Expired(token.clone()));
            }
        }
        if let Some(handle) = &caller.handle
            && self.revoked_handles.is_set(handle)
        {
            found.push(Against::Revoked(format!("handle {handle}")));
        }
        found
    }

    /// Whether a reason to refuse a request that was recorded at `at` has ended since.
    pub(super) fn is_over(&self, against: &Against, at: Timestamp) -> bool {
        let Against::Inactive(name) = against else { return false };
        let Some(past) = self.statuses.0.get(name) else { return false };
        past.0.iter().any(|(since, status)| *since >= at && *status == AgentStatus::Active)
    }

    /// Removes every status that can be reversed: the records that reversed it may be lost.
    pub(super) fn lose(&mut self) {
        self.statuses.0.retain(|_, past| past.last() == Some(&AgentStatus::Revoked));
    }

    /// Whether the caller showed the wrong credential, by every state since its arrival: the handle
    /// of another token, or a token that needs a handle. The gateway checks this once, at the
    /// arrival.
    pub(super) fn shown_wrongly(&self, caller: &RecordedCaller) -> Option<String> {
        let leaf = caller.chain.last()?;
        if let Some(handle) = &caller.handle {
            let tokens = self.handles.since(handle, caller.arrived, String::new());
            if tokens.contains(&leaf.token) {
                return None;
            }
            return Some(format!("handle {handle} has another token"));
        }
        let bound = self.bound.since(&leaf.token, caller.arrived, false);
        if bound.is_empty() || bound.contains(&false) {
            return None;
        }
        Some("its token is valid only through a handle".to_owned())
    }

    /// Whether the state explains a refusal with that code; `None` for codes that do not depend on
    /// the state.
    pub(super) fn explains(&self, code: &str, caller: &RecordedCaller) -> Option<bool> {
        let arrived = caller.arrived;
        Some(match code {
            "agent-suspended" => self.had_status(caller, AgentStatus::Suspended),
            "agent-quarantined" => self.had_status(caller, AgentStatus::Quarantined),
            "agent-revoked" => self.had_status(caller, AgentStatus::Revoked),
            "principal-suspended" => {
                let row = principal_row(&caller.principal);
                let past = self.statuses.since(&row, arrived, AgentStatus::Active);
                past.iter().any(|was| *was != AgentStatus::Active)
            }
            "token-revoked" => {
                caller.chain.iter().any(|link| self.tokens.was_set(&link.token, arrived))
            }
            // A retired key refuses only newer tokens. Their signing time is unknown here, so every
            // refusal counts as explained.
            "key-revoked" => caller.chain.iter().any(|link| {
                self.keys.was_set(&link.kid, arrived) || self.retired.was_set(&link.kid, arrived)
            }),
            "handle-revoked" => self.had_revoked_handle(caller),
            "handle-required" => match caller.chain.last() {
                Some(leaf) => self.bound.was_set(&leaf.token, arrived),
                None => false,
            },
            _ => return None,
        })
    }

    /// Whether the caller can have met that status, of itself, of an agent that it was delegated
    /// from, or of its namespace.
    fn had_status(&self, caller: &RecordedCaller, wanted: AgentStatus) -> bool {
        caller.status_rows().iter().any(|row| {
            self.statuses.since(row, caller.arrived, AgentStatus::Active).contains(&wanted)
        })
    }

    /// Whether the caller can have met a revoked handle. The record may have the token without the
    /// handle. Then each handle that ever had the token counts.
    fn had_revoked_handle(&self, caller: &RecordedCaller) -> bool {
        if let Some(handle) = &caller.handle
            && self.revoked_handles.was_set(handle, caller.arrived)
        {
            return true;
        }
        for (handle, past) in &self.handles.0 {
            if past.0.iter().any(|(_, token)| caller.has_token(token))
                && self.revoked_handles.was_set(handle, caller.arrived)
            {
                return true;
            }
        }
        false
    }

    /// One line of JSON for each agent, token, key and handle in the final state.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut agents: BTreeMap<&str, AgentRow<'_>> = BTreeMap::new();
        for (name, past) in &self.principals.0 {
            let row = agents.entry(name).or_default();
            if let Some(Some(principal)) = past.last() {
                row.principal = Some(principal);
            }
        }
        for (name, past) in &self.statuses.0 {
            // A status may exist without a registration, whose record may be pruned or unreadable.
            let row = agents.entry(name).or_default();
            if let Some(status) = past.last() {
                row.status = *status;
            }
        }
        for (name, AgentRow { status, principal }) in agents {
            let status = status.as_str();
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
        self.tokens.revoked_lines("token", &mut lines);
        self.keys.revoked_lines("key", &mut lines);
        self.revoked_handles.revoked_lines("handle", &mut lines);
        for (handle, past) in &self.handles.0 {
            if let Some(token) = past.last() {
                lines.push(format!(r#"{{"handle":"{handle}","token":"{token}"}}"#));
            }
        }
        lines
    }
}

/// The last status and the fixed principal of an agent, a namespace or a principal.
struct AgentRow<'s> {
    status: AgentStatus,
    principal: Option<&'s str>,
}

impl Default for AgentRow<'_> {
    fn default() -> Self {
        Self { status: AgentStatus::Active, principal: None }
    }
}
