//! Whether somebody may act: an agent, a namespace with all its agents, a principal with all that acts in its name.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

use crate::audit::format::event::Standing as Stands;
use crate::clock::Timestamp;
use crate::id::{AgentName, Principal};
use crate::refusal::{Code, Refusal};

/// Whether an agent may act; a "no" carries since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may act.
    Active,
    /// Stopped by an operator until resumed.
    Suspended {
        /// Since when.
        since: Timestamp,
        /// The operator's reason.
        why: String,
    },
    /// Stopped for examination until released.
    Quarantined {
        /// Since when.
        since: Timestamp,
        /// The operator's reason.
        why: String,
    },
    /// Stopped for good.
    Revoked {
        /// Since when.
        since: Timestamp,
        /// The operator's reason.
        why: String,
    },
}

impl Standing {
    pub(super) fn of(stands: Stands, since: Timestamp, why: &str) -> Self {
        let why = why.to_owned();
        match stands {
            Stands::Active => Self::Active,
            Stands::Suspended => Self::Suspended { since, why },
            Stands::Quarantined => Self::Quarantined { since, why },
            Stands::Revoked => Self::Revoked { since, why },
        }
    }

    /// The standing's name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended { .. } => "suspended",
            Self::Quarantined { .. } => "quarantined",
            Self::Revoked { .. } => "revoked",
        }
    }

    /// Since when and why, where it is not active.
    #[must_use]
    pub fn reason(&self) -> Option<(Timestamp, &str)> {
        match self {
            Self::Active => None,
            Self::Suspended { since, why } | Self::Quarantined { since, why } | Self::Revoked { since, why } => {
                Some((*since, why))
            }
        }
    }

    /// The refusal that this standing means.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let code = match self {
            Self::Active => return None,
            Self::Suspended { .. } => Code::AgentSuspended,
            Self::Quarantined { .. } => Code::AgentQuarantined,
            Self::Revoked { .. } => Code::AgentRevoked,
        };
        let refusal = Refusal::new(code);
        Some(match self.reason() {
            Some((since, why)) => refusal.because(format_args!("since {since}: {why}")),
            None => refusal,
        })
    }
}

/// Standings of more than one agent: of namespaces and of principals. Only those that are stopped have a row.
#[derive(Default)]
pub(super) struct Wide {
    namespaces: DashMap<Arc<str>, Standing, RandomState>,
    principals: DashMap<Arc<str>, Standing, RandomState>,
}

fn put(rows: &DashMap<Arc<str>, Standing, RandomState>, name: &str, standing: Standing) {
    if standing == Standing::Active {
        rows.remove(name);
    } else {
        rows.insert(name.into(), standing);
    }
}

fn standing_in(rows: &DashMap<Arc<str>, Standing, RandomState>, name: &str) -> Standing {
    rows.get(name).map_or(Standing::Active, |row| row.clone())
}

fn sorted(rows: &DashMap<Arc<str>, Standing, RandomState>) -> Vec<(Arc<str>, Standing)> {
    let mut found: Vec<_> = rows.iter().map(|row| (Arc::clone(row.key()), row.value().clone())).collect();
    found.sort_by(|left, right| left.0.cmp(&right.0));
    found
}

impl Wide {
    pub(super) fn set_namespace(&self, name: &str, standing: Standing) {
        put(&self.namespaces, name, standing);
    }

    pub(super) fn set_principal(&self, name: &Principal, standing: Standing) {
        put(&self.principals, name.as_str(), standing);
    }

    pub(super) fn namespace(&self, name: &str) -> Standing {
        standing_in(&self.namespaces, name)
    }

    pub(super) fn principal(&self, name: &Principal) -> Standing {
        standing_in(&self.principals, name.as_str())
    }

    pub(super) fn namespaces(&self) -> Vec<(Arc<str>, Standing)> {
        sorted(&self.namespaces)
    }

    pub(super) fn principals(&self) -> Vec<(Arc<str>, Standing)> {
        sorted(&self.principals)
    }

    /// Whether the agent's namespace and its principal may act.
    ///
    /// # Errors
    /// The refusal of the first that may not.
    pub(super) fn may_act(&self, agent: &AgentName, principal: &Principal) -> Result<(), Refusal> {
        if let Some(refusal) = self.namespaces.get(agent.namespace()).and_then(|row| row.refusal()) {
            return Err(refusal.because(format_args!("namespace {}", agent.namespace())));
        }
        match self.principals.get(principal.as_str()).and_then(|row| row.reason().map(|(since, why)| (since, why.to_owned()))) {
            None => Ok(()),
            Some((since, why)) => Err(Refusal::new(Code::PrincipalSuspended).because(format_args!("since {since}: {why}"))),
        }
    }
}
