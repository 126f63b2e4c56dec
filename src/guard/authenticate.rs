//! Step "authenticate" of the guard: turns the request headers into an [`Authenticated`] caller.
//!
//! Cheap checks come before expensive ones. First comes the shape of the headers, then the token
//! cache. Only for a token that is not cached come the rates of its peer and of its root token, and
//! then the signature. A valid token gives the charge back to its peer, and an invalid one gives it
//! back to its root. So unauthenticated callers are counted by where they come from, and a holder
//! that makes new chains is counted by its root token.
//!
//! The cache finds a token by a keyed hash, and accepts it only if the whole text is equal. So the
//! hash need not be a cryptographic one: SHA-256 over an ML-DSA-65 token costs more than the rest
//! of this step. Times, key and status of a cached token are checked again on every request, so a
//! revocation acts on the next one.

mod cached;
mod credential;

pub use cached::CachedToken;
use cached::TokenCache;
pub use credential::Credential;

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::audit::format::request::Caller;
use crate::clock::Clock;
use crate::crypto::Verifier;
use crate::guard::charges::Charges;
use crate::guard::limiter::{Limiter, SubjectKind};
use crate::guard::settings::Class;
use crate::guard::table::Tables;
use crate::id::{HandleId, KeyId, TokenId};
use crate::keyring::Keyring;
use crate::refusal::{Code, Refusal};
use crate::registry::{self, Changes, Registry};
use crate::token::{KeySource as _, Presented, handle, verify};

/// A caller whose token is valid and that may act. Only [`Authenticator::authenticate`] makes one.
pub struct Authenticated {
    /// The verified token.
    remembered: Arc<CachedToken>,
    /// The agent's class, at the time of this request.
    class: Arc<Class>,
    /// The config of this request.
    tables: Arc<Tables>,
    /// The handle that the caller presented.
    handle: Option<HandleId>,
}

impl Authenticated {
    /// The handle that was presented instead of the token.
    #[must_use]
    pub const fn handle(&self) -> Option<&HandleId> {
        self.handle.as_ref()
    }

    /// The verified token and its subjects.
    #[must_use]
    pub fn token(&self) -> &Arc<CachedToken> {
        &self.remembered
    }

    /// The agent's class.
    #[must_use]
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// The config's tables at the time when the request came.
    #[must_use]
    pub const fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }
}

/// A caller that may not act.
pub struct Denied {
    /// The refusal.
    pub refusal: Refusal,
    /// The token, where its signatures, times and proof are valid.
    pub token: Option<Arc<CachedToken>>,
    /// The handle that was presented instead of it.
    pub handle: Option<HandleId>,
}

impl From<Refusal> for Box<Denied> {
    fn from(refusal: Refusal) -> Self {
        Self::new(Denied { refusal, token: None, handle: None })
    }
}

/// A token that was verified again after a change of keys or issuers.
pub struct Renewed {
    /// The token.
    pub token: Arc<CachedToken>,
    /// Changes that concern it. They are observed from before its status was checked.
    pub changes: Changes,
}

/// The result for a valid token.
pub struct Authentication {
    /// The caller.
    pub caller: Authenticated,
    /// Changes that concern it. They are observed from before its status was checked.
    pub changes: Changes,
    /// How its token was found valid.
    pub found: TokenLookup,
}

/// How a token was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLookup {
    /// It was in the token cache.
    Cached,
    /// Its signature was verified now.
    Verified,
}

/// The two counters that a token which is not cached is charged to before it is verified.
#[derive(Clone, Copy)]
struct Charge {
    /// The peer's network.
    peer: u128,
    /// The hash of the root token.
    root: u128,
}

