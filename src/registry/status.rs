//! The status of agents, of namespaces with all their agents, and of principals with all agents
//! that act for them.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

use crate::audit::format::event::AgentStatus;
use crate::clock::Timestamp;
use crate::id::{AgentName, Principal};
use crate::refusal::{Code, Refusal};

/// The status of an agent, a namespace or a principal. If it is stopped, also the time and the
/// reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// The status.
    pub status: AgentStatus,
    since: Timestamp,
    why: String,
}

impl StatusChange {
    /// The status of a name that no operator has stopped.
    pub(super) const ACTIVE: Self =
        Self { status: AgentStatus::Active, since: Timestamp(0), why: String::new() };

    /// The status with its time and reason. An active name has neither.
    pub(super) fn new(status: AgentStatus, since: Timestamp, why: &str) -> Self {
        match status {
            // The reason of a release is in the log only.
            AgentStatus::Active => Self::ACTIVE,
            AgentStatus::Suspended | AgentStatus::Quarantined | AgentStatus::Revoked => {
                Self { status, since, why: why.to_owned() }
            }
        }
    }

    /// The status's name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        self.status.as_str()
    }

    /// The time and the reason of a status, if it is not active.
    #[must_use]
    pub fn reason(&self) -> Option<(Timestamp, &str)> {
        match self.status {
            AgentStatus::Active => None,
            AgentStatus::Suspended | AgentStatus::Quarantined | AgentStatus::Revoked => {
                Some((self.since, &self.why))
            }
        }
    }

    /// The refusal that this status causes; none if it is active.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let code = match self.status {
            AgentStatus::Active => return None,
            AgentStatus::Suspended => Code::AgentSuspended,
            AgentStatus::Quarantined => Code::AgentQuarantined,
            AgentStatus::Revoked => Code::AgentRevoked,
        };
        Some(Refusal::new(code).because(format_args!("since {}: {}", self.since, self.why)))
    }
}

/// The status of namespaces and of principals. Only a stopped name has an entry.
#[derive(Default)]
pub(super) struct Wide {
    namespaces: DashMap<Arc<str>, StatusChange, RandomState>,
    principals: DashMap<Arc<str>, StatusChange, RandomState>,
}

/// Sets the entry of a name.
fn put(rows: &DashMap<Arc<str>, StatusChange, RandomState>, name: &str, status: StatusChange) {
    // An active name needs no entry, so that released names use no memory.
    if status.status == AgentStatus::Active {
        rows.remove(name);
    } else {
        rows.insert(name.into(), status);
    }
}

/// The status of a name; active if it has no entry.
fn status_in(rows: &DashMap<Arc<str>, StatusChange, RandomState>, name: &str) -> StatusChange {
    match rows.get(name) {
        Some(row) => row.clone(),
        None => StatusChange::ACTIVE,
    }
}

/// All entries, by name.
fn sorted(rows: &DashMap<Arc<str>, StatusChange, RandomState>) -> Vec<(Arc<str>, StatusChange)> {
    let mut found = Vec::new();
    for row in rows {
        found.push((Arc::clone(row.key()), row.value().clone()));
    }
    // The map has no order, and the output of a command must be stable.
    found.sort_by(|left, right| left.0.cmp(&right.0));
    found
}

impl Wide {
    pub(super) fn set_namespace(&self, name: &str, status: StatusChange) {
        put(&self.namespaces, name, status);
    }

    pub(super) fn set_principal(&self, name: &Principal, status: StatusChange) {
        put(&self.principals, name.as_str(), status);
    }

    pub(super) fn namespace(&self, name: &str) -> StatusChange {
        status_in(&self.namespaces, name)
    }

    pub(super) fn principal(&self, name: &Principal) -> StatusChange {
        status_in(&self.principals, name.as_str())
    }

    pub(super) fn namespaces(&self) -> Vec<(Arc<str>, StatusChange)> {
        sorted(&self.namespaces)
    }

    pub(super) fn principals(&self) -> Vec<(Arc<str>, StatusChange)> {
        sorted(&self.principals)
    }

    /// Whether the agent's namespace and its principal may act.
    ///
    /// # Errors
    /// The refusal of the first that may not.
    pub(super) fn may_act(&self, agent: &AgentName, principal: &Principal) -> Result<(), Refusal> {
        if let Some(row) = self.namespaces.get(agent.namespace())
            && let Some(refusal) = row.refusal()
        {
            // The detail, which the log and operators see, names the namespace. The caller sees
            // only the code.
            return Err(refusal.about(format_args!("namespace {}", agent.namespace())));
        }
        if let Some(row) = self.principals.get(principal.as_str())
            && let Some((since, why)) = row.reason()
        {
            let refusal = Refusal::new(Code::PrincipalSuspended);
            return Err(refusal.because(format_args!("since {since}: {why}")));
        }
        Ok(())
    }
}
