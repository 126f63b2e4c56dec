//! Delegation: a holder signs a narrower token for a sub-agent, offline, with only its token and
//! its key.
//!
//! ```
//! use std::time::Duration;
//! use token_shield::clock::Timestamp;
//! use token_shield::crypto::{Algorithm, SigningKey};
//! use token_shield::json::Value;
//! use token_shield::token::constraint::{Constraint, ConstraintType};
//! use token_shield::token::delegate::{Narrowed, delegate};
//! use token_shield::token::jwk::Jwk;
//! use token_shield::token::mint::{MintRequest, Parties, TokenSpan, mint};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let now = Timestamp(1_790_000_000_000);
//! # let [first, second, third] = [1, 2, 3];
//! let a_minute =
//!     |rate| Constraint::new("requests_per_minute", ConstraintType::Rate, Value::from_u64(rate));
//!
//! // An operator names the holder's key in a token. The command is
//! // `token-shield token issue --holder-key holder.jwk.pub --bearer-children`.
//! let operator = SigningKey::generate(Algorithm::MlDsa65)?;
//! let holder = SigningKey::generate(Algorithm::Ed25519)?;
//! let parties = Parties { iss: "https://operator.example", aud: "https://gateway.example" };
//! let (agent, principal) = ("research/planner".parse()?, "team:research".parse()?);
//! let span = TokenSpan { issued: now, lifetime: Duration::from_secs(3600) };
//! let request = MintRequest::new(parties, agent, principal, span, first)
//!     .limited(a_minute(60)?)
//!     .limited(Constraint::bearer_children()?)
//!     .delegable(Jwk::of(holder.public()?), 2);
//! let parent = mint(&request, &operator)?;
//!
//! // The holder hands it on, narrower, without asking anybody. `first`, `second` … are 128 random
//! // bits each.
//! let name = || "reader".to_owned();
//! let narrower = Narrowed { name: name(), limits: vec![a_minute(6)?], ..Narrowed::default() };
//! let chain = delegate(&parent, &holder, &narrower, now, second)?;
//! assert!(chain.starts_with(&parent) && chain.contains('~'));
//!
//! // What would be wider is not signed.
//! let wider = Narrowed { name: name(), limits: vec![a_minute(61)?], ..Narrowed::default() };
//! assert!(delegate(&parent, &holder, &wider, now, third).is_err());
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::crypto::{SigningKey, sha256};
use crate::json::{Object, Value};
use crate::token::chain::{BEARER_LIFE_S, ChildToken, ParentToken, THUMBPRINT_URN, joined};
use crate::token::claims::Claims;
use crate::token::constraint::Constraint;
use crate::token::jwk::Jwk;
use crate::token::mint::{MintFault, date, label, refused, sign};
use crate::token::{DETAIL_TYPE, LIST_MAX, Presented};

/// The content of a child. The parent's values apply to everything that is left out.
#[derive(Clone, Debug, Default)]
pub struct Narrowed {
    /// The segment that is appended to the parent's name.
    pub name: String,
    /// The lifetime: at most the parent's, and without its own key at most 15 minutes. Without a
    /// value it is the longest possible one.
    pub ttl: Option<Duration>,
    /// Scope names; empty means the parent's.
    pub scopes: Vec<String>,
    /// Limits that replace the parent's with the same key and type, or are added to them.
    pub limits: Vec<Constraint>,
    /// The key that may sign its own children.
    pub holder: Option<Jwk>,
    /// The most tokens in its chain.
    pub depth_max: Option<u64>,
}

