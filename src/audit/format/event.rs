//! The events, and the members that their records have.

mod form;
mod written;

use crate::audit::format::fault::RecordFault;
use crate::audit::format::request::{Admission, Outcome, RefusalCounts, RefusedRequest};
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};

pub use crate::audit::format::payload::TEXT_BYTES_MAX;
pub use written::Written;

/// The maximum length of a public JWK in a record, in bytes. One for ML-DSA-65 has about 2,700.
pub const JWK_BYTES_MAX: usize = 8_192;
/// The maximum length of a handle's token, in bytes. One with an ML-DSA-65 signature has about
/// 5,600.
pub const TOKEN_BYTES_MAX: usize = 10_000;

/// An event. Reasons and versions are free text; all other texts are names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway started.
    Start {
        /// Its version.
        version: String,
        /// The hash of the rules and the config.
        policy: String,
    },
    /// The gateway stopped in a regular way, after its last request.
    Stop,
    /// Another process continues the log without a stop. Open requests stay open.
    Handover {
        /// Its version.
        version: String,
        /// The hash of the new rules and config.
        policy: String,
    },
    /// The config was read again.
    Reload {
        /// The hash of the new rules and config.
        policy: String,
    },
    /// A new epoch begins.
    Epoch {
        /// The last checkpoint of the previous epoch.
        previous: Previous,
        /// The reason.
        reason: String,
        /// After a loss: the part of the previous epoch that can still be verified.
        left: Option<Left>,
    },
    /// The wall clock stepped back.
    Clock {
        /// The size of the step, in milliseconds.
        behind_ms: u64,
        /// Whether an operator accepted it.
        accepted: bool,
    },
    /// Records of old epochs may be missing from now on.
    Pruned {
        /// The name of the last of these epochs.
        through: String,
        /// The reason, where one was given.
        reason: Option<String>,
    },
    /// A record key was destroyed. Records under it can no longer be decrypted.
    Forgotten {
        /// The record key's id.
        record_key: String,
        /// The reason, where one was given.
        reason: Option<String>,
    },
    /// The log was restored from a backup.
    Restored {
        /// The size and root in the backup's head.
        head: Previous,
    },
    /// The log was copied into a backup.
    Backup {
        /// Whether it includes the keys that decrypt and sign records.
        keys: bool,
        /// Whether it includes the private keys that sign tokens.
        operator_keys: bool,
    },
    /// Closed epochs were exported.
    Exported {
        /// The names of the epochs.
        epochs: String,
        /// The principal whose records can be decrypted, where the keys are for only one.
        principal: Option<Principal>,
        /// Whether it includes keys that decrypt records.
        keys: bool,
    },
    /// Records were disclosed with their own keys.
    Disclosed {
        /// The names of the records.
        records: String,
    },
    /// A token was signed, but not registered. Its holder can use it nevertheless.
    TokenSigned {
        /// The token's id.
        token: TokenId,
        /// Its `jti`.
        jti: String,
        /// The agent that may use it.
        agent: AgentName,
        /// The principal.
        principal: Principal,
        /// The time at which it expires.
        expires: Timestamp,
    },
    /// A new config was refused.
    ReloadRefused {
        /// The reason.
        why: String,
    },
    /// The keys of an issuer changed.
    KeysChanged {
        /// The issuer.
        issuer: String,
        /// The thumbprints of its keys.
        kids: String,
    },
    /// A model may have these weights from now on.
    ModelAccepted {
        /// The model.
        model: String,
        /// The digest of the weights.
        digest: String,
        /// The reason.
        reason: String,
    },
    /// A request was admitted.
    Admission(Box<Admission>),
    /// The end of an admitted request.
    Outcome(Box<Outcome>),
    /// An authenticated caller was refused.
    Refusal(Box<RefusedRequest>),
    /// Counts of refusals of agents.
    Refusals(Box<RefusalCounts>),
    /// Counts of refusals of unauthenticated callers.
    UnauthenticatedRefusals(Box<RefusalCounts>),
    /// An event that another process has encoded: one of the five above.
    Written(Box<Written>),
    /// An agent was registered.
    AgentRegistered {
        /// The agent.
        agent: AgentName,
        /// The principal that it acts for, where that is fixed.
        principal: Option<Principal>,
        /// Its class in the config.
        class: String,
    },
    /// The status of an agent changed.
    AgentStatus {
        /// The agent.
        agent: AgentName,
        /// The new status.
        status: AgentStatus,
        /// The reason.
        reason: String,
    },
    /// The status of a whole namespace changed. It applies to every agent in it, and to agents that
    /// are registered later.
    NamespaceStatus {
        /// The namespace: the part of an agent's name before the first slash.
        namespace: String,
        /// The new status.
        status: AgentStatus,
        /// The reason.
        reason: String,
    },
    /// The status of a principal, and of everything that acts for it, changed. The record is not
    /// under the principal's record key: a stopped principal stays stopped after it was forgotten.
    PrincipalStatus {
        /// The principal.
        principal: Principal,
        /// The new status.
        status: AgentStatus,
        /// The reason.
        reason: String,
    },
    /// A token was registered.
    TokenRegistered {
        /// The token's id.
        token: TokenId,
        /// The token's `jti`.
        jti: String,
        /// The token's `iss`.
        issuer: String,
        /// The key that signed it.
        kid: KeyId,
        /// Its agent.
        agent: AgentName,
        /// Its principal.
        principal: Principal,
        /// The time at which it expires.
        expires: Timestamp,
    },
    /// A token was revoked.
    TokenRevoked {
        /// The token's id.
        token: TokenId,
        /// The token's `jti`.
        jti: String,
        /// Its agent.
        agent: AgentName,
        /// The reason.
        reason: String,
    },
    /// A handle got a token, which replaces the previous one.
    HandleSet {
        /// The handle's id.
        handle: HandleId,
        /// The signed token. From this record on, it is accepted only through the handle.
        token: String,
        /// The token's id.
        id: TokenId,
        /// Its agent.
        agent: AgentName,
        /// Its principal.
        principal: Principal,
        /// The time until which the handle may get tokens, where that is fixed.
        until: Option<Timestamp>,
    },
    /// A handle was revoked.
    HandleRevoked {
        /// The handle's id.
        handle: HandleId,
        /// Its agent.
        agent: AgentName,
        /// The reason.
        reason: String,
    },
    /// A key was added: it may sign tokens from now on.
    KeyAdded {
        /// The `iss` of its tokens.
        issuer: String,
        /// The public JWK in canonical JSON.
        jwk: String,
        /// Its thumbprint.
        kid: KeyId,
    },
    /// A key was retired: it signs no new tokens, and its earlier tokens stay valid until they
    /// expire.
    KeyRetired {
        /// Its thumbprint.
        kid: KeyId,
        /// The time from which it applies, where it is not at once.
        from: Option<Timestamp>,
        /// The reason.
        reason: String,
    },
    /// A key, and every token that it signed, was revoked.
    KeyRevoked {
        /// Its thumbprint.
        kid: KeyId,
        /// The reason.
        reason: String,
    },
}

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its origin.
    pub origin: String,
    /// The number of records under its last checkpoint.
    pub size: u64,
    /// The root over them, in base64.
    pub root: String,
}

