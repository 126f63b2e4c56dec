//! What can happen, and the members that a record keeps of it.

mod form;
mod written;

use crate::audit::format::fault::RecordFault;
use crate::audit::format::request::{Admission, Outcome, RefusalCounts, RefusedRequest};
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};

pub use crate::audit::format::payload::TEXT_BYTES_MAX;
pub use written::Written;

/// Bytes of a public JWK in a record at the most; one for ML-DSA-65 has about 2,700.
pub const JWK_BYTES_MAX: usize = 8_192;
/// Bytes of a token behind a handle at the most; one signed with ML-DSA-65 has about 5,600.
pub const TOKEN_BYTES_MAX: usize = 10_000;

/// What can happen. Reasons and versions are free text; everything else names something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway started.
    Start {
        /// Its version.
        version: String,
        /// The hash of the rules and config in force.
        policy: String,
    },
    /// The gateway stopped in good order.
    Stop,
    /// Another process goes on with the log, without a stop: what is open stays open.
    Handover {
        /// Its version.
        version: String,
        /// The hash of the rules and config in force from now on.
        policy: String,
    },
    /// The config was read again.
    Reload {
        /// The hash of the rules and config in force from now on.
        policy: String,
    },
    /// A new epoch begins.
    Epoch {
        /// The last checkpoint of the one before.
        previous: Previous,
        /// Why.
        reason: String,
        /// After a loss: what is left of the one before, as far as it can be verified.
        left: Option<Left>,
    },
    /// The wall clock stepped back.
    Clock {
        /// By how much, in milliseconds.
        behind_ms: u64,
        /// Whether an operator said that it is right so.
        accepted: bool,
    },
    /// The records of old epochs may be missing from now on.
    Pruned {
        /// The last such epoch's name.
        through: String,
        /// Why, where it was said.
        reason: Option<String>,
    },
    /// A record key was destroyed: nothing under it can be read any more.
    Forgotten {
        /// The record key's id.
        record_key: String,
        /// Why, where it was said.
        reason: Option<String>,
    },
    /// The log was restored from a backup.
    Restored {
        /// What the backup's head said: how much of the log there was.
        head: Previous,
    },
    /// The log was copied into a backup.
    Backup {
        /// With what opens and signs records.
        keys: bool,
        /// With the private keys that tokens are signed with.
        operator_keys: bool,
    },
    /// Closed epochs were handed out.
    Exported {
        /// Their names, one behind the other.
        epochs: String,
        /// Whose records can be read with the keys that went along, where they are of one principal.
        principal: Option<Principal>,
        /// With keys that open records.
        keys: bool,
    },
    /// Records were handed out with their own keys.
    Disclosed {
        /// Their names, one behind the other.
        records: String,
    },
    /// A token was signed and not registered. Its holder can use it even so.
    TokenSigned {
        /// Its identity.
        token: TokenId,
        /// Its `jti`.
        jti: String,
        /// Whom it is for.
        agent: AgentName,
        /// In whose name.
        principal: Principal,
        /// Until when.
        expires: Timestamp,
    },
    /// The config was to be read again, and was refused.
    ReloadRefused {
        /// Why.
        why: String,
    },
    /// An issuer's keys are others now.
    KeysChanged {
        /// The issuer.
        issuer: String,
        /// The thumbprints of its keys, one behind the other.
        kids: String,
    },
    /// A model may have these weights from now on.
    ModelAccepted {
        /// The model.
        model: String,
        /// Their digest.
        digest: String,
        /// Why.
        reason: String,
    },
    /// A request is let through.
    Admission(Box<Admission>),
    /// What became of it.
    Outcome(Box<Outcome>),
    /// A known caller is told no.
    Refusal(Box<RefusedRequest>),
    /// Refusals of agents, counted.
    Refusals(Box<RefusalCounts>),
    /// Refusals of callers who were not known, counted.
    UnauthenticatedRefusals(Box<RefusalCounts>),
    /// What another process has written down for this one to record: one of the five above.
    Written(Box<Written>),
    /// An agent became known.
    AgentRegistered {
        /// The agent.
        agent: AgentName,
        /// In whose name it acts, where that is fixed.
        principal: Option<Principal>,
        /// Its class in the config.
        class: String,
    },
    /// An agent's standing changed.
    AgentStatus {
        /// The agent.
        agent: AgentName,
        /// The new standing.
        status: AgentStatus,
        /// Why.
        reason: String,
    },
    /// The standing of a whole namespace changed: of every agent in it, also of those that are registered later.
    NamespaceStatus {
        /// The namespace: the part of an agent's name before the first slash.
        namespace: String,
        /// The new standing.
        status: AgentStatus,
        /// Why.
        reason: String,
    },
    /// The standing of everything that acts for a principal changed. Not under the principal's record key: a principal that is
    /// stopped stays so when it is forgotten.
    PrincipalStatus {
        /// The principal.
        principal: Principal,
        /// The new standing.
        status: AgentStatus,
        /// Why.
        reason: String,
    },
    /// A token was issued here.
    TokenRegistered {
        /// The token's identity.
        token: TokenId,
        /// Its label.
        jti: String,
        /// The token's `iss`.
        issuer: String,
        /// The key that signed it.
        kid: KeyId,
        /// Its agent.
        agent: AgentName,
        /// Its principal.
        principal: Principal,
        /// When it ends.
        expires: Timestamp,
    },
    /// A token was revoked.
    TokenRevoked {
        /// The token's identity.
        token: TokenId,
        /// Its label.
        jti: String,
        /// Its agent.
        agent: AgentName,
        /// Why.
        reason: String,
    },
    /// A handle stands for a token from now on, in the place of the one before.
    HandleSet {
        /// The handle's identity.
        handle: HandleId,
        /// The signed token. Wherever this record is known it is taken by the handle alone.
        token: String,
        /// The token's identity.
        id: TokenId,
        /// Its agent.
        agent: AgentName,
        /// Its principal.
        principal: Principal,
        /// Until when tokens may be put behind it, where that is fixed.
        until: Option<Timestamp>,
    },
    /// A handle is void.
    HandleRevoked {
        /// The handle's identity.
        handle: HandleId,
        /// Its agent.
        agent: AgentName,
        /// Why.
        reason: String,
    },
    /// A key may sign tokens from now on.
    KeyAdded {
        /// For which `iss`.
        issuer: String,
        /// The public JWK in canonical JSON.
        jwk: String,
        /// Its thumbprint.
        kid: KeyId,
    },
    /// A key signs no new tokens; those that it signed hold until they end.
    KeyRetired {
        /// Its thumbprint.
        kid: KeyId,
        /// From when on, where that is not at once.
        from: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// A key and every token that it signed are void.
    KeyRevoked {
        /// Its thumbprint.
        kid: KeyId,
        /// Why.
        reason: String,
    },
}

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its origin.
    pub origin: String,
    /// How many records its last checkpoint covers.
    pub size: u64,
    /// The root over them, in base64.
    pub root: String,
}