/// Authenticates callers, with everything that this needs.
pub struct Authenticator {
    /// The issuers' keys.
    keyring: Arc<Keyring>,
    /// Status of agents, tokens and handles.
    registry: Arc<Registry>,
    /// Computes the subjects of a token.
    limiter: Arc<Limiter>,
    /// Verifies signatures.
    verifier: Box<dyn Verifier>,
    clock: Arc<dyn Clock>,
    /// The token cache, by the keyed hash of the text; `None` where it is off.
    memory: Option<TokenCache>,
    /// Has a random key, so that a caller cannot choose texts whose hashes collide.
    hashing: RandomState,
    /// Charges by peer network.
    peers: Charges,
    /// Charges by root token.
    roots: Charges,
}

/// The network under which a peer is counted: its IPv4 address, or the /64 of its IPv6 address.
#[must_use]
pub fn network(peer: IpAddr) -> u128 {
    // An IPv4 address may come in IPv4-mapped form (RFC 4291 section 2.5.5.2).
    match peer.to_canonical() {
        IpAddr::V4(four) => four.to_ipv6_mapped().to_bits(),
        // A single host usually gets a whole /64, so it could use a new address for each request.
        IpAddr::V6(six) => six.to_bits() >> 64 << 64,
    }
}

/// How many tokens are cached, and how many others are verified.
#[derive(Clone, Copy, Debug)]
pub struct VerificationLimits {
    /// The number of cached tokens (0: none).
    pub token_cache: usize,
    /// The requests a second that one peer network may send without a valid token.
    pub peer_rps: u32,
    /// The valid tokens and chains a second that are verified below one root token, where they are
    /// not cached.
    pub root_rps: u32,
}

impl Authenticator {
    /// An authenticator over those registries.
    #[must_use]
    pub fn new(
        keyring: Arc<Keyring>,
        registry: Arc<Registry>,
        limiter: Arc<Limiter>,
        verifier: Box<dyn Verifier>,
        clock: Arc<dyn Clock>,
        limits: VerificationLimits,
    ) -> Self {
        let VerificationLimits { token_cache, peer_rps, root_rps } = limits;
        let memory = TokenCache::new(token_cache);
        let (peers, roots) = (Charges::per_second(peer_rps), Charges::per_second(root_rps));
        Self {
            keyring,
            registry,
            limiter,
            verifier,
            clock,
            memory,
            hashing: RandomState::default(),
            peers,
            roots,
        }
    }

    /// Counts a request without a valid token against its peer's network.
    ///
    /// # Errors
    /// `peer-rate` when the network's rate is used up.
    pub fn limit_unauthenticated(&self, peer: IpAddr) -> Result<(), Refusal> {
        self.peers
            .take(network(peer), self.now())
            .map_err(|_| Refusal::new(Code::PeerRate).after(std::time::Duration::from_secs(1)))
    }

    /// The monotonic time in nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Charges a token that is not cached to its peer's network and to its root token.
    fn charge(&self, peer: IpAddr, text: &str) -> Result<Charge, Refusal> {
        self.limit_unauthenticated(peer)?;
        // A root token has only one valid spelling, so its text identifies it. A keyed hash is
        // enough for counting.
        let root = match text.split_once('~') {
            Some((root, _)) => root,
            None => text,
        };
        let charge = Charge { peer: network(peer), root: u128::from(self.hashing.hash_one(root)) };
        self.roots.take(charge.root, self.now()).map_err(|wait| {
            // No signature was verified. Other callers at the same address need not wait for this
            // root.
            self.peers.give_back(charge.peer, self.now());
            Refusal::new(Code::RootRate).after(wait)
        })?;
        Ok(charge)
    }

    /// Gives back the half of a charge that does not apply. The peer of a valid token caused no
    /// abuse. An invalid token is no evidence against the holder of the root that it begins with,
    /// because anyone can copy that text.
    fn settle(&self, charge: Charge, good: bool) {
        let now = self.now();
        if good {
            self.peers.give_back(charge.peer, now);
        } else {
            self.roots.give_back(charge.root, now);
        }
    }

