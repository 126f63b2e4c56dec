//! What an operator can say, and what is said in return.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who commands: `uid:1000` for a process on the admin socket, or for the command line with the data folder's lock.
#[derive(Clone, Debug)]
pub struct Operator(pub String);

/// A change of state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Command {
    /// Names an agent, its principal and its class.
    AgentRegister {
        /// The agent.
        agent: String,
        /// Its principal.
        principal: Option<String>,
        /// Its class; `default` where it is not said.
        class: Option<String>,
    },
    /// Changes an agent's standing.
    AgentStanding {
        /// The agent; without a slash one of the namespace `default`, unless there is a namespace of that name.
        agent: String,
        /// What is done.
        verb: Verb,
        /// Why.
        reason: String,
        /// Also where nobody registered the agent.
        #[serde(default)]
        unregistered: bool,
    },
    /// Changes the standing of all agents of a namespace, also of those that are registered later.
    NamespaceStanding {
        /// The namespace.
        namespace: String,
        /// What is done; not [`Verb::Revoke`].
        verb: Verb,
        /// Why.
        reason: String,
        /// Also where nobody registered an agent in it.
        #[serde(default)]
        unregistered: bool,
    },
    /// Changes the standing of all that acts for a principal.
    PrincipalStanding {
        /// The principal.
        principal: String,
        /// What is done: [`Verb::Suspend`] or [`Verb::Release`].
        verb: Verb,
        /// Why.
        reason: String,
        /// Also where no registered agent and no handle acts for it.
        #[serde(default)]
        unregistered: bool,
    },
    /// Registers a signed token.
    TokenRegister {
        /// The token itself; it is verified, and only its identity is kept.
        token: String,
        /// The class of its agent, if the agent is new or shall change.
        class: Option<String>,
    },
    /// Revokes a token.
    TokenRevoke {
        /// Its identity or its `jti`.
        token: String,
        /// Why.
        reason: String,
    },
    /// Puts a signed token behind a new handle.
    HandleSet {
        /// The handle's identity; the handle itself never comes here.
        handle: String,
        /// The token itself; it is verified, and kept.
        token: String,
        /// The class of its agent, if the agent is new or shall change.
        class: Option<String>,
        /// Until when tokens may be put behind it, in RFC 3339; without it for as long as they are renewed.
        until: Option<String>,
    },
    /// Puts a newer token behind a handle.
    HandleRenew {
        /// The handle or its identity.
        handle: String,
        /// The token itself, of the same agent.
        token: String,
    },
    /// Takes the wall clock as it is, after it has stepped back.
    ClockAccept,
    /// Destroys a principal's record key: nothing that was recorded of it can be read any more.
    PrincipalForget {
        /// The principal.
        principal: String,
        /// Revoke its agents, tokens and handles first; where it is not said, such a principal is not forgotten.
        #[serde(default)]
        revoke: bool,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Says that the log is about to be copied into a backup.
    BackupMade {
        /// With what opens and signs records.
        keys: bool,
        /// With the private keys that tokens are signed with.
        operator_keys: bool,
    },
    /// Says that closed epochs are about to be handed out.
    EpochsExported {
        /// Their names.
        epochs: Vec<String>,
        /// Whose records the keys open that go along, where they are of one principal.
        principal: Option<String>,
        /// With keys that open records.
        keys: bool,
    },
    /// Says that records are about to be handed out with their own keys.
    RecordsDisclosed {
        /// Their names.
        records: Vec<String>,
    },
    /// Says that a token was signed and is not registered.
    TokenSigned {
        /// The token itself; it is verified, and only its identity is kept.
        token: String,
    },
    /// Closes the log's epoch and begins the next.
    EpochBegin {
        /// Why.
        reason: String,
    },
    /// Lets a model have the weights that it is seen to have.
    ModelAccept {
        /// Its canonical name.
        model: String,
        /// Why.
        reason: String,
    },
    /// Adds a public key to an issuer.
    KeyAdd {
        /// The issuer; the only one where it is not said.
        issuer: Option<String>,
        /// A public JWK.
        jwk: String,
    },
    /// Lets a key's tokens run out and takes no newer ones.
    KeyRetire {
        /// The key's thumbprint.
        kid: String,
        /// From when on, in RFC 3339; at once where it is not said.
        from: Option<String>,
        /// Why.
        reason: String,
    },
    /// Refuses every chain that a holder's key is in; the key is in no issuer's ring.
    HolderRevoke {
        /// The key's thumbprint.
        kid: String,
        /// Why.
        reason: String,
    },
    /// Refuses everything that a key signed.
    KeyRevoke {
        /// The key's thumbprint.
        kid: String,
        /// Why.
        reason: String,
    },
}

/// What is done to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Stop it until it is resumed.
    Suspend,
    /// Let it act again after a suspension.
    Resume,
    /// Stop it for examination.
    Quarantine,
    /// Let it act again after a quarantine.
    Release,
    /// Stop it for good.
    Revoke,
}

/// A question about the books.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask", deny_unknown_fields)]
pub enum Question {
    /// All agents, and the namespaces that are stopped.
    Agents,
    /// The principals that are stopped.
    Principals,
    /// One agent.
    Agent {
        /// Its name.
        agent: String,
    },
    /// All keys.
    Keys,
    /// All models, at each of their servers.
    Models,
    /// Why a request was refused not long ago.
    Why {
        /// Its id, `rq_…`.
        request: String,
    },
    /// Asks for a checkpoint soon.
    Checkpoint,
    /// Whether a token would be taken now.
    Token {
        /// The token itself.
        token: String,
    },
    /// What stands behind a handle, its token included.
    Handle {
        /// The handle or its identity.
        handle: String,
    },
}

/// What was done or is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Indices of the records that were sealed.
    pub sealed: Vec<u64>,
    /// The rows that were asked for, or that changed.
    pub rows: Vec<serde_json::Value>,
    /// What the operator may not have expected.
    #[serde(default)]
    pub note: Option<String>,
    /// Whose books these are.
    #[serde(default)]
    pub gateway: Option<About>,
}

/// A gateway, as operators tell it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its data folder, as an absolute path.
    pub data: PathBuf,
    /// Its process, where one runs.
    pub pid: Option<u32>,
}
