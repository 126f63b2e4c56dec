//! Forgets a principal: revokes everything that acts in its name, then destroys the key of its
//! records.

use std::sync::PoisonError;

use super::{Control, ControlFault};
use crate::audit::format::event::{AgentStatus, Event};
use crate::audit::format::key::RecordKeyId;
use crate::audit::store::vault::VaultFault;
use crate::id::{AgentName, Principal};
use crate::registry::Token;

/// A note for the operator that lists the data `audit forget` does not remove.
pub(super) const STAYS: &str = "what stays: log lines of the gateway; exports and disclosures that \
    were handed out; record keys in \
    backups; the names of its agents in commands about them (token-shield agent list shows the \
    stopped ones); and its own name \
    and the reasons in records of principal suspend and release. Requests of stopped agents are \
    counted by network, without a \
    name. An unregistered token in its name brings the name back with its next request: revoke \
    that token, or its key";
/// The maximum number of names in a refusal.
const LISTED: usize = 8;

/// The agents and tokens that act in a principal's name.
#[derive(Default)]
struct Acting {
    /// The active agents that act for no other principal.
    agents: Vec<AgentName>,
    /// The valid registered tokens, including those with handles.
    tokens: Vec<Token>,
}

impl Control {
    /// The note about the data of a principal that remains. The status of a stopped principal
    /// remains too, because it makes the gateway refuse its tokens.
    pub(super) fn what_stays(&self, principal: &str) -> String {
        let stopped = self.registry.stopped_principals();
        let Some((name, status)) = stopped.iter().find(|(name, _)| **name == *principal) else {
            return STAYS.to_owned();
        };
        let reason = status
            .reason()
            .map(|(since, why)| format!(" since {since}: {why}"))
            .unwrap_or_default();
        format!(
            "{STAYS}. Its status stays too, so that its requests are still refused: {name} is \
                {}{reason} (token-shield principal \
             list shows it, token-shield principal release ends it)",
            status.as_str()
        )
    }

    /// The records of a command that forgets a principal. With `revoke`, its tokens, handles and
    /// agents are revoked first.
    pub(super) fn crypto_shred_records(
        &self,
        principal: &Principal,
        revoke: bool,
        reason: Option<String>,
    ) -> Result<Vec<Event>, ControlFault> {
        let id = {
            let vault = self.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
            vault.id_of(principal.as_str()).ok_or(VaultFault::Unknown)?
        };
        let acting = self.acting(principal);
        let active = !acting.agents.is_empty()
            || acting.tokens.iter().any(|token| self.is_active(&token.agent));
        // An active agent would get a new record key with its next request. So the command would
        // have no lasting effect.
        if active && !revoke {
            return Err(ControlFault::Acting(acting.names()));
        }
        let mut events = Vec::new();
        if revoke {
            let why = || "its principal is forgotten".to_owned();
            for agent in acting.agents {
                events.push(Event::AgentStatus {
                    agent,
                    status: AgentStatus::Revoked,
                    reason: why(),
                });
            }
            for token in acting.tokens {
                events.extend(self.row_revoked(token, why())?);
            }
        }
        // The revocations come before the record that destroys the key. After a crash between them,
        // the key still exists and the command can be repeated.
        events.push(Event::Forgotten { record_key: id.to_string(), reason });
        Ok(events)
    }

    /// The agents and tokens that can still act in the principal's name.
    fn acting(&self, principal: &Principal) -> Acting {
        let now = self.clock.now();
        let live = |token: &Token| {
            token.revoked.is_none() && token.expires.is_none_or(|expires| expires > now)
        };
        let tokens: Vec<Token> =
            self.registry.tokens_for(principal).into_iter().filter(live).collect();
        // An agent with a valid token of another principal stays active.
        let others = |agent: &AgentName| {
            let mut tokens = self.registry.tokens_of(agent).into_iter().filter(live);
            tokens.any(|token| token.principal.as_ref() != Some(principal))
        };
        let own = self
            .registry
            .agents()
            .into_iter()
            .filter(|row| row.principal.as_ref() == Some(principal));
        let agents = own
            .map(|row| row.name)
            .filter(|agent| self.is_active(agent) && !others(agent))
            .collect();
        Acting { agents, tokens }
    }

    /// Whether an agent may act. An unregistered agent may.
    fn is_active(&self, agent: &AgentName) -> bool {
        self.registry
            .agent(agent.as_str())
            .is_none_or(|row| row.status.status == AgentStatus::Active)
    }

    /// Destroys a record key, and removes its principal from the state and the memory.
    pub(super) fn crypto_shred(&self, record_key: &str) -> Result<(), ControlFault> {
        let id: RecordKeyId = record_key.parse().map_err(|_| VaultFault::Unknown)?;
        let mut vault = self.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        let principal = vault
            .principals()
            .find(|(_, known)| *known == id)
            .map(|(principal, _)| principal.to_owned());
        // After a crash before this line, the record exists. Then the next start destroys the key.
        vault.destroy(&id)?;
        drop(vault);
        let Some(principal) = principal.and_then(|principal| principal.parse().ok()) else {
            return Ok(());
        };
        let own = self
            .registry
            .agents()
            .into_iter()
            .filter(|row| row.principal.as_ref() == Some(&principal));
        let agents: Vec<AgentName> = own.map(|row| row.name).collect();
        if let Some(recorder) = self.recorder.get() {
            recorder.remove_principal(&principal, &agents);
        }
        self.registry.remove_principal(&principal);
        Ok(())
    }
}

impl Acting {
    /// The names for the operator, who must stop them.
    fn names(&self) -> String {
        let tokens =
            self.tokens.iter().map(|token| format!("token {} of {}", token.id, token.agent));
        let mut names: Vec<String> = self
            .agents
            .iter()
            .map(|agent| format!("agent {agent}"))
            .chain(tokens)
            .take(LISTED + 1)
            .collect();
        if names.len() > LISTED {
            names.truncate(LISTED);
            names.push("others".to_owned());
        }
        names.join(", ")
    }
}
