//! Verifies a [`Presented`] token and returns a [`Verified`] one: keys, signatures, claims, joints,
//! times.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::crypto::{Algorithm, PublicKey, Verifier};
use crate::id::{AgentName, KeyId, Principal, TokenId};
use crate::refusal::{Code, Refusal};
use crate::token::chain::{ChildToken, ParentToken, carried, joined};
use crate::token::claims::Claims;
use crate::token::names::heap;
use crate::token::presented::Link;
use crate::token::{Grants, Presented, Principals, Scopes};

/// The signatures of an issuer that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostQuantum {
    /// The root of a chain must be signed with ML-DSA-65.
    RequiredRoot,
    /// Every token of a chain must be signed with ML-DSA-65.
    Required,
    /// Ed25519 roots are accepted too.
    Off,
}

/// The rules for an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerPolicy {
    /// Its `iss`.
    pub iss: String,
    /// The name of this gateway in `aud`.
    pub aud: String,
    /// Namespaces that it may speak for; `*` means all.
    pub namespaces: Vec<String>,
    /// Principals that it may speak for.
    pub principals: Principals,
    /// The longest lifetime of a token, from `iat` to `exp`.
    pub ttl_max: Duration,
    /// The signatures that are accepted.
    pub post_quantum: PostQuantum,
    /// Whether its tokens are accepted by handle.
    pub handles: bool,
    /// The most entries in a list of a token.
    pub list_max: usize,
}

/// A key that may sign tokens, with its issuer.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// Its thumbprint.
    pub id: KeyId,
    /// The key.
    pub key: PublicKey,
    /// Its issuer.
    pub issuer: Arc<IssuerPolicy>,
}

/// The source of keys.
pub trait KeySource {
    /// The key with that thumbprint.
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>>;
}

/// How many seconds this clock may be slower than the issuer's.
const LEEWAY_S: i64 = 5;

/// One token of a chain with a verified signature.
struct SignedToken {
    id: TokenId,
    /// The key that signed it.
    signer: KeyId,
    claims: Claims,
}

/// The kept part of a verified token: neither its key nor its text.
struct ChainLink {
    id: TokenId,
    signer: KeyId,
    grants: Grants,
}

impl ChainLink {
    /// Separates what is kept for every token of a chain from the claims.
    fn of(signed: SignedToken) -> (Self, Claims) {
        let SignedToken { id, signer, mut claims } = signed;
        let grants = std::mem::take(&mut claims.grants);
        (Self { id, signer, grants }, claims)
    }
}

/// A token or chain whose signatures, claims, joints and times are valid. Only [`verify`] and its
/// variants make one.
pub struct Verified {
    /// Root first; empty where the root token acts.
    ancestors: Box<[ChainLink]>,
    /// The token that acts.
    leaf: ChainLink,
    /// The issuer of the root token.
    issuer: Arc<IssuerPolicy>,
    /// The label of the acting token.
    jti: Box<str>,
    /// `client_id` of the acting token.
    agent: AgentName,
    /// `sub`, the same in the whole chain.
    principal: Principal,
    /// The scopes of the acting token.
    scopes: Scopes,
    /// When the root token was issued, in seconds since 1970.
    root_issued: i64,
    times: TokenTimes,
    /// The key that may sign children of the acting token.
    holder: Option<KeyId>,
}

/// The times of the acting token, in seconds since 1970.
#[derive(Clone, Copy)]
struct TokenTimes {
    /// `iat`.
    issued: i64,
    /// The later of `iat` and `nbf`.
    begins: i64,
    /// `exp`.
    expires: i64,
}

impl Verified {
    /// The id of the acting token.
    #[must_use]
    pub const fn id(&self) -> &TokenId {
        &self.leaf.id
    }

    /// The ids of all tokens of the chain, the acting one first.
    pub fn ids(&self) -> impl Iterator<Item = &TokenId> {
        self.links().map(|link| &link.id)
    }

    /// All tokens of the chain, each with the key that signed it, the root token first.
    pub fn chain(&self) -> impl Iterator<Item = (TokenId, KeyId)> {
        self.ancestors.iter().chain(std::iter::once(&self.leaf)).map(|link| (link.id, link.signer))
    }

    /// The holders' keys in the chain; those that signed children come first.
    pub fn holders(&self) -> impl Iterator<Item = KeyId> {
        self.chain().skip(1).map(|(_, signer)| signer).chain(self.holder)
    }

