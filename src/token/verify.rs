//! From [`Presented`] to [`Verified`]: the keys, the signatures, the claims, what joins them, the times.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::crypto::{Algorithm, PublicKey, Verifier};
use crate::id::{AgentName, KeyId, Principal, TokenId};
use crate::refusal::{Code, Refusal};
use crate::token::chain::{carried, joined};
use crate::token::claims::Claims;
use crate::token::presented::Link;
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
    /// Whether its tokens are taken by handle.
    pub handles: bool,
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

/// One token of a chain, its signature verified.
struct Signed {
    id: TokenId,
    signer: KeyId,
    claims: Claims,
}

/// A token or chain whose signatures, claims, joints and times hold. Only [`verify`] makes one.
pub struct Verified {
    /// Root first; never empty.
    ancestors: Vec<Signed>,
    /// The one that acts.
    leaf: Signed,
}

impl Verified {
    /// The identity of the token that acts.
    #[must_use]
    pub const fn id(&self) -> &TokenId {
        &self.leaf.id
    }

    /// The identities of every token of the chain, the one that acts first.
    pub fn ids(&self) -> impl Iterator<Item = &TokenId> {
        self.links().map(|link| &link.id)
    }

    /// Every token of the chain and the key that signed it, the operator's first.
    pub fn chain(&self) -> impl Iterator<Item = (TokenId, KeyId)> {
        self.ancestors.iter().chain(std::iter::once(&self.leaf)).map(|link| (link.id, link.signer))
    }

    /// The token that acts and those above it, nearest first.
    fn links(&self) -> impl Iterator<Item = &Signed> {
        std::iter::once(&self.leaf).chain(self.ancestors.iter().rev())
    }

    fn root(&self) -> &Signed {
        self.ancestors.first().unwrap_or(&self.leaf)
    }

