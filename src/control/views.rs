//! The rows of a reply: agents, tokens and keys.

use crate::id::Principal;
use crate::keyring::{KeyRow, KeyState, RevokedHolder};
use crate::registry::{Agent, Handle, KeyUse, Token};
use crate::token::Verified;

/// An agent with its status.
pub(super) fn agent_view(agent: &Agent) -> serde_json::Value {
    let reason = agent.status.reason();
    serde_json::json!({
        "agent": agent.name.as_str(),
        "principal": agent.principal.as_ref().map(Principal::as_str),
        "class": &*agent.class,
        "status": agent.status.as_str(),
        "since": reason.map(|(since, _)| since.to_string()),
        "reason": reason.map(|(_, why)| why),
        "registered": agent.registered.to_string(),
    })
}

/// A registered token.
pub(super) fn token_view(token: &Token) -> serde_json::Value {
    serde_json::json!({
        "token": token.id.to_string(),
        "jti": token.jti,
        "expires": token.expires.map(|at| at.to_string()),
        "revoked": token.revoked.as_ref().map(|(since, _)| since.to_string()),
        "handle": token.handle.map(|handle| handle.to_string()),
    })
}

/// A handle. The row does not contain the handle itself, which is a secret.
pub(super) fn handle_view(handle: &Handle) -> serde_json::Value {
    serde_json::json!({
        "handle": handle.id.to_string(),
        "token": handle.token.to_string(),
        "until": handle.until.map(|until| until.to_string()),
        "revoked": handle.revoked.as_ref().map(|(since, _)| since.to_string()),
    })
}

/// An issuer's key, with the number of valid tokens that it signed.
pub(super) fn key_view(row: &KeyRow, signed: Option<&KeyUse>) -> serde_json::Value {
    let since = match &row.state {
        KeyState::Active => None,
        KeyState::Retiring { since } | KeyState::Revoked { since, .. } => Some(since.to_string()),
    };
    serde_json::json!({
        "kid": row.known.id.to_string(),
        "alg": row.known.key.algorithm().as_str(),
        "issuer": row.known.issuer.iss,
        "state": row.state.as_str(),
        "since": since,
        "live_tokens": signed.map_or(0, |signed| signed.live),
        "last_token_ends": signed.map(|signed| signed.last_end.to_string()),
        "last_used": row.used().map(|used| used.to_string()),
        "jwk": crate::token::jwk::Jwk::of(row.known.key.clone()).write(),
    })
}

/// A revoked holder's key.
pub(super) fn holder_view(key: &RevokedHolder) -> serde_json::Value {
    serde_json::json!({
        "kid": key.kid.to_string(),
        "holder": true,
        "state": "revoked",
        "since": key.since.to_string(),
        "reason": key.why,
    })
}

/// A token that the gateway would accept.
#[must_use]
pub fn accepted_view(verified: &Verified) -> serde_json::Value {
    serde_json::json!({
        "valid": true,
        "id": verified.id().to_string(),
        "agent": verified.agent().as_str(),
        "principal": verified.principal().as_str(),
        "expires": verified.expires().to_string(),
    })
}