    /// The acting token and those above it, nearest first.
    fn links(&self) -> impl Iterator<Item = &ChainLink> {
        std::iter::once(&self.leaf).chain(self.ancestors.iter().rev())
    }

    /// The number of tokens in the chain.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.ancestors.len() + 1
    }

    /// The operator's key that signed the root token.
    #[must_use]
    pub fn kid(&self) -> &KeyId {
        &self.ancestors.first().unwrap_or(&self.leaf).signer
    }

    /// The label of the acting token.
    #[must_use]
    pub const fn jti(&self) -> &str {
        &self.jti
    }

    /// The issuer of the root token.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer.iss
    }

    /// The acting agent (`client_id`).
    #[must_use]
    pub const fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// The principal in whose name it acts (`sub`).
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The scopes of the acting token. No token of a chain grants more to the next one.
    #[must_use]
    pub const fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The limits of each token, the acting one first, in the order of [`AgentName::lineage`]. All
    /// of them apply.
    pub fn grants(&self) -> impl Iterator<Item = &Grants> {
        self.links().map(|link| &link.grants)
    }

    /// When the root token was issued.
    #[must_use]
    pub const fn issued(&self) -> Timestamp {
        Timestamp(self.root_issued.saturating_mul(1000))
    }

    /// When it expires. No token outlives its parent.
    #[must_use]
    pub const fn expires(&self) -> Timestamp {
        Timestamp(self.times.expires.saturating_mul(1000))
    }

    /// Checks again whether the times are valid `now`.
    ///
    /// # Errors
    /// `token-expired` or `token-not-yet-valid`.
    pub fn still_valid(&self, now: Timestamp) -> Result<(), Refusal> {
        // Only the acting token is checked: it begins no earlier and ends no later than its
        // parents.
        self.not_over(now)?;
        // The leeway is for the beginning only: at the end it would lengthen the life of a token.
        if self.times.begins > now.seconds().saturating_add(LEEWAY_S) {
            return Err(Code::TokenNotYetValid.into());
        }
        Ok(())
    }

    /// Checks that it has not expired `now`.
    ///
    /// # Errors
    /// `token-expired`.
    pub fn not_over(&self, now: Timestamp) -> Result<(), Refusal> {
        if now.seconds() >= self.times.expires { Err(Code::TokenExpired.into()) } else { Ok(()) }
    }

    /// The additional memory that it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let names = heap(self.jti.len())
            + heap(self.agent.as_str().len())
            + heap(self.principal.as_str().len());
        let mut bytes = names + heap(size_of_val(&*self.ancestors));
        for grants in self.grants() {
            bytes += grants.bytes();
        }
        bytes
    }

    /// Joins the parts of a verified chain.
    fn of(ancestors: Vec<SignedToken>, leaf: SignedToken, issuer: Arc<IssuerPolicy>) -> Self {
        let root_issued = root_of(&ancestors, &leaf).claims.issued;
        let ancestors = ancestors.into_iter().map(|link| ChainLink::of(link).0).collect();
        let (leaf, claims) = ChainLink::of(leaf);
        let times =
            TokenTimes { issued: claims.issued, begins: claims.begins(), expires: claims.expires };
        let holder = claims.holder_id();
        Self {
            ancestors,
            leaf,
            issuer,
            jti: claims.jti.into(),
            agent: claims.agent,
            principal: claims.principal,
            scopes: claims.scopes,
            root_issued,
            times,
            holder,
        }
    }

    /// Checks that the last token may be used as a bearer token.
    fn may_be_carried(&self) -> Result<(), Refusal> {
        let life = self.times.expires.saturating_sub(self.times.issued);
        carried(self.ancestors.iter().map(|link| &link.grants), self.holder.is_some(), life)
    }
}

/// The root token of a chain: the first of the tokens above `leaf`, or `leaf` itself.
fn root_of<'s>(ancestors: &'s [SignedToken], leaf: &'s SignedToken) -> &'s SignedToken {
    ancestors.first().unwrap_or(leaf)
}

