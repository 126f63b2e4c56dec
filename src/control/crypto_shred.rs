//! Forgets a principal: revokes everything that acts in its name, then destroys the key of its
//! records.

use super::{Control, ControlFault};
use crate::audit::format::event::{AgentStatus, Event};
use crate::audit::format::key::RecordKeyId;
use crate::audit::store::vault::{Vault, VaultFault};
use crate::clock::Timestamp;
use crate::id::{AgentName, Principal};
use crate::lock::locked;
use crate::registry::Token;

/// A note for the operator that lists the data `audit forget` does not remove.
pub(super) const STAYS: &str = "what stays: log lines of the gateway; exports and disclosures that \
    were handed out; record keys in backups; the names of its agents in commands about them \
    (token-shield agent list shows the stopped ones); and its own name and the reasons in records \
    of principal suspend and release. Requests of stopped agents are counted by network, without a \
    name. An unregistered token in its name brings the name back with its next request: revoke \
    that token, or its key";
/// The reason in the records that revoke the agents and tokens of a forgotten principal.
const FORGOTTEN: &str = "its principal is forgotten";
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
        let reason = match status.reason() {
            Some((since, why)) => format!(" since {since}: {why}"),
            None => String::new(),
        };
        format!(
            "{STAYS}. Its status stays too, so that its requests are still refused: {name} is \
                {}{reason} (token-shield principal list shows it, token-shield principal release \
                ends it)",
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
        let id = locked(self.log.vault()).id_of(principal.as_str());
        let Some(id) = id else { return Err(VaultFault::Unknown.into()) };
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
            for agent in acting.agents {
                events.push(Event::AgentStatus {
                    agent,
                    status: AgentStatus::Revoked,
                    reason: FORGOTTEN.to_owned(),
                });
            }
            for token in acting.tokens {
                for event in self.row_revoked(token, FORGOTTEN.to_owned())? {
                    // Several tokens of one handle revoke the handle once.
                    if !events.contains(&event) {
                        events.push(event);
                    }
                }
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
        let mut tokens = self.registry.tokens_for(principal);
        tokens.retain(|token| token.is_live(now));
        let mut agents = self.registry.agents_for(principal);
        // An agent with a valid token of another principal stays active.
        agents
            .retain(|agent| self.is_active(agent) && !self.acts_for_another(agent, principal, now));
        Acting { agents, tokens }
    }

    /// Whether an agent has a valid registered token of another principal than this one.
    fn acts_for_another(&self, agent: &AgentName, principal: &Principal, now: Timestamp) -> bool {
        let tokens = self.registry.tokens_of(agent);
        tokens.iter().any(|token| token.is_live(now) && token.principal.as_ref() != Some(principal))
    }

    /// Whether an agent may act. An unregistered agent may.
    fn is_active(&self, agent: &AgentName) -> bool {
        match self.registry.agent(agent.as_str()) {
            Some(row) => row.status.status == AgentStatus::Active,
            None => true,
        }
    }

    /// Destroys a record key, and removes its principal from the state and the memory.
    ///
    /// An error means that the file may still have the key. The next start overwrites it.
    pub(super) fn crypto_shred(&self, record_key: &str) -> Result<(), VaultFault> {
        let id: RecordKeyId = record_key.parse().map_err(|_| VaultFault::Unknown)?;
        let mut vault = locked(self.log.vault());
        let principal = principal_of(&vault, &id);
        // After a crash before this line, the record exists. Then the next start destroys the key.
        let destroyed = vault.destroy(&id);
        drop(vault);
        let Some(principal) = principal else { return destroyed };
        let agents = self.registry.agents_for(&principal);
        if let Some(recorder) = self.recorder.get() {
            recorder.remove_principal(&principal, &agents);
        }
        self.registry.remove_principal(&principal);
        destroyed
    }
}

/// The principal of a record key, if the vault has the key.
fn principal_of(vault: &Vault, id: &RecordKeyId) -> Option<Principal> {
    let (name, _) = vault.principals().find(|(_, known)| known == id)?;
    name.parse().ok()
}

impl Acting {
    /// The names for the operator, who must stop them.
    fn names(&self) -> String {
        let mut names = Vec::new();
        // One more than is listed shows that there are others.
        for agent in self.agents.iter().take(LISTED + 1) {
            names.push(format!("agent {agent}"));
        }
        for token in self.tokens.iter().take(LISTED + 1) {
            names.push(format!("token {} of {}", token.id, token.agent));
        }
        if names.len() > LISTED {
            names.truncate(LISTED);
            names.push("others".to_owned());
        }
        names.join(", ")
    }
}
