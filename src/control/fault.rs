//! The reasons why a command is refused.

use crate::audit::store::log::LogFault;
use crate::audit::store::vault::VaultFault;
use crate::id::NameFault;
use crate::refusal::Refusal;

/// The reasons why a command is refused. The state is unchanged, except for [`ControlFault::Half`].
#[derive(Debug, thiserror::Error)]
pub enum ControlFault {
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// A class that the config does not have.
    #[error("there is no [class.{0}] in the config")]
    Class(String),
    /// A name that is not registered.
    #[error("{name} is not registered{near}; the state is unchanged")]
    Unknown {
        /// The agent, namespace or principal.
        name: String,
        /// The rest of the sentence: similar names, and the option that accepts this name.
        near: String,
    },
    /// A name that both an agent and a namespace may have.
    #[error(
        "{0} is ambiguous: the agent default/{0} or the whole namespace {0}/*; name one of them; \
            the state is unchanged"
    )]
    Ambiguous(String),
    /// A change that the current status does not allow.
    #[error("{agent} is {status}; {hint}")]
    Status {
        /// The agent.
        agent: String,
        /// The status.
        status: &'static str,
        /// The allowed changes.
        hint: &'static str,
    },
    /// A token that does not verify.
    #[error("the gateway refuses the token: {0}")]
    Token(String),
    /// No such token or handle. The message does not repeat the input, because it may be a secret.
    #[error("no such token or handle is registered; token-shield agent show AGENT lists them")]
    UnknownToken,
    /// A handle that already has a token.
    #[error("the handle already has a token of {0}")]
    HandleTaken(String),
    /// A change of a handle that is not possible.
    #[error("handle: {0}")]
    Handle(&'static str),
    /// A `jti` that several tokens have.
    #[error("several tokens have the jti {0:?}; name the token's id")]
    AmbiguousToken(String),
    /// A key that is invalid, or that the keyring does not have.
    #[error("key: {0}")]
    Key(String),
    /// An invalid time.
    #[error(transparent)]
    Moment(#[from] crate::clock::TimestampFault),
    /// A model whose weights cannot be accepted.
    #[error("model {0}: {1}")]
    Model(String, &'static str),
    /// A principal that cannot be forgotten, because agents can still act in its name.
    #[error(
        "agents can still act in its name, and would be recorded again: {0}; revoke them first, or \
            use --revoke"
    )]
    Acting(String),
    /// A reason is missing.
    #[error("a reason of 1 to 256 bytes is required (--reason)")]
    Reason,
    /// A principal without a record key.
    #[error(transparent)]
    Vault(#[from] VaultFault),
    /// The command could not be recorded.
    #[error("the command could not be recorded, so the state is unchanged: {0}")]
    Log(#[from] LogFault),
    /// Only the first records of a command could be written.
    #[error(
        "only the first part is done, sealed as {sealed:?}; the rest could not be recorded: {fault}"
    )]
    Half {
        /// The indices of the records that were written.
        sealed: Vec<u64>,
        /// The reason why the rest was not written.
        fault: LogFault,
    },
    /// A record key was destroyed in memory, and not on disk.
    #[error(
        "recorded as {sealed:?}, and the running gateway has no record key of this principal any \
            more; the file still has it, because it could not be overwritten: {fault}; the next \
            start overwrites it"
    )]
    KeyOnDisk {
        /// The indices of the records that were written.
        sealed: Vec<u64>,
        /// The reason why the key was not overwritten.
        fault: VaultFault,
    },
}

/// Every [`ControlFault::code`], and `not-owner`.
pub const CODES: [&str; 17] = [
    "name",
    "class",
    "not-registered",
    "status",
    "token",
    "unknown-token",
    "handle",
    "ambiguous",
    "key",
    "model",
    "reason",
    "unknown-principal",
    "log",
    "partly-done",
    "key-on-disk",
    "still-active",
    "not-owner",
];

impl ControlFault {
    /// The code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name(_) | Self::Moment(_) => "name",
            Self::Class(_) => "class",
            Self::Unknown { .. } => "not-registered",
            Self::Ambiguous(_) => "ambiguous",
            Self::Status { .. } => "status",
            Self::Token(_) => "token",
            Self::UnknownToken => "unknown-token",
            Self::HandleTaken(_) | Self::Handle(_) => "handle",
            Self::AmbiguousToken(_) => "ambiguous",
            Self::Key(_) => "key",
            Self::Model(..) => "model",
            Self::Reason => "reason",
            Self::Vault(_) => "unknown-principal",
            Self::Log(_) => "log",
            Self::Half { .. } => "partly-done",
            Self::KeyOnDisk { .. } => "key-on-disk",
            Self::Acting(_) => "still-active",
        }
    }
}

/// A refusal for an operator has the detail that callers do not get.
impl From<Refusal> for ControlFault {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, detail, .. } = refusal;
        Self::Token(match detail {
            Some(detail) => format!("{code}: {message} ({detail})"),
            None => format!("{code}: {message}"),
        })
    }
}
