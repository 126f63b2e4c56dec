//! The protocol of the admin socket: commands, questions and replies.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The user who gave a command, such as `uid:1000`. The command came over the admin socket, or from
/// a process with the data folder's lock.
#[derive(Clone, Debug)]
pub struct Operator(pub String);

/// A change of state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Command {
    /// Registers an agent with its principal and its class.
    AgentRegister {
        /// The agent.
        agent: String,
        /// The principal of the agent.
        principal: Option<String>,
        /// The class of the agent. `None` means `default`.
        class: Option<String>,
    },
    /// Changes an agent's status.
    AgentStatus {
        /// The agent. Without a slash it is in the namespace `default`, unless a namespace has that
        /// name.
        agent: String,
        /// The change.
        verb: StatusVerb,
        /// The reason.
        reason: String,
        /// Accept an agent that is not registered.
        #[serde(default)]
        unregistered: bool,
    },
    /// Changes the status of all agents of a namespace, including agents that are registered later.
    NamespaceStatus {
        /// The namespace.
        namespace: String,
        /// The change; not [`StatusVerb::Revoke`].
        verb: StatusVerb,
        /// The reason.
        reason: String,
        /// Accept a namespace without a registered agent.
        #[serde(default)]
        unregistered: bool,
    },
    /// Changes the status of a principal, and so of everything that acts in its name.
    PrincipalStatus {
        /// The principal.
        principal: String,
        /// The change: [`StatusVerb::Suspend`] or [`StatusVerb::Release`].
        verb: StatusVerb,
        /// The reason.
        reason: String,
        /// Accept a principal without a registered agent or a handle.
        #[serde(default)]
        unregistered: bool,
    },
    /// Registers a signed token.
    TokenRegister {
        /// The token. It is verified, and only its id is kept.
        token: String,
        /// The class of its agent, if the agent is new or changes its class.
        class: Option<String>,
    },
    /// Revokes a token.
    TokenRevoke {
        /// The id or the `jti`.
        token: String,
        /// The reason.
        reason: String,
    },
    /// Registers a new handle with a signed token.
    HandleSet {
        /// The handle's id. The handle itself is never sent.
        handle: String,
        /// The token. It is verified and kept.
        token: String,
        /// The class of its agent, if the agent is new or changes its class.
        class: Option<String>,
        /// The end of the handle, in RFC 3339. `None` means that it lasts as long as its token is
        /// renewed.
        until: Option<String>,
    },
    /// Replaces the token of a handle with a newer one.
    HandleRenew {
        /// The handle or its id.
        handle: String,
        /// The token, of the same agent.
        token: String,
    },
    /// Accepts the current time after the clock stepped back.
    ClockAccept,
    /// Destroys a principal's record key. After that, its records cannot be decrypted.
    PrincipalForget {
        /// The principal.
        principal: String,
        /// Revoke its agents, tokens and handles first. Without it, the command is refused if there
        /// are any.
        #[serde(default)]
        revoke: bool,
        /// The reason.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Records that a backup begins.
    BackupMade {
        /// The backup contains the keys that decrypt and sign records.
        keys: bool,
        /// The backup contains the private keys that sign tokens.
        operator_keys: bool,
    },
    /// Records that an export of closed epochs begins.
    EpochsExported {
        /// The names of the epochs.
        epochs: Vec<String>,
        /// The principal whose records the keys decrypt. `None` means all records.
        principal: Option<String>,
        /// The export contains keys that decrypt records.
        keys: bool,
    },
    /// Records that records are about to be disclosed, with their own keys.
    RecordsDisclosed {
        /// The names of the records.
        records: Vec<String>,
    },
    /// Records that a token was signed and is not registered.
    TokenSigned {
        /// The token. It is verified, and only its id is kept.
        token: String,
    },
    /// Closes the log's epoch and begins the next one.
    EpochBegin {
        /// The reason.
        reason: String,
    },
    /// Accepts the current weights of a model.
    ModelAccept {
        /// The canonical name.
        model: String,
        /// The reason.
        reason: String,
    },
    /// Adds a public key to an issuer.
    KeyAdd {
        /// The issuer. `None` means the only one.
        issuer: Option<String>,
        /// A public JWK.
        jwk: String,
    },
    /// Retires a key. Tokens that it signed before stay valid until they expire.
    KeyRetire {
        /// The key's thumbprint.
        kid: String,
        /// The time of the retirement, in RFC 3339. `None` means now.
        from: Option<String>,
        /// The reason.
        reason: String,
    },
    /// Refuses every chain that contains a holder's key. The key belongs to no issuer.
    HolderRevoke {
        /// The key's thumbprint.
        kid: String,
        /// The reason.
        reason: String,
    },
    /// Refuses everything that a key signed.
    KeyRevoke {
        /// The key's thumbprint.
        kid: String,
        /// The reason.
        reason: String,
    },
}

/// A change of an agent's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusVerb {
    /// Stop it until it is resumed.
    Suspend,
    /// Let it act again after a suspension.
    Resume,
    /// Stop it for examination.
    Quarantine,
    /// Let it act again after a quarantine.
    Release,
    /// Stop it permanently.
    Revoke,
}

/// A question about the state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask", deny_unknown_fields)]
pub enum Question {
    /// All agents, and the stopped namespaces.
    Agents,
    /// The stopped principals.
    Principals,
    /// One agent.
    Agent {
        /// The agent's name.
        agent: String,
    },
    /// All keys.
    Keys,
    /// All models, at each of their servers.
    Models,
    /// The reason why a recent request was refused.
    Why {
        /// The request's id, `rq_…`.
        request: String,
    },
    /// Requests a checkpoint soon.
    Checkpoint,
    /// Whether the gateway would accept a token now.
    Token {
        /// The token.
        token: String,
    },
    /// A handle with its token.
    Handle {
        /// The handle or its id.
        handle: String,
    },
}

/// The reply to a command or a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The indices of the records of the command.
    pub sealed: Vec<u64>,
    /// The rows of the answer, or the rows that changed.
    pub rows: Vec<serde_json::Value>,
    /// An effect that the operator may not expect.
    #[serde(default)]
    pub note: Option<String>,
    /// The gateway that the state belongs to.
    #[serde(default)]
    pub gateway: Option<GatewayIdentity>,
}

/// The identity of a gateway, which distinguishes it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayIdentity {
    /// The name.
    pub name: String,
    /// The data folder, as an absolute path.
    pub data: PathBuf,
    /// The process id, if the gateway runs.
    pub pid: Option<u32>,
}