/// What is left of an epoch of which something was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// So many records from the first on.
    pub size: u64,
    /// The root over them, in base64.
    pub root: String,
}

/// What an agent may do at all, as an operator's command sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStatus {
    /// What its token grants.
    Active,
    /// Nothing for now: an operator paused it.
    Suspended,
    /// Nothing for now: something looked wrong.
    Quarantined,
    /// Nothing ever again.
    Revoked,
}

/// Every status with its word.
pub(super) const STATUSES: [(AgentStatus, &str); 4] = [
    (AgentStatus::Active, "active"),
    (AgentStatus::Suspended, "suspended"),
    (AgentStatus::Quarantined, "quarantined"),
    (AgentStatus::Revoked, "revoked"),
];

impl AgentStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Active, Self::Suspended, Self::Quarantined, Self::Revoked];

    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }
}

impl Event {
    /// The event's word: `kind` in the record and in metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop => "stop",
            Self::AgentRegistered { .. } => "agent-registered",
            Self::AgentStatus { .. } => "agent-status",
            Self::NamespaceStatus { .. } => "namespace-status",
            Self::PrincipalStatus { .. } => "principal-status",
            Self::TokenRegistered { .. } => "token-registered",
            Self::TokenRevoked { .. } => "token-revoked",
            Self::HandleSet { .. } => "handle-set",
            Self::HandleRevoked { .. } => "handle-revoked",
            Self::KeyAdded { .. } => "key-added",
            Self::KeyRetired { .. } => "key-retired",
            Self::KeyRevoked { .. } => "key-revoked",
            Self::Reload { .. } => "reload",
            Self::Handover { .. } => "handover",
            Self::Epoch { .. } => "epoch",
            Self::Pruned { .. } => "pruned",
            Self::Clock { .. } => "clock",
            Self::Forgotten { .. } => "forgotten",
            Self::Restored { .. } => "restored",
            Self::Backup { .. } => "backup",
            Self::Exported { .. } => "exported",
            Self::Disclosed { .. } => "disclosed",
            Self::TokenSigned { .. } => "token-signed",
            Self::ReloadRefused { .. } => "reload-refused",
            Self::KeysChanged { .. } => "keys-changed",
            Self::ModelAccepted { .. } => "model-accepted",
            Self::Admission(_) => "admission",
            Self::Outcome(_) => "outcome",
            Self::Refusal(_) => "refusal",
            Self::Refusals(_) => "refusals",
            Self::UnauthenticatedRefusals(_) => "unauthenticated-refusals",
            Self::Written(written) => written.kind(),
        }
    }

    /// In whose name it happened: whose record key seals it.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        match self {
            Self::AgentRegistered { principal, .. } | Self::Exported { principal, .. } => {
                principal.as_ref()
            }
            Self::TokenRegistered { principal, .. }
            | Self::TokenSigned { principal, .. }
            | Self::HandleSet { principal, .. } => Some(principal),
            Self::Admission(admission) => Some(&admission.about.caller.principal),
            Self::Outcome(outcome) => Some(&outcome.about.caller.principal),
            Self::Refusal(refused) => Some(&refused.about.caller.principal),
            Self::Written(written) => written.principal.as_ref(),
            Self::Refusals(counts) => counts.principal.as_ref(),
            Self::Start { .. }
            | Self::Stop
            | Self::Reload { .. }
            | Self::Handover { .. }
            | Self::Epoch { .. }
            | Self::Pruned { .. }
            | Self::Clock { .. }
            | Self::Forgotten { .. }
            | Self::Restored { .. }
            | Self::Backup { .. }
            | Self::Disclosed { .. }
            | Self::ReloadRefused { .. }
            | Self::KeysChanged { .. }
            | Self::ModelAccepted { .. }
            | Self::AgentStatus { .. }
            | Self::NamespaceStatus { .. }
            | Self::PrincipalStatus { .. }
            | Self::TokenRevoked { .. }
            | Self::HandleRevoked { .. }
            | Self::KeyAdded { .. }
            | Self::KeyRetired { .. }
            | Self::KeyRevoked { .. }
            | Self::UnauthenticatedRefusals(_) => None,
        }
    }

    /// True of what changes the books: a start reads it again.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        !matches!(
            self,
            Self::Admission(_)
                | Self::Outcome(_)
                | Self::Refusal(_)
                | Self::Refusals(_)
                | Self::UnauthenticatedRefusals(_)
                | Self::Written(_)
        )
    }

    /// True of what only comes up where somebody is served: it can be turned away.
    #[must_use]
    pub fn is_new_work(&self) -> bool {
        matches!(self.kind(), "admission" | "refusal")
    }

    /// True of what was promised a place when its admission got one.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.kind() == "outcome"
    }

    /// Whether every name in the event can be recorded whole. Free text need not: it is cut.
    ///
    /// # Errors
    /// The first name that is too long.
    pub fn fits(&self) -> Result<(), RecordFault> {
        for (member, text, most) in match self {
            Self::AgentRegistered { class, .. } => vec![("class", class, TEXT_BYTES_MAX)],
            Self::TokenRegistered { jti, issuer, .. } => {
                vec![("jti", jti, TEXT_BYTES_MAX), ("issuer", issuer, TEXT_BYTES_MAX)]
            }
            Self::TokenRevoked { jti, .. } | Self::TokenSigned { jti, .. } => {
                vec![("jti", jti, TEXT_BYTES_MAX)]
            }
            Self::HandleSet { token, .. } => vec![("token", token, TOKEN_BYTES_MAX)],
            Self::KeyAdded { issuer, jwk, .. } => {
                vec![("issuer", issuer, TEXT_BYTES_MAX), ("jwk", jwk, JWK_BYTES_MAX)]
            }
            Self::ModelAccepted { model, digest, .. } => {
                vec![("model", model, TEXT_BYTES_MAX), ("digest", digest, TEXT_BYTES_MAX)]
            }
            Self::Exported { epochs, .. } => vec![("epochs", epochs, JWK_BYTES_MAX)],
            Self::Disclosed { records } => vec![("records", records, JWK_BYTES_MAX)],
            Self::Start { .. }
            | Self::Stop
            | Self::Reload { .. }
            | Self::Handover { .. }
            | Self::Epoch { .. }
            | Self::Pruned { .. }
            | Self::Clock { .. }
            | Self::Forgotten { .. }
            | Self::Restored { .. }
            | Self::Backup { .. }
            | Self::ReloadRefused { .. }
            | Self::KeysChanged { .. }
            | Self::Admission(_)
            | Self::Outcome(_)
            | Self::Refusal(_)
            | Self::Refusals(_)
            | Self::UnauthenticatedRefusals(_)
            | Self::Written(_)
            | Self::AgentStatus { .. }
            | Self::NamespaceStatus { .. }
            | Self::PrincipalStatus { .. }
            | Self::HandleRevoked { .. }
            | Self::KeyRetired { .. }
            | Self::KeyRevoked { .. } => {
                vec![]
            }
        } {
            if text.len() > most {
                return Err(RecordFault::TooLong { member, bytes: text.len(), most });
            }
        }
        Ok(())
    }
}
