//! From [`Presented`] to [`Verified`]: the key, the signature, the claims, the times.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::crypto::{Algorithm, PublicKey, Verifier};
use crate::id::{AgentName, KeyId, Principal, TokenId};
use crate::refusal::{Code, Refusal};
use crate::token::claims::Claims;
use crate::token::{Grants, Presented, Scopes};

/// Which signatures of an issuer are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostQuantum {
    /// The root of a chain must be signed with ML-DSA-65.
    RequiredRoot,
    /// Every link of a chain must be.
    Required,
    /// Ed25519 roots are taken too.
    Off,
}

/// What an issuer's tokens must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerPolicy {
    /// Its `iss`.
    pub iss: String,
    /// The name of this gateway in `aud`.
    pub aud: String,
    /// Namespaces that it may speak for; `*` means all.
    pub namespaces: Vec<String>,
    /// Longest life of a token, from `iat` to `exp`.
    pub ttl_max: Duration,
    /// Which signatures are taken.
    pub post_quantum: PostQuantum,
}

/// A key that may sign tokens, and whose it is.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// Its thumbprint.
    pub id: KeyId,
    /// The key.
    pub key: PublicKey,
    /// Its issuer.
    pub issuer: Arc<IssuerPolicy>,
}

/// Where keys are looked up.
pub trait Keys {
    /// The key with that thumbprint.
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>>;
}

/// How far our clock may be behind the issuer's, in seconds.
const LEEWAY_S: i64 = 5;

/// A token whose signature, claims and times hold. Only [`verify`] makes one.
pub struct Verified {
    id: TokenId,
    kid: KeyId,
    claims: Claims,
}

impl Verified {
    /// The token's identity.
    #[must_use]
    pub const fn id(&self) -> &TokenId {
        &self.id
    }

    /// The key that signed it.
    #[must_use]
    pub const fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// Its label.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// Its issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// The acting agent (`client_id`).
    #[must_use]
    pub const fn agent(&self) -> &AgentName {
        &self.claims.agent
    }

    /// In whose name it acts (`sub`).
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.claims.principal
    }

    /// What it may be used for.
    #[must_use]
    pub const fn scopes(&self) -> &Scopes {
        &self.claims.scopes
    }

    /// Its limits.
    #[must_use]
    pub const fn grants(&self) -> &Grants {
        &self.claims.grants
    }

    /// When it was issued.
    #[must_use]
    pub const fn issued(&self) -> Timestamp {
        self.claims.issued_at()
    }

    /// When it ends.
    #[must_use]
    pub const fn expires(&self) -> Timestamp {
        self.claims.expires_at()
    }

    /// Asks again whether the token's times hold `now`.
    ///
    /// # Errors
    /// `token-expired` or `token-not-yet-valid`.
    pub fn still_valid(&self, now: Timestamp) -> Result<(), Refusal> {
        times(&self.claims, now)
    }
}

fn times(claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
    let now = now.seconds();
    if now >= claims.expires {
        return Err(Code::TokenExpired.into());
    }
    if claims.issued.max(claims.not_before.unwrap_or(0)) > now.saturating_add(LEEWAY_S) {
        return Err(Code::TokenNotYetValid.into());
    }
    Ok(())
}

/// Verifies a token: key, algorithm, signature, claims, issuer, times, in this order.
///
/// # Errors
/// Any refusal of the stage verified.
pub fn verify(presented: &Presented<'_>, keys: &dyn Keys, verifier: &dyn Verifier, now: Timestamp) -> Result<Verified, Refusal> {
    let kid: KeyId = presented.kid.parse().map_err(|_| Refusal::new(Code::TokenKeyUnknown))?;
    let known = keys.key(&kid).ok_or(Code::TokenKeyUnknown)?;
    algorithm_holds(&presented.algorithm, known.key.algorithm(), known.issuer.post_quantum)?;
    verifier
        .verify(&known.key, presented.signed.as_bytes(), &presented.signature)
        .map_err(|fault| Refusal::new(Code::TokenSignature).because(fault))?;
    let claims = Claims::read(&presented.payload)?;
    issuer_holds(&claims, &known.issuer)?;
    times(&claims, now)?;
    Ok(Verified { id: presented.id(), kid, claims })
}

/// The algorithm is the key's, never the token's choice; and the issuer's policy takes it.
fn algorithm_holds(named: &str, algorithm: Algorithm, policy: PostQuantum) -> Result<(), Refusal> {
    let same = match algorithm {
        Algorithm::MlDsa65 => named == "ML-DSA-65",
        // RFC 9864 renames what RFC 8037 called EdDSA.
        Algorithm::Ed25519 => named == "Ed25519" || named == "EdDSA",
    };
    if !same {
        return Err(Code::TokenAlgorithm.into());
    }
    match policy {
        PostQuantum::RequiredRoot | PostQuantum::Required if !algorithm.post_quantum() => Err(Code::TokenPostQuantum.into()),
        PostQuantum::RequiredRoot | PostQuantum::Required | PostQuantum::Off => Ok(()),
    }
}

fn issuer_holds(claims: &Claims, issuer: &IssuerPolicy) -> Result<(), Refusal> {
    if claims.iss != issuer.iss {
        return Err(Code::TokenIssuer.into());
    }
    if !claims.aud.contains(&issuer.aud) {
        return Err(Code::TokenAudience.into());
    }
    if !issuer.namespaces.iter().any(|namespace| namespace == "*" || namespace == claims.agent.namespace()) {
        let (theirs, ours) = (claims.agent.namespace(), issuer.namespaces.join(", "));
        return Err(Refusal::new(Code::TokenNamespace).because(format_args!("namespace {theirs}, not one of {ours}")));
    }
    let lifetime =
        claims.expires.checked_sub(claims.issued).and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let lifetime = lifetime.ok_or_else(|| Refusal::new(Code::TokenClaims).because("exp is not after iat"))?;
    if lifetime > issuer.ttl_max.as_secs() {
        return Err(Code::TokenLifetime.into());
    }
    Ok(())
}