/// Signs a child of the last token of `chain` with the holder's `key`, and returns the longer
/// chain.
///
/// # Errors
/// When `key` is not the one that the parent names, or when the child would not be narrower.
pub fn delegate(
    chain: &str,
    key: &SigningKey,
    wanted: &Narrowed,
    now: Timestamp,
    entropy: u128,
) -> Result<String, MintFault> {
    let presented = Presented::read(chain).map_err(refused)?;
    let Some(link) = presented.links().last() else { return Err(MintFault::Lifetime) };
    let parent = Claims::read(&link.payload, usize::MAX).map_err(refused)?;
    let signer = Jwk::of(key.public()?);
    if parent.holder_id() != Some(signer.id()) {
        return Err(MintFault::Holder);
    }
    // Not before the parent's `iat`, also with a clock that is slower than the issuer's.
    let issued = now.seconds().max(parent.issued);
    let longest = if wanted.holder.is_none() { BEARER_LIFE_S } else { i64::MAX };
    // A gateway checks these limits too. Here they give a better message.
    let latest = issued.saturating_add(longest).min(parent.expires);
    let expires = match wanted.ttl {
        Some(ttl) => issued.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
        None => latest,
    };
    if expires > latest {
        return Err(MintFault::TooLong { latest: Timestamp(latest.saturating_mul(1000)) });
    }
    if expires <= issued {
        return Err(MintFault::Lifetime);
    }
    let agent =
        parent.agent.child(&wanted.name).map_err(|fault| MintFault::Name(fault.to_string()))?;
    let mut claims = Object::new();
    claims.set("iss", Value::from_text(format!("{THUMBPRINT_URN}{}", signer.id())));
    let audience = parent.aud.iter().map(|audience| Value::from_text(audience.to_owned()));
    claims.set("aud", Value::Array(audience.collect()));
    claims.set("sub", Value::from_text(parent.principal.as_str().to_owned()));
    claims.set("client_id", Value::from_text(agent.as_str().to_owned()));
    claims.set("iat", date(issued)?);
    // The parent's `nbf` is repeated, because a child must not begin before its parent.
    if let Some(not_before) = parent.not_before {
        claims.set("nbf", date(not_before)?);
    }
    claims.set("exp", date(expires)?);
    claims.set("jti", Value::from_text(label(now, entropy)));
    claims.set("del_depth", Value::from_u64(parent.depth + 1));
    claims.set("del_max_depth", Value::from_u64(wanted.depth_max.unwrap_or(parent.depth_max)));
    let parent_hash = URL_SAFE_NO_PAD.encode(sha256(link.signed.as_bytes()));
    claims.set("par_hash", Value::from_text(parent_hash));
    if let Some(holder) = &wanted.holder {
        let mut confirmation = Object::new();
        confirmation.set("jwk", holder.value());
        claims.set("cnf", Value::Object(confirmation));
    }
    claims.set("authorization_details", Value::Array(vec![detail(&parent, wanted)]));
    let child = sign(&Value::Object(claims), key)?;
    // The child is parsed with the gateway's own parser and checked against its parent.
    let read = Presented::read(&child).map_err(refused)?;
    let Some(own) = read.links().last() else { return Err(MintFault::Lifetime) };
    // A gateway that accepted the parent accepts lists of the same length.
    let list_max = parent.longest_list().max(LIST_MAX);
    let own = Claims::read(&own.payload, list_max).map_err(refused)?;
    let below = ChildToken { claims: &own, signer: &signer.id() };
    joined(ParentToken { claims: &parent, link }, below).map_err(refused)?;
    let longer = format!("{chain}~{child}");
    // Checks the limits of the whole chain: its bytes and its number of tokens.
    Presented::read(&longer).map_err(refused)?;
    Ok(longer)
}

/// The `authorization_details` of a child.
fn detail(parent: &Claims, wanted: &Narrowed) -> Value<'static> {
    let mut limits = Vec::with_capacity(parent.constraints.len() + wanted.limits.len());
    for limit in &parent.constraints {
        // A limit that is not replaced must be repeated: leaving it out would widen the child.
        if !wanted.limits.iter().any(|own| own.same_row(limit)) {
            limits.push(limit.write());
        }
    }
    for limit in &wanted.limits {
        limits.push(limit.write());
    }
    let mut scopes: Vec<Value<'static>> = Vec::new();
    if wanted.scopes.is_empty() {
        scopes.extend(parent.scopes.names().map(Value::from_text));
    }
    for scope in &wanted.scopes {
        scopes.push(Value::from_text(scope.clone()));
    }
    let mut detail = Object::new();
    detail.set("type", Value::from_text(DETAIL_TYPE));
    detail.set("scopes", Value::Array(scopes));
    detail.set("constraints", Value::Array(limits));
    Value::Object(detail)
}
