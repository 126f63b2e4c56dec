//! A principal is forgotten: whoever acts in its name is stopped first, then the key of its records is destroyed.

use std::sync::PoisonError;

use super::{Control, ControlFault};
use crate::audit::format::event::{Event, Standing};
use crate::audit::format::key::RecordKeyId;
use crate::audit::store::vault::VaultFault;
use crate::id::{AgentName, Principal};
use crate::registry::{Standing as Stands, Token};

/// What an operator should know who has a principal forgotten.
pub(super) const STAYS: &str = "what stays: the gateway's log lines outside this log, exports and disclosures that were handed out, \
    record keys in backups, the names of its agents in commands about them (token-shield agent list shows those that were \
    stopped), and its own name, with the reasons, in records of principal suspend and release. What was stopped and asks again is \
    counted by its network, without a name. A token in its name that is not registered here brings the name back with its next \
    request: revoke it, or its key";
/// Names that a refusal lists.
const LISTED: usize = 8;

/// Who acts in a principal's name.
#[derive(Default)]
struct Acting {
    /// Its agents that are active, and serve no other principal.
    agents: Vec<AgentName>,
    /// Its registered tokens that still hold, those behind handles too.
    tokens: Vec<Token>,
}

impl Control {
    /// What stays of a principal after it is forgotten: its standing too, where it is stopped, for that keeps its tokens out.
    pub(super) fn what_stays(&self, principal: &str) -> String {
        let stopped = self.registry.stopped_principals();
        let Some((name, standing)) = stopped.iter().find(|(name, _)| **name == *principal) else { return STAYS.to_owned() };
        let reason = standing.reason().map(|(since, why)| format!(" since {since}: {why}")).unwrap_or_default();
        format!(
            "{STAYS}. Its standing stays too, so that it goes on to be refused: {name} is {}{reason} (token-shield principal list \
             shows it, token-shield principal release ends it)",
            standing.as_str()
        )
    }

    /// The records of a principal that is forgotten: with `revoke` those of its tokens, handles and agents being revoked before.
    pub(super) fn forgotten(
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
        let active = !acting.agents.is_empty() || acting.tokens.iter().any(|token| self.is_active(&token.agent));
        if active && !revoke {
            return Err(ControlFault::Acting(acting.names()));
        }
        let mut events = Vec::new();
        if revoke {
            let why = || "its principal is forgotten".to_owned();
            for agent in acting.agents {
                events.push(Event::AgentStanding { agent, standing: Standing::Revoked, reason: why() });
            }
            for token in acting.tokens {
                events.extend(self.row_revoked(token, why())?);
            }
        }
        events.push(Event::Forgotten { record_key: id.to_string(), reason });
        Ok(events)
    }

    fn acting(&self, principal: &Principal) -> Acting {
        let now = self.clock.now();
        let live = |token: &Token| token.revoked.is_none() && token.expires.is_none_or(|expires| expires > now);
        let tokens: Vec<Token> = self.registry.tokens_for(principal).into_iter().filter(live).collect();
        let others = |agent: &AgentName| {
            let mut tokens = self.registry.tokens_of(agent).into_iter().filter(live);
            tokens.any(|token| token.principal.as_ref() != Some(principal))
        };
        let own = self.registry.agents().into_iter().filter(|row| row.principal.as_ref() == Some(principal));
        let agents = own.map(|row| row.name).filter(|agent| self.is_active(agent) && !others(agent)).collect();
        Acting { agents, tokens }
    }

    fn is_active(&self, agent: &AgentName) -> bool {
        self.registry.agent(agent.as_str()).is_none_or(|row| row.standing == Stands::Active)
    }

    /// Destroys a record key, and lets the books and the memory go of whom it was for.
    pub(super) fn forget(&self, record_key: &str) -> Result<(), ControlFault> {
        let id: RecordKeyId = record_key.parse().map_err(|_| VaultFault::Unknown)?;
        let mut vault = self.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        let principal = vault.principals().find(|(_, known)| *known == id).map(|(principal, _)| principal.to_owned());
        // Crash before this: the record stands, and the next start destroys the key.
        vault.destroy(&id)?;
        drop(vault);
        let Some(principal) = principal.and_then(|principal| principal.parse().ok()) else { return Ok(()) };
        let own = self.registry.agents().into_iter().filter(|row| row.principal.as_ref() == Some(&principal));
        let agents: Vec<AgentName> = own.map(|row| row.name).collect();
        if let Some(pen) = self.pen.get() {
            pen.forget(&principal, &agents);
        }
        self.registry.forget(&principal);
        Ok(())
    }
}

impl Acting {
    /// Who it is, for whoever is to stop them.
    fn names(&self) -> String {
        let tokens = self.tokens.iter().map(|token| format!("token {} of {}", token.id, token.agent));
        let mut names: Vec<String> =
            self.agents.iter().map(|agent| format!("agent {agent}")).chain(tokens).take(LISTED + 1).collect();
        if names.len() > LISTED {
            names.truncate(LISTED);
            names.push("others".to_owned());
        }
        names.join(", ")
    }
}