    /// How many tokens the chain has.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.ancestors.len() + 1
    }

    /// The operator's key that signed the root.
    #[must_use]
    pub fn kid(&self) -> &KeyId {
        &self.root().signer
    }

    /// The label of the token that acts.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.leaf.claims.jti
    }

    /// The root's issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.root().claims.iss
    }

    /// The acting agent (`client_id`).
    #[must_use]
    pub const fn agent(&self) -> &AgentName {
        &self.leaf.claims.agent
    }

    /// In whose name it acts (`sub`).
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.leaf.claims.principal
    }

    /// What it may be used for: no token of the chain grants more to the next.
    #[must_use]
    pub const fn scopes(&self) -> &Scopes {
        &self.leaf.claims.scopes
    }

    /// The limits of each token, of the one that acts first, in the order of [`AgentName::lineage`]. All of them hold.
    pub fn grants(&self) -> impl Iterator<Item = &Grants> {
        self.links().map(|link| &link.claims.grants)
    }

    /// When the root was issued.
    #[must_use]
    pub fn issued(&self) -> Timestamp {
        self.root().claims.issued_at()
    }

    /// When it ends: no token outlives its parent.
    #[must_use]
    pub const fn expires(&self) -> Timestamp {
        self.leaf.claims.expires_at()
    }

    /// Asks again whether the times hold `now`.
    ///
    /// # Errors
    /// `token-expired` or `token-not-yet-valid`.
    pub fn still_valid(&self, now: Timestamp) -> Result<(), Refusal> {
        // A child begins no earlier and ends no later than its parent.
        times(&self.leaf.claims, now)
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

/// Verifies what is presented at the door: all that [`verify_issued`] asks, and that the last token may be carried by whoever
/// has it.
///
/// # Errors
/// Any refusal of the stage verified.
pub fn verify(presented: &Presented<'_>, keys: &dyn Keys, verifier: &dyn Verifier, now: Timestamp) -> Result<Verified, Refusal> {
    let verified = verify_issued(presented, keys, verifier, now)?;
    let ancestors: Vec<&Claims> = verified.ancestors.iter().map(|link| &link.claims).collect();
    carried(&ancestors, &verified.leaf.claims)?;
    Ok(verified)
}

/// Verifies a token or a chain as it was signed, whoever may use it: keys and signatures from the root to the leaf, then the
/// issuer, what joins the tokens, and the times. For registering and revoking.
///
/// # Errors
/// Any refusal of the stage verified.
pub fn verify_issued(
    presented: &Presented<'_>,
    keys: &dyn Keys,
    verifier: &dyn Verifier,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let (known, links, leaf) = chain_of(presented, keys, verifier)?;
    let root = links.first().unwrap_or(&leaf);
    if root.claims.depth != 0 {
        return Err(Refusal::new(Code::ChainDepth).because("the first token of a chain is a root (del_depth 0)"));
    }
    issuer_holds(&root.claims, &known.issuer)?;
    for (place, parent) in links.iter().enumerate() {
        let child = links.get(place + 1).unwrap_or(&leaf);
        if let Some(link) = presented.links().get(place) {
            joined((&parent.claims, link), (&child.claims, &child.signer))?;
        }
    }
    if !leaf.claims.aud.contains(&known.issuer.aud) {
        return Err(Code::TokenAudience.into());
    }
    times(&leaf.claims, now)?;
    Ok(Verified { ancestors: links, leaf })
}

fn operator_key(link: &Link<'_>, keys: &dyn Keys) -> Result<(KeyId, Arc<KnownKey>), Refusal> {
    let kid: KeyId = link.kid.parse().map_err(|_| Refusal::new(Code::TokenKeyUnknown))?;
    let known = keys.key(&kid).ok_or(Code::TokenKeyUnknown)?;
    Ok((kid, known))
}

/// Every token of a chain with its signature verified, the last one apart, and the operator's key.
fn chain_of(
    presented: &Presented<'_>,
    keys: &dyn Keys,
    verifier: &dyn Verifier,
) -> Result<(Arc<KnownKey>, Vec<Signed>, Signed), Refusal> {
    let Some((first, rest)) = presented.links().split_first() else {
        return Err(Code::TokenMalformed.into());
    };
    let (kid, known) = operator_key(first, keys)?;
    let policy = known.issuer.post_quantum;
    let root_must = matches!(policy, PostQuantum::RequiredRoot | PostQuantum::Required);
    let root = signed(first, (kid, &known.key), verifier, root_must)?;
    let mut links = Vec::with_capacity(presented.links().len());
    let mut leaf = root;
    for link in rest {
        let holder = leaf.claims.holder.as_ref().map(|holder| (holder.id(), holder.key().clone()));
        let (kid, key) = holder.ok_or_else(|| Refusal::new(Code::ChainSigner).because("the parent names no key (cnf.jwk)"))?;
        if link.kid != kid.to_string() {
            return Err(Refusal::new(Code::ChainSigner).because("kid is not the thumbprint of the parent's cnf.jwk"));
        }
        let child = signed(link, (kid, &key), verifier, policy == PostQuantum::Required)?;
        links.push(std::mem::replace(&mut leaf, child));
    }
    Ok((known, links, leaf))
}

/// Verifies headers, keys and signatures alone: of a chain's children as far as their parents' claims name the keys.
///
/// # Errors
/// `token-key-unknown`, `token-algorithm`, `token-post-quantum`, `token-signature`; of a chain also `chain-signer` and what
/// refuses the claims of a parent.
pub fn verify_signatures(presented: &Presented<'_>, keys: &dyn Keys, verifier: &dyn Verifier) -> Result<(), Refusal> {
    let [link] = presented.links() else { return chain_of(presented, keys, verifier).map(drop) };
    let (_, known) = operator_key(link, keys)?;
    signature_holds(link, &known.key, verifier, known.issuer.post_quantum != PostQuantum::Off)
}

/// One token whose algorithm is the key's and whose signature holds.
fn signed(
    link: &Link<'_>,
    (signer, key): (KeyId, &PublicKey),
    verifier: &dyn Verifier,
    post_quantum: bool,
) -> Result<Signed, Refusal> {
    signature_holds(link, key, verifier, post_quantum)?;
    Ok(Signed { id: link.id(), signer, claims: Claims::read(&link.payload)? })
}

fn signature_holds(link: &Link<'_>, key: &PublicKey, verifier: &dyn Verifier, post_quantum: bool) -> Result<(), Refusal> {
    algorithm_holds(&link.algorithm, key.algorithm(), post_quantum)?;
    let verified = verifier.verify(key, link.signed.as_bytes(), &link.signature);
    verified.map(drop).map_err(|fault| Refusal::new(Code::TokenSignature).because(fault))
}

/// The algorithm is the key's, never the token's choice; and it is post-quantum where the issuer's policy wants that.
fn algorithm_holds(named: &str, algorithm: Algorithm, post_quantum: bool) -> Result<(), Refusal> {
    let same = match algorithm {
        Algorithm::MlDsa65 => named == "ML-DSA-65",
        // RFC 9864 renames what RFC 8037 called EdDSA.
        Algorithm::Ed25519 => named == "Ed25519" || named == "EdDSA",
    };
    if !same {
        return Err(Code::TokenAlgorithm.into());
    }
    if post_quantum && !algorithm.post_quantum() { Err(Code::TokenPostQuantum.into()) } else { Ok(()) }
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