    /// The public keys, as a JWK Set, for an unauthenticated caller.
    ///
    /// # Errors
    /// `peer-rate`.
    pub fn published_keys(&self, peer: IpAddr) -> Result<String, Refusal> {
        self.limit_unauthenticated(peer)?;
        Ok(self.keyring.published())
    }

    /// Authenticates the caller of a request.
    ///
    /// # Errors
    /// Any refusal of the stages presented, verified and authenticated.
    pub fn authenticate(
        &self,
        credential: &Credential<'_>,
        peer: IpAddr,
        tables: Arc<Tables>,
    ) -> Result<Authentication, Box<Denied>> {
        // An unknown handle is tried as a token, so that it is refused and charged in the same way
        // as any other text.
        let held = handle::id(credential.0).and_then(|id| self.registry.handle(&id));
        let text: &str = match &held {
            Some(held) => &held.text,
            None => credential.0,
        };
        let hash = self.hashing.hash_one(text);
        // Read before the verification. If keys change during it, the cached token has the former
        // generation and is verified again.
        let generation = self.keyring.generation();
        if let Some(memory) = &self.memory
            && let Some(known) = memory.get(hash, text, generation)
        {
            // Observed before the status check, so that a revocation between the two is not missed.
            let changes = self.changes(&known);
            self.refused(peer, known.verified.still_valid(self.clock.now()))?;
            let class = self.refused(peer, self.check_status(&known, held.is_some(), &tables));
            let caller = self.admitted(known, class, tables, held.map(|held| held.id))?;
            // A cached token needs no charge, because it costs no signature.
            return Ok(Authentication { caller, changes, found: TokenLookup::Cached });
        }
        // Before any signature is verified: that is the work that an unauthenticated caller must
        // not cause without limit.
        let charge = self.charge(peer, text)?;
        let known = match self.verify(text, generation) {
            Ok(known) => Arc::new(known),
            Err(refusal) => {
                self.settle(charge, false);
                return Err(refusal.into());
            }
        };
        let changes = self.changes(&known);
        let class = self.check_status(&known, held.is_some(), &tables);
        self.settle(charge, class.is_ok());
        // A caller that may not act replaces no other token in the cache.
        if let (Some(memory), Ok(_)) = (&self.memory, &class) {
            memory.insert(hash, &known);
        }
        let caller = self.admitted(known, class, tables, held.map(|held| held.id))?;
        Ok(Authentication { caller, changes, found: TokenLookup::Verified })
    }

    /// Changes from now on that concern a token. A change of keys since its verification counts as
    /// one.
    fn changes(&self, known: &CachedToken) -> Changes {
        let mut changes = known.subscription.changes();
        // Keys or issuers have changed since the verification. The mark makes the request check its
        // token again.
        if known.generation != self.keyring.generation() {
            changes.mark();
        }
        changes
    }

    /// The caller, or the refusal with the token that may not act.
    fn admitted(
        &self,
        remembered: Arc<CachedToken>,
        class: Result<Arc<Class>, Refusal>,
        tables: Arc<Tables>,
        handle: Option<HandleId>,
    ) -> Result<Authenticated, Box<Denied>> {
        match class {
            Ok(class) => {
                // The last use of a key tells the operator which keys are idle.
                self.keyring.note_use(remembered.verified.kid(), self.clock.now());
                Ok(Authenticated { remembered, class, tables, handle })
            }
            Err(refusal) => Err(Box::new(Denied { refusal, token: Some(remembered), handle })),
        }
    }

    /// Counts a cached token that is refused against its peer. A token that is not cached was
    /// counted before.
    fn refused<T>(&self, peer: IpAddr, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        if answer.is_err() {
            // `peer-rate` has priority over the reason: a peer over its rate learns no more about
            // the token.
            self.limit_unauthenticated(peer)?;
        }
        answer
    }