/// Verifies what a caller presents: everything that [`verify_issued`] checks, and that the last
/// token may be used as a bearer token.
///
/// # Errors
/// Any refusal of the stage verified.
pub fn verify(
    presented: &Presented<'_>,
    keys: &dyn KeySource,
    verifier: &dyn Verifier,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let verified = verify_issued(presented, keys, verifier, now)?;
    verified.may_be_carried()?;
    Ok(verified)
}

/// Verifies a token or a chain as it was signed, with its times, for any party that uses it. For
/// registrations.
///
/// # Errors
/// Any refusal of the stage verified.
pub fn verify_issued(
    presented: &Presented<'_>,
    keys: &dyn KeySource,
    verifier: &dyn Verifier,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let verified = verify_whenever(presented, keys, verifier)?;
    verified.still_valid(now)?;
    Ok(verified)
}

/// Verifies a token or a chain as it was signed, for any party that uses it and at any time. It
/// checks keys and signatures from the root to the last token, then the issuer and the joints. For
/// revocations: a token that begins later is revoked now.
///
/// # Errors
/// Any refusal of the stage verified except those of the times.
pub fn verify_whenever(
    presented: &Presented<'_>,
    keys: &dyn KeySource,
    verifier: &dyn Verifier,
) -> Result<Verified, Refusal> {
    let (known, links, leaf) = chain_of(presented, keys, verifier)?;
    let root = root_of(&links, &leaf);
    // A child without its parents must not act as a root token, whatever key has signed it.
    if root.claims.depth != 0 {
        return Err(Refusal::new(Code::ChainDepth)
            .because("the first token of a chain is a root (del_depth 0)"));
    }
    issuer_holds(&root.claims, &known.issuer)?;
    for (place, parent) in links.iter().enumerate() {
        let child = links.get(place + 1).unwrap_or(&leaf);
        if let Some(link) = presented.links().get(place) {
            let above = ParentToken { claims: &parent.claims, link };
            joined(above, ChildToken { claims: &child.claims, signer: &child.signer })?;
        }
    }
    // A child may name fewer audiences than its parent, so the last one must still name this
    // gateway.
    if !leaf.claims.aud.contains(&known.issuer.aud) {
        return Err(Code::TokenAudience.into());
    }
    Ok(Verified::of(links, leaf, Arc::clone(&known.issuer)))
}

/// The operator's key that a root token names.
fn operator_key(link: &Link<'_>, keys: &dyn KeySource) -> Result<(KeyId, Arc<KnownKey>), Refusal> {
    let kid: KeyId = link.kid.parse().map_err(|_| Refusal::new(Code::TokenKeyUnknown))?;
    match keys.key(&kid) {
        Some(known) => Ok((kid, known)),
        None => Err(Code::TokenKeyUnknown.into()),
    }
}

/// All tokens of a chain with verified signatures, the last one apart, and the operator's key.
fn chain_of(
    presented: &Presented<'_>,
    keys: &dyn KeySource,
    verifier: &dyn Verifier,
) -> Result<(Arc<KnownKey>, Vec<SignedToken>, SignedToken), Refusal> {
    let Some((first, rest)) = presented.links().split_first() else {
        return Err(Code::TokenMalformed.into());
    };
    let (kid, known) = operator_key(first, keys)?;
    let policy = known.issuer.post_quantum;
    let root_must = matches!(policy, PostQuantum::RequiredRoot | PostQuantum::Required);
    let list_max = known.issuer.list_max;
    let rules = SignedRules { post_quantum: root_must, list_max };
    let root = signed(first, kid, &known.key, verifier, rules)?;
    // A holder's key may be Ed25519 where only the root must be post-quantum.
    let rules = SignedRules { post_quantum: policy == PostQuantum::Required, list_max };
    let mut links = Vec::with_capacity(presented.links().len());
    let mut leaf = root;
    for link in rest {
        // The key of a child comes only from its parent's verified claims, never from the child.
        let Some(holder) = &leaf.claims.holder else {
            return Err(
                Refusal::new(Code::ChainSigner).because("the parent names no key (cnf.jwk)")
            );
        };
        if link.kid != holder.id().to_string() {
            return Err(Refusal::new(Code::ChainSigner)
                .because("kid is not the thumbprint of the parent's cnf.jwk"));
        }
        let child = signed(link, holder.id(), holder.key(), verifier, rules)?;
        links.push(std::mem::replace(&mut leaf, child));
    }
    Ok((known, links, leaf))
}

