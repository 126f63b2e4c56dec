//! The registry: agents, tokens and handles, from the records of commands. Only commands write it;
//! all requests read it.
//!
//! It lists the refused ones. An agent without an entry is active, in the class `default`. A token
//! without an entry is valid if its signature and times are. A change wakes the requests that
//! depend on its subject, and they check their status again.

mod rows;
mod status;
mod wakeups;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

use crate::audit::format::event::{AgentStatus, Event};
use crate::audit::format::record::Record;
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};
use crate::refusal::{Code, Refusal};
pub use rows::{Agent, Handle, KeyUse, Token};
pub use status::StatusChange;
use status::Wide;
use wakeups::Wakeups;
pub use wakeups::{ChangeSubject, Changes, Subscription};

/// The class of an agent without a registration.
pub const DEFAULT_CLASS: &str = "default";

/// The registry.
pub struct Registry {
    agents: DashMap<Arc<str>, Agent, RandomState>,
    tokens: DashMap<TokenId, Token, RandomState>,
    handles: DashMap<HandleId, Arc<Handle>, RandomState>,
    /// Revoked handles, including those of forgotten principals. They are never accepted again.
    revoked_handles: DashMap<HandleId, (Timestamp, String), RandomState>,
    wide: Wide,
    /// The principals of all registered agents, tokens and handles.
    principals: DashMap<Principal, (), RandomState>,
    wakeups: Arc<Wakeups>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            agents: DashMap::with_hasher(RandomState::default()),
            tokens: DashMap::with_hasher(RandomState::default()),
            handles: DashMap::with_hasher(RandomState::default()),
            revoked_handles: DashMap::with_hasher(RandomState::default()),
            wide: Wide::default(),
            principals: DashMap::with_hasher(RandomState::default()),
            wakeups: Arc::default(),
        }
    }

    /// Applies one record. Records about other state have no effect here.
    pub fn apply(&self, record: &Record) {
        if record.event.is_control()
            && let Some(principal) = record.event.principal()
        {
            self.principals.insert(principal.clone(), ());
        }
        // Woken after the change: a request that checks at once must see the new state.
        self.wakeups.wake(&self.fold(record));
    }

    /// Applies the record to the entries. Returns the subjects that it changes.
    fn fold(&self, record: &Record) -> Vec<ChangeSubject> {
        match &record.event {
            Event::AgentRegistered { agent, principal, class } => {
                let mut row = self
                    .agents
                    .entry(agent.as_str().into())
                    .or_insert_with(|| Self::row(agent, record.at));
                row.principal.clone_from(principal);
                row.class = class.as_str().into();
                vec![ChangeSubject::agent(agent)]
            }
            Event::AgentStatus { agent, status, reason } => {
                let mut row = self
                    .agents
                    .entry(agent.as_str().into())
                    .or_insert_with(|| Self::row(agent, record.at));
                row.status = StatusChange::new(*status, record.at, reason);
                vec![ChangeSubject::agent(agent)]
            }
            Event::NamespaceStatus { namespace, status, reason } => {
                self.wide.set_namespace(namespace, StatusChange::new(*status, record.at, reason));
                vec![ChangeSubject::Namespace(namespace.as_str().into())]
            }
            Event::PrincipalStatus { principal, status, reason } => {
                self.wide.set_principal(principal, StatusChange::new(*status, record.at, reason));
                vec![ChangeSubject::Principal(principal.clone())]
            }
            Event::TokenRegistered { .. }
            | Event::TokenRevoked { .. }
            | Event::HandleSet { .. }
            | Event::HandleRevoked { .. } => self.fold_token(record),
            // The keyring has this state. Requests with tokens of this key check again.
            Event::KeyAdded { kid, .. }
            | Event::KeyRetired { kid, .. }
            | Event::KeyRevoked { kid, .. } => {
                vec![ChangeSubject::Key(*kid)]
            }
            Event::Start { .. }
            | Event::Stop
            | Event::Reload { .. }
            | Event::Handover { .. }
            | Event::Epoch { .. }
            | Event::Pruned { .. }
            | Event::Clock { .. }
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
            | Event::Written(_) => Vec::new(),
        }
    }

    /// The same for records about tokens and handles.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the events of tokens and handles alone; the others are in `fold`"
    )]
    fn fold_token(&self, record: &Record) -> Vec<ChangeSubject> {
        match &record.event {
            Event::TokenRegistered { token, jti, kid, agent, principal, expires, .. } => {
                let mut row =
                    self.tokens.entry(*token).or_insert_with(|| Token::new(*token, jti, agent));
                row.principal = Some(principal.clone());
                row.kid = Some(*kid);
                row.expires = Some(*expires);
                vec![ChangeSubject::Token(*token)]
            }
            Event::TokenRevoked { token, jti, agent, reason } => {
                let mut row =
                    self.tokens.entry(*token).or_insert_with(|| Token::new(*token, jti, agent));
                // The first revocation counts. A second one must not change its time.
                row.revoked.get_or_insert_with(|| (record.at, reason.clone()));
                vec![ChangeSubject::Token(*token)]
            }
            Event::HandleSet { handle, token, id, agent, principal, until } => {
                let (text, token, until) = (token.as_str().into(), *id, *until);
                let (agent, principal) = (agent.clone(), principal.clone());
                self.set_handle(Handle {
                    id: *handle,
                    text,
                    token,
                    agent,
                    principal,
                    until,
                    revoked: None,
                })
            }
            Event::HandleRevoked { handle, agent, reason } => {
                self.revoke_handle(*handle, record.at, reason);
                vec![ChangeSubject::agent(agent)]
            }
            _ => Vec::new(),
        }
    }

    /// Sets a handle and its token. Returns the subjects that change.
    fn set_handle(&self, mut row: Handle) -> Vec<ChangeSubject> {
        // The command registers a token before it sets a handle for it.
        self.tokens
            .entry(row.token)
            .or_insert_with(|| Token::new(row.token, "", &row.agent))
            .handle = Some(row.id);
        // A revoked handle stays revoked if it is set again.
        if let Some(revoked) = self.revoked_handles.get(&row.id) {
            row.revoked = Some(revoked.clone());
        }
        let subjects = vec![ChangeSubject::Token(row.token), ChangeSubject::agent(&row.agent)];
        self.handles.insert(row.id, Arc::new(row));
        subjects
    }

    /// Revokes a handle, with or without an entry.
    fn revoke_handle(&self, handle: HandleId, at: Timestamp, reason: &str) {
        let revoked =
            self.revoked_handles.entry(handle).or_insert_with(|| (at, reason.to_owned())).clone();
        if let Some(mut row) = self.handles.get_mut(&handle) {
            Arc::make_mut(&mut row).revoked = Some(revoked);
        }
    }

    /// Removes all entries' mentions of the principal. A start has the same effect after the
    /// principal's record key was destroyed. Revocations stay.
    pub fn remove_principal(&self, principal: &Principal) {
        self.agents.alter_all(|_, mut row| {
            row.principal.take_if(|known| known == principal);
            row
        });
        self.tokens.alter_all(|_, mut row| {
            row.principal.take_if(|known| known == principal);
            row
        });
        self.handles.retain(|_, handle| handle.principal != *principal);
        self.principals.remove(principal);
        // Tokens and handles of the principal may be in use, so all requests check again.
        self.announce();
    }

    /// The entry of an agent without a registration.
    fn row(agent: &AgentName, registered: Timestamp) -> Agent {
        let status = StatusChange::ACTIVE;
        Agent {
            name: agent.clone(),
            principal: None,
            class: DEFAULT_CLASS.into(),
            status,
            registered,
        }
    }

    /// Wakes every request, after a change that concerns all of them, such as a reload.
    pub fn announce(&self) {
        self.wakeups.wake_everyone();
    }

    /// Subscribes to changes of `subjects`.
    #[must_use]
    pub fn subscribe(&self, subjects: Vec<ChangeSubject>) -> Subscription {
        self.wakeups.subscribe(subjects)
    }

    /// The entry of an agent.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<Agent> {
        Some(self.agents.get(name)?.clone())
    }

    /// All entries, by name.
    #[must_use]
    pub fn agents(&self) -> Vec<Agent> {
        let mut rows = copies(&self.agents, |_| true);
        rows.sort_by(|left, right| left.name.cmp(&right.name));
        rows
    }

    /// The names of the agents that usually act for a principal, in order.
    #[must_use]
    pub fn agents_for(&self, principal: &Principal) -> Vec<AgentName> {
        let mut names = Vec::new();
        for row in &self.agents {
            if row.principal.as_ref() == Some(principal) {
                names.push(row.name.clone());
            }
        }
        names.sort();
        names
    }

    /// The stopped namespaces, by name.
    #[must_use]
    pub fn stopped_namespaces(&self) -> Vec<(Arc<str>, StatusChange)> {
        self.wide.namespaces()
    }

    /// The stopped principals, by name.
    #[must_use]
    pub fn stopped_principals(&self) -> Vec<(Arc<str>, StatusChange)> {
        self.wide.principals()
    }

    /// The status of a whole namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> StatusChange {
        self.wide.namespace(name)
    }

    /// The status of a principal.
    #[must_use]
    pub fn principal(&self, name: &Principal) -> StatusChange {
        self.wide.principal(name)
    }

    /// The principals of registered agents, tokens and handles, by name.
    #[must_use]
    pub fn principals(&self) -> Vec<Principal> {
        let mut known = Vec::new();
        for row in &self.principals {
            known.push(row.key().clone());
        }
        known.sort();
        known
    }

    /// The number of agents with each status: active, suspended, quarantined, revoked.
    #[must_use]
    pub fn agents_by_status(&self) -> [(AgentStatus, usize); 4] {
        let mut counts = AgentStatus::ALL.map(|status| (status, 0));
        for row in &self.agents {
            for (status, count) in &mut counts {
                *count += usize::from(*status == row.status.status);
            }
        }
        counts
    }

    /// The entry of a token.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<Token> {
        Some(self.tokens.get(id)?.clone())
    }

    /// The entry of a handle.
    #[must_use]
    pub fn handle(&self, id: &HandleId) -> Option<Arc<Handle>> {
        Some(Arc::clone(&*self.handles.get(id)?))
    }

    /// The handles of an agent, by identity.
    #[must_use]
    pub fn handles_of(&self, agent: &AgentName) -> Vec<Arc<Handle>> {
        let mut rows = copies(&self.handles, |row| row.agent == *agent);
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// The registered tokens with the label `jti`.
    #[must_use]
    pub fn tokens_labelled(&self, jti: &str) -> Vec<Token> {
        copies(&self.tokens, |row| row.jti == jti)
    }

    /// The registered tokens that act for a principal.
    #[must_use]
    pub fn tokens_for(&self, principal: &Principal) -> Vec<Token> {
        copies(&self.tokens, |row| row.principal.as_ref() == Some(principal))
    }

    /// The registered tokens of an agent. The one that expires last is first.
    #[must_use]
    pub fn tokens_of(&self, agent: &AgentName) -> Vec<Token> {
        let mut rows = copies(&self.tokens, |row| row.agent == *agent);
        rows.sort_by_key(|row| std::cmp::Reverse(row.expires));
        rows
    }

    /// The use of each key, from the registered tokens.
    #[must_use]
    pub fn signed(&self, now: Timestamp) -> HashMap<KeyId, KeyUse> {
        let mut keys = HashMap::new();
        for row in &self.tokens {
            let (Some(kid), Some(expires)) = (row.kid, row.expires) else { continue };
            // A revocation ends a token early, but cannot extend it.
            let end = match &row.revoked {
                Some((since, _)) => expires.min(*since),
                None => expires,
            };
            let signed = keys.entry(kid).or_insert(KeyUse { live: 0, last_end: end });
            signed.live += usize::from(end > now);
            signed.last_end = signed.last_end.max(end);
        }
        keys
    }

    /// The class of an agent: from its own entry, or the nearest ancestor's, or `default`.
    #[must_use]
    pub fn class(&self, agent: &AgentName) -> Arc<str> {
        for name in agent.lineage() {
            if let Some(row) = self.agents.get(name) {
                return Arc::clone(&row.class);
            }
        }
        DEFAULT_CLASS.into()
    }

    /// Checks that `tokens`, the agent with its ancestors, its namespace and its principal may act
    /// now. Returns the handle of one of the tokens, if one has a handle.
    ///
    /// # Errors
    /// The refusal for the first one that may not act.
    pub fn may_act<'t>(
        &self,
        agent: &AgentName,
        principal: &Principal,
        tokens: impl IntoIterator<Item = &'t TokenId>,
    ) -> Result<Option<HandleId>, Refusal> {
        let mut behind = None;
        for token in tokens {
            let Some(row) = self.tokens.get(token) else { continue };
            let (revoked, handle) = (row.revoked.clone(), row.handle);
            drop(row);
            // The handle's revocation comes first: callers with a handle know only the handle.
            if let Some((since, why)) =
                handle.and_then(|handle| self.handle(&handle)?.revoked.clone())
            {
                return Err(
                    Refusal::new(Code::HandleRevoked).because(format_args!("since {since}: {why}"))
                );
            }
            behind = behind.or(handle);
            if let Some((since, why)) = revoked {
                return Err(
                    Refusal::new(Code::TokenRevoked).because(format_args!("since {since}: {why}"))
                );
            }
        }
        for name in agent.lineage() {
            if let Some(row) = self.agents.get(name)
                && let Some(refusal) = row.status.refusal()
            {
                return Err(refusal.about(format_args!("agent {name}")));
            }
        }
        self.wide.may_act(agent, principal)?;
        Ok(behind)
    }
}

/// Copies of the values that `keep` accepts, in no order.
fn copies<K: Eq + Hash, V: Clone>(
    rows: &DashMap<K, V, RandomState>,
    keep: impl Fn(&V) -> bool,
) -> Vec<V> {
    let mut kept = Vec::new();
    for row in rows {
        if keep(row.value()) {
            kept.push(row.value().clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests;
