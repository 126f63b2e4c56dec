//! What joins two tokens of a chain: the child says whose it is, and allows nothing that its parent does not.
//!
//! After draft-asor-wimse-agent-delegation-chain-02, with the deviations that docs/TOKEN.md names.

use crate::crypto::sha256;
use crate::id::KeyId;
use crate::refusal::{Code, Refusal};
use crate::token::claims::{Claims, Grants};
use crate::token::presented::Link;

/// The `iss` of a child is the thumbprint of the key that signs it, as a URN (RFC 9278).
pub(super) const THUMBPRINT_URN: &str = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:";
/// How long a token without a key of its own may live below another, in seconds.
pub(super) const BEARER_LIFE_S: i64 = 15 * 60;

/// Asks everything that a child must be to its parent, but for the signature.
///
/// # Errors
/// `chain-signer`, `chain-parent`, `chain-depth`, `chain-principal`, `chain-name`, `chain-widened` or `chain-times`.
pub(super) fn joined(
    (parent, link): (&Claims, &Link<'_>),
    (child, signer): (&Claims, &KeyId),
) -> Result<(), Refusal> {
    if child.iss.strip_prefix(THUMBPRINT_URN) != Some(signer.to_string().as_str()) {
        return Err(Refusal::new(Code::ChainSigner)
            .because("iss is not the URN of the signing key's thumbprint"));
    }
    if child.parent != Some(sha256(link.signed.as_bytes())) {
        return Err(Code::ChainParent.into());
    }
    if child.depth != parent.depth + 1 || child.depth_max > parent.depth_max {
        return Err(Code::ChainDepth.into());
    }
    if child.principal != parent.principal {
        return Err(Code::ChainPrincipal.into());
    }
    let segment = child
        .agent
        .as_str()
        .strip_prefix(parent.agent.as_str())
        .and_then(|rest| rest.strip_prefix('/'));
    if segment.is_none_or(|segment| segment.contains('/')) {
        return Err(Code::ChainName.into());
    }
    narrower(parent, child)?;
    lasts_within(parent, child)
}

/// Scopes, audience and constraints of a child lie within its parent's.
fn narrower(parent: &Claims, child: &Claims) -> Result<(), Refusal> {
    let widened = |what: &str| Refusal::new(Code::ChainWidened).because(what);
    if !child.scopes.within(parent.scopes) {
        return Err(widened("scopes"));
    }
    if !child.aud.within(&parent.aud) {
        return Err(widened("aud"));
    }
    for limit in &parent.constraints {
        // A limit that the child leaves out is a limit that it drops.
        if !child.constraints.iter().any(|own| own.narrows(limit)) {
            return Err(widened(&format!("{} with {}", limit.row.key, limit.row.kind.as_str())));
        }
    }
    Ok(())
}

fn lasts_within(parent: &Claims, child: &Claims) -> Result<(), Refusal> {
    let begins = |claims: &Claims| claims.issued.max(claims.not_before.unwrap_or(claims.issued));
    let within = child.issued >= parent.issued
        && begins(child) >= begins(parent)
        && child.expires <= parent.expires;
    if within && child.expires > child.issued { Ok(()) } else { Err(Code::ChainTimes.into()) }
}

/// Asks whether the last token may be used by whoever carries it: proofs of possession are not read yet, so it has no key,
/// and below other tokens each of these must allow that.
///
/// # Errors
/// `proof-not-supported` or `chain-holder`.
pub(super) fn carried<'g>(
    ancestors: impl Iterator<Item = &'g Grants>,
    (has_holder, life_s): (bool, i64),
) -> Result<(), Refusal> {
    if has_holder {
        return Err(Code::ProofNotSupported.into());
    }
    let mut ancestors = ancestors.peekable();
    if ancestors.peek().is_none() {
        return Ok(());
    }
    if !ancestors.all(|grants| grants.bearer_children) {
        return Err(
            Refusal::new(Code::ChainHolder).because("an ancestor does not grant holder bearer")
        );
    }
    if life_s > BEARER_LIFE_S {
        return Err(Refusal::new(Code::ChainHolder).because("it lives longer than 15 minutes"));
    }
    Ok(())
}