/// The part that is left of an epoch after a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The number of records from the first one.
    pub size: u64,
    /// The root over them, in base64.
    pub root: String,
}

/// The status of an agent, which an operator's command sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStatus {
    /// The agent may do what its token grants.
    Active,
    /// The agent may not act for now: an operator has paused it.
    Suspended,
    /// The agent may not act for now, because of a suspicion.
    Quarantined,
    /// The agent may never act again.
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
    /// The event's kind, as in the record and in metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            // These words are part of the log's format. Another word would make old records
            // unreadable.
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

    /// The principal of the event. The record is encrypted under its record key.
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
            // These records stay readable after `audit forget`, because a revocation must stay
            // valid. So they are under the gateway's own key.
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

    /// Whether the event changes the state. A start reads such records again.
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

    /// Whether the event only occurs when the gateway serves requests. Such an event may be
    /// refused.
    #[must_use]
    pub fn is_new_work(&self) -> bool {
        // A refusal counts as new work: one that cannot be recorded is counted instead.
        matches!(self.kind(), "admission" | "refusal")
    }

    /// Whether the event has a guaranteed slot in the queue. An outcome gets it with its admission.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.kind() == "outcome"
    }

    /// Checks that every name in the event can be recorded without a cut. Free text is cut instead.
    ///
    /// # Errors
    /// The first name that is too long.
    pub fn fits(&self) -> Result<(), RecordFault> {
        // A name that is cut would name another thing, so it is refused.
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
