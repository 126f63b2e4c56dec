//! The entries of the registry: agents, tokens and handles.

use std::sync::Arc;

use super::status::StatusChange;
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};

/// A registered agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// The principal that it usually acts for, if the command named one.
    pub principal: Option<Principal>,
    /// Its class, a key of the config's `[class.…]`.
    pub class: Arc<str>,
    /// Its status.
    pub status: StatusChange,
    /// When a record first named it.
    pub registered: Timestamp,
}

/// A registered root token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its identity.
    pub id: TokenId,
    /// Its label.
    pub jti: String,
    /// The agent that it belongs to.
    pub agent: AgentName,
    /// The principal that it acts for, if it is known.
    pub principal: Option<Principal>,
    /// The key that signed it.
    pub kid: Option<KeyId>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// The time and the reason of its revocation.
    pub revoked: Option<(Timestamp, String)>,
    /// The handle that represents it. Then only the handle is accepted, and not the token itself.
    pub handle: Option<HandleId>,
}

impl Token {
    /// An entry without the facts of a registration.
    pub(super) fn new(id: TokenId, jti: &str, agent: &AgentName) -> Self {
        let (jti, agent) = (jti.to_owned(), agent.clone());
        Self {
            id,
            jti,
            agent,
            principal: None,
            kid: None,
            expires: None,
            revoked: None,
            handle: None,
        }
    }

    /// Whether it is neither revoked nor expired at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        match self.expires {
            Some(expires) => self.revoked.is_none() && expires > now,
            None => self.revoked.is_none(),
        }
    }
}

/// The use of a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// Its tokens that are neither expired nor revoked.
    pub live: usize,
    /// The latest end of all its tokens, live or ended.
    pub last_end: Timestamp,
}

/// A handle and the token that it represents.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its identity.
    pub id: HandleId,
    /// The signed token.
    pub text: Box<str>,
    /// The token's identity.
    pub token: TokenId,
    /// The agent that it belongs to.
    pub agent: AgentName,
    /// The principal that the agent acts for.
    pub principal: Principal,
    /// Until when a new token may be set for it.
    pub until: Option<Timestamp>,
    /// The time and the reason of its revocation.
    pub revoked: Option<(Timestamp, String)>,
}