/// Verifies only headers, keys and signatures. A child is verified as far as its parent's claims
/// name the key.
///
/// # Errors
/// `token-key-unknown`, `token-algorithm`, `token-post-quantum`, `token-signature`. For a chain
/// also `chain-signer` and the refusals of a parent's claims.
pub fn verify_signatures(
    presented: &Presented<'_>,
    keys: &dyn KeySource,
    verifier: &dyn Verifier,
) -> Result<(), Refusal> {
    let [link] = presented.links() else { return chain_of(presented, keys, verifier).map(drop) };
    let (_, known) = operator_key(link, keys)?;
    signature_holds(link, &known.key, verifier, known.issuer.post_quantum != PostQuantum::Off)
}

/// What the issuer's policy requires of one token.
#[derive(Clone, Copy)]
struct SignedRules {
    /// Whether it must be signed with ML-DSA-65.
    post_quantum: bool,
    /// The most entries in one of its lists.
    list_max: usize,
}

/// One token whose algorithm is the key's, whose signature is valid, and which fulfils `rules`.
/// `signer` is the thumbprint of `key`.
fn signed(
    link: &Link<'_>,
    signer: KeyId,
    key: &PublicKey,
    verifier: &dyn Verifier,
    rules: SignedRules,
) -> Result<SignedToken, Refusal> {
    // The payload is parsed only after its signature is verified, so unauthenticated callers cannot
    // reach that code.
    signature_holds(link, key, verifier, rules.post_quantum)?;
    let claims = Claims::read(&link.payload, rules.list_max)?;
    Ok(SignedToken { id: link.id(), signer, claims })
}

/// Checks the algorithm and the signature of one token.
fn signature_holds(
    link: &Link<'_>,
    key: &PublicKey,
    verifier: &dyn Verifier,
    post_quantum: bool,
) -> Result<(), Refusal> {
    algorithm_holds(&link.algorithm, key.algorithm(), post_quantum)?;
    match verifier.verify(key, link.signed.as_bytes(), &link.signature) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Refusal::new(Code::TokenSignature).because(fault)),
    }
}

/// Checks the algorithm. It is the key's, never the token's choice (RFC 8725 section 3.1). It is
/// post-quantum where the issuer's policy requires that.
fn algorithm_holds(named: &str, algorithm: Algorithm, post_quantum: bool) -> Result<(), Refusal> {
    let same = match algorithm {
        Algorithm::MlDsa65 => named == "ML-DSA-65",
        // RFC 9864 renames what RFC 8037 called EdDSA.
        Algorithm::Ed25519 => named == "Ed25519" || named == "EdDSA",
    };
    if !same {
        return Err(Code::TokenAlgorithm.into());
    }
    if post_quantum && !algorithm.post_quantum() {
        Err(Code::TokenPostQuantum.into())
    } else {
        Ok(())
    }
}

/// Checks the claims of a root token against its issuer's policy.
fn issuer_holds(claims: &Claims, issuer: &IssuerPolicy) -> Result<(), Refusal> {
    // The key determines the issuer. Without this check, one issuer could sign in the name of
    // another one.
    if claims.iss != issuer.iss {
        return Err(Code::TokenIssuer.into());
    }
    if !claims.aud.contains(&issuer.aud) {
        return Err(Code::TokenAudience.into());
    }
    if !issuer
        .namespaces
        .iter()
        .any(|namespace| namespace == "*" || namespace == claims.agent.namespace())
    {
        let (theirs, ours) = (claims.agent.namespace(), issuer.namespaces.join(", "));
        return Err(Refusal::new(Code::TokenNamespace)
            .because(format_args!("namespace {theirs}, not one of {ours}")));
    }
    if !issuer.principals.include(claims.principal.as_str()) {
        let (theirs, ours) = (claims.principal.as_str(), issuer.principals.in_words());
        return Err(Refusal::new(Code::TokenPrincipal)
            .because(format_args!("principal {theirs}, not one of {ours}")));
    }
    // Both are dates from 1970 on, so the difference does not overflow.
    let seconds = claims.expires.saturating_sub(claims.issued);
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => Err(Refusal::new(Code::TokenClaims).because("exp is not after iat")),
        Ok(lifetime) if lifetime > issuer.ttl_max.as_secs() => Err(Code::TokenLifetime.into()),
        Ok(_) => Ok(()),
    }
}
