//! The joints of a chain: a child names its parent and allows only what the parent allows.
//!
//! After draft-asor-wimse-agent-delegation-chain-02, with the deviations that docs/TOKEN.md lists.

use crate::crypto::sha256;
use crate::id::KeyId;
use crate::refusal::{Code, Refusal};
use crate::token::claims::{Claims, Grants};
use crate::token::presented::Link;

/// The prefix of a child's `iss`: a URN (RFC 9278) with the thumbprint of the key that signs it.
pub(super) const THUMBPRINT_URN: &str = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:";
/// The longest lifetime of a child without its own key, in seconds.
pub(super) const BEARER_LIFE_S: i64 = 15 * 60;

/// A token that delegates.
#[derive(Clone, Copy)]
pub(super) struct ParentToken<'c, 't> {
    /// Its claims.
    pub(super) claims: &'c Claims,
    /// Its text. The child names the hash of it.
    pub(super) link: &'c Link<'t>,
}

/// A token that another one delegated.
#[derive(Clone, Copy)]
pub(super) struct ChildToken<'c> {
    /// Its claims.
    pub(super) claims: &'c Claims,
    /// The key that signed it.
    pub(super) signer: &'c KeyId,
}

/// Checks a child against its parent, except for the signature.
///
/// # Errors
/// `chain-signer`, `chain-parent`, `chain-depth`, `chain-principal`, `chain-name`, `chain-widened`
/// or `chain-times`.
pub(super) fn joined(above: ParentToken<'_, '_>, below: ChildToken<'_>) -> Result<(), Refusal> {
    let (parent, child) = (above.claims, below.claims);
    // The signing key identifies the issuer of a child, so a child cannot claim another issuer's
    // name.
    if child.iss.strip_prefix(THUMBPRINT_URN) != Some(below.signer.to_string().as_str()) {
        return Err(Refusal::new(Code::ChainSigner)
            .because("iss is not the URN of the signing key's thumbprint"));
    }
    // Binds the child to this parent. Otherwise a child could be moved below another token of the
    // same holder, with wider limits.
    if child.parent != Some(sha256(above.link.signed.as_bytes())) {
        return Err(Code::ChainParent.into());
    }
    // `depth_max` must not grow, so that the operator's bound holds for every descendant.
    if child.depth != parent.depth + 1 || child.depth_max > parent.depth_max {
        return Err(Code::ChainDepth.into());
    }
    if child.principal != parent.principal {
        return Err(Code::ChainPrincipal.into());
    }
    if !is_named_below(parent, child) {
        return Err(Code::ChainName.into());
    }
    narrower(parent, child)?;
    lasts_within(parent, child)
}

/// Whether the child's name is its parent's with exactly one more segment. So a child cannot take
/// the name of its parent, of a sibling's child or of another agent.
fn is_named_below(parent: &Claims, child: &Claims) -> bool {
    let Some(rest) = child.agent.as_str().strip_prefix(parent.agent.as_str()) else {
        return false;
    };
    match rest.strip_prefix('/') {
        Some(segment) => !segment.contains('/'),
        None => false,
    }
}

/// A `chain-widened` refusal. `what` names the wider part.
fn widened(what: &str) -> Refusal {
    Refusal::new(Code::ChainWidened).because(what)
}

/// Checks that scopes, audience and constraints of a child are within its parent's.
fn narrower(parent: &Claims, child: &Claims) -> Result<(), Refusal> {
    if !child.scopes.within(parent.scopes) {
        return Err(widened("scopes"));
    }
    if !child.aud.within(&parent.aud) {
        return Err(widened("aud"));
    }
    for limit in &parent.constraints {
        // A limit that the child leaves out would be removed for it, so every limit must be
        // repeated.
        if !child.constraints.iter().any(|own| own.narrows(limit)) {
            return Err(widened(&format!("{} with {}", limit.row.key, limit.row.kind.as_str())));
        }
    }
    Ok(())
}

/// Checks that the child is valid only while its parent is.
fn lasts_within(parent: &Claims, child: &Claims) -> Result<(), Refusal> {
    let within = child.issued >= parent.issued
        && child.begins() >= parent.begins()
        && child.expires <= parent.expires;
    if within && child.expires > child.issued { Ok(()) } else { Err(Code::ChainTimes.into()) }
}

/// Checks that the last token may be used as a bearer token. Proofs of possession are not read yet,
/// so it must not have a key. Each token above it must allow that. `life_s` is its lifetime in
/// seconds.
///
/// # Errors
/// `proof-not-supported` or `chain-holder`.
pub(super) fn carried<'g>(
    ancestors: impl Iterator<Item = &'g Grants>,
    has_holder: bool,
    life_s: i64,
) -> Result<(), Refusal> {
    // A token that names a key asks for a proof, which this build cannot check. Without the check,
    // a stolen token would be usable.
    if has_holder {
        return Err(Code::ProofNotSupported.into());
    }
    let mut ancestors = ancestors.peekable();
    // A root token was signed by the operator as a bearer token.
    if ancestors.peek().is_none() {
        return Ok(());
    }
    if !ancestors.all(|grants| grants.bearer_children) {
        return Err(
            Refusal::new(Code::ChainHolder).because("an ancestor does not grant holder bearer")
        );
    }
    // A holder signs children offline, so the operator does not see them. A short life limits the
    // damage of a leaked one.
    if life_s > BEARER_LIFE_S {
        return Err(Refusal::new(Code::ChainHolder).because("it lives longer than 15 minutes"));
    }
    Ok(())
}