    /// Verifies a token and computes its cache entry.
    fn verify(&self, text: &str, generation: u64) -> Result<CachedToken, Refusal> {
        let presented = Presented::read(text)?;
        let verified = verify(&presented, &*self.keyring, &*self.verifier, self.clock.now())?;
        let mut agents = Vec::new();
        for name in verified.agent().lineage() {
            agents.push(self.limiter.subject(SubjectKind::Agent, name));
        }
        // Principals are counted by issuer, because two issuers may use the same name.
        let principal = self.limiter.principal(verified.issuer(), verified.principal().as_str());
        let key = self.keyring.key(verified.kid());
        let by_handle = key.is_some_and(|key| key.issuer.handles);
        let (agent, named) = (verified.agent().clone(), verified.principal().clone());
        let caller =
            Arc::new(Caller { agent, principal: named, chain: verified.chain().collect() });
        let tokens: Vec<TokenId> = verified.ids().copied().collect();
        // A change of any of these must reach the requests of this token.
        let keys: Vec<KeyId> = verified.holders().chain([*verified.kid()]).collect();
        let subjects =
            registry::ChangeSubject::of(verified.agent(), verified.principal(), &tokens, &keys);
        let subscription = self.registry.subscribe(subjects);
        let bytes = CachedToken::weigh(text, &verified, agents.len(), &caller, &subscription);
        let text = text.into();
        Ok(CachedToken {
            verified,
            agents,
            principal,
            caller,
            by_handle,
            generation,
            subscription,
            text,
            bytes,
        })
    }

    /// Checks the status of key, token and agent, and finds the agent's class. A token that has a
    /// handle is accepted only by that handle.
    fn check_status(
        &self,
        known: &CachedToken,
        by_handle: bool,
        tables: &Tables,
    ) -> Result<Arc<Class>, Refusal> {
        // The record of a registration contains the token. So a reader of the record must not be
        // able to use it (docs/TOKEN.md, Handles).
        if self.may_act(known)?.is_some() && !by_handle {
            return Err(Code::HandleRequired.into());
        }
        let name = self.registry.class(known.verified.agent());
        match tables.class(&name) {
            Some(class) => Ok(class),
            None => Err(Refusal::new(Code::ClassUnknown).because(format_args!("class {name}"))),
        }
    }

    /// Checks times, key, token and agent. Returns the token's handle, where it has one.
    fn may_act(&self, known: &CachedToken) -> Result<Option<HandleId>, Refusal> {
        let verified = &known.verified;
        verified.still_valid(self.clock.now())?;
        self.keyring.may_sign(verified.kid(), verified.issued())?;
        verified.holders().try_for_each(|kid| self.keyring.not_revoked(&kid))?;
        let behind =
            self.registry.may_act(verified.agent(), verified.principal(), verified.ids())?;
        if behind.is_some() && !known.by_handle { Err(Code::HandlesOff.into()) } else { Ok(behind) }
    }

    /// Checks again whether the caller of a request in flight may act. Where keys or issuers have
    /// changed since its token was verified, the token is verified again. The result then replaces
    /// the former token.
    ///
    /// # Errors
    /// The refusal that a new request would get.
    pub fn may_still_act(&self, known: &CachedToken) -> Result<Option<Renewed>, Refusal> {
        let generation = self.keyring.generation();
        if known.generation == generation {
            // The common case: no key or issuer has changed, so only times and status are checked.
            self.may_act(known)?;
            return Ok(None);
        }
        let token = Arc::new(self.verify(&known.text, generation)?);
        // Observed before the status check, so that a change between the two is not missed.
        let changes = self.changes(&token);
        self.may_act(&token)?;
        Ok(Some(Renewed { token, changes }))
    }

    /// The memory of the cached tokens, in bytes.
    #[must_use]
    pub fn remembered_bytes(&self) -> u64 {
        match &self.memory {
            Some(memory) => memory.bytes(),
            None => 0,
        }
    }

    /// Frees the memory of peers and roots without recent charges.
    pub fn sweep(&self) {
        let now = self.now();
        self.peers.sweep(now);
        self.roots.sweep(now);
    }
}

#[cfg(test)]
mod tests;
