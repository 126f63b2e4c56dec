//! Who is asking? From the headers to an [`Authenticated`] caller.
//!
//! Cheap before dear: shape of the headers, then the memory of verified tokens, and only for a token that is not remembered
//! the rates of its peer and of its root token, and the signature. What turns out good gives its peer the charge back, and what
//! does not its root: strangers are counted by where they come from, whoever makes new chains by what they hold. A token is found in the memory by a keyed hash and taken for known only if it is the
//! same text from end to end, so that the hash need not be a cryptographic one: SHA-256 over an ML-DSA-65 token costs more
//! than the rest of this question. What is remembered is asked for times, key and standing again on every request, so a
//! revocation acts on the next one.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::RandomState;
use http::header::{AUTHORIZATION, HeaderMap};

use crate::audit::format::request::Caller;
use crate::clock::Clock;
use crate::crypto::Verifier;
use crate::guard::charges::Charges;
use crate::guard::limiter::{Limiter, Subject, SubjectKind};
use crate::guard::settings::Class;
use crate::guard::table::Tables;
use crate::id::{HandleId, KeyId, TokenId};
use crate::keyring::Keyring;
use crate::refusal::{Code, Refusal};
use crate::registry::{self, Changes, Registry, Subscription};
use crate::token::{KeySource as _, Presented, Verified, handle, verify};

/// The credential of one request, as it stood in the headers.
pub struct Credential<'h>(&'h str);

/// Longest credential that is looked at, in bytes (docs/TOKEN.md: 40 KiB a chain).
const CREDENTIAL_MAX: usize = 40 << 10;

impl<'h> Credential<'h> {
    /// Reads `Authorization: Bearer …` or `x-api-key`: exactly one of them, exactly once.
    ///
    /// # Errors
    /// `token-missing`, `token-ambiguous`, `token-scheme` or `token-too-large`.
    pub fn read(headers: &'h HeaderMap) -> Result<Self, Refusal> {
        let mut bearer = headers.get_all(AUTHORIZATION).iter();
        let mut key = headers.get_all("x-api-key").iter();
        let (value, has_scheme) = match (bearer.next(), key.next()) {
            (None, None) => return Err(Code::TokenMissing.into()),
            (Some(value), None) => (value, true),
            (None, Some(value)) => (value, false),
            (Some(_), Some(_)) => return Err(Code::TokenAmbiguous.into()),
        };
        if bearer.next().is_some() || key.next().is_some() {
            return Err(Code::TokenAmbiguous.into());
        }
        if value.len() > CREDENTIAL_MAX + "Bearer ".len() {
            return Err(Code::TokenTooLarge.into());
        }
        let text = value.to_str().map_err(|_| Refusal::new(Code::TokenMalformed))?;
        if !has_scheme {
            return Ok(Self(text));
        }
        let (scheme, token) = text.split_once(' ').ok_or(Code::TokenScheme)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self(token))
        } else {
            Err(Code::TokenScheme.into())
        }
    }
}

/// A verified token together with what is worked out from it once.
pub struct CachedToken {
    /// What it says.
    pub verified: Verified,
    /// The agent and those that it was delegated from, nearest first.
    pub agents: Vec<Subject>,
    /// The principal.
    pub principal: Subject,
    /// What records say of it.
    pub caller: Arc<Caller>,
    /// Whether its issuer lets handles stand for tokens.
    by_handle: bool,
    generation: u64,
    /// Changes that its requests have to hear of.
    subscription: Subscription,
    /// The token itself: what is presented must be this to be taken for it.
    text: Box<str>,
    /// Memory that it takes in all, in bytes.
    bytes: usize,
}

impl CachedToken {
    /// Memory that a token of `text` takes, with all that is kept of it and its place among the others.
    fn weigh(
        text: &str,
        verified: &Verified,
        agents: usize,
        caller: &Caller,
        subscription: &Subscription,
    ) -> usize {
        let own = subscription.bytes()
            + size_of::<Self>()
            + size_of::<Caller>()
            + agents * size_of::<Subject>()
            + size_of_val(&*caller.chain);
        // The text is the largest piece; allocators round such pieces up by as much as a quarter.
        own + text.len() + text.len() / 4 + verified.bytes() + ENTRY_BYTES
    }
}

/// A caller whose token verifies and who may act. Only [`Authenticator::authenticate`] makes one.
pub struct Authenticated {
    remembered: Arc<CachedToken>,
    class: Arc<Class>,
    tables: Arc<Tables>,
    handle: Option<HandleId>,
}

impl Authenticated {
    /// The handle that was presented in the token's place.
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

    /// The config's tables, as they were when the request came.
    #[must_use]
    pub const fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }
}

/// A caller who may not act; whose token it is, where its signatures, times and proof hold.
pub struct Denied {
    /// Why not.
    pub refusal: Refusal,
    /// The token.
    pub token: Option<Arc<CachedToken>>,
    /// The handle that was presented in its place.
    pub handle: Option<HandleId>,
}

impl From<Refusal> for Box<Denied> {
    fn from(refusal: Refusal) -> Self {
        Self::new(Denied { refusal, token: None, handle: None })
    }
}

/// A token that was verified again, after keys or issuers have changed.
pub struct Renewed {
    /// The token.
    pub token: Arc<CachedToken>,
    /// Changes that concern it, since before its status was checked.
    pub changes: Changes,
}

/// A caller whose token is valid, and how that was found.
pub struct Authentication {
    /// The caller.
    pub caller: Authenticated,
    /// Changes that concern it, since before its status was checked.
    pub changes: Changes,
    /// How its token was found valid.
    pub found: TokenLookup,
}

/// How a token was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLookup {
    /// It was remembered.
    Cached,
    /// Its signature was verified now.
    Verified,
}

/// What is planned for a remembered token, in bytes: an ML-DSA-65 root and what it says take about eight thousand.
const REMEMBERED_BYTES: u64 = 9 << 10;
/// What a place in the memory takes beside the token: slots, hashes, and what the allocator keeps for six pieces.
const ENTRY_BYTES: usize = 256;
/// A token that takes more is verified each time. No chain of 40 KiB does.
const ENTRY_MAX: usize = 64 << 10;
/// Below this a memory could not hold a single long chain.
const MEMORY_MIN: u64 = 1 << 20;

/// Weighs remembered tokens by the memory that they take: whoever holds a key can sign any number of long chains.
#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<u64, Arc<CachedToken>> for Weight {
    fn weight(&self, _: &u64, known: &Arc<CachedToken>) -> u64 {
        known.bytes as u64
    }
}

/// What a token that is not remembered is charged to, before it is verified.
#[derive(Clone, Copy)]
struct Charge {
    peer: u128,
    root: u128,
}

/// The question and what it is answered from.
pub struct Authenticator {
    keyring: Arc<Keyring>,
    registry: Arc<Registry>,
    limiter: Arc<Limiter>,
    verifier: Box<dyn Verifier>,
    clock: Arc<dyn Clock>,
    memory: Option<quick_cache::sync::Cache<u64, Arc<CachedToken>, Weight>>,
    hashing: RandomState,
    peers: Charges,
    roots: Charges,
}

/// The network that a peer is counted under: its IPv4 address, or the /64 of its IPv6 address.
#[must_use]
pub fn network(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(four) => four.to_ipv6_mapped().to_bits(),
        IpAddr::V6(six) => six.to_bits() >> 64 << 64,
    }
}

impl Authenticator {
    /// A door over those books. `token_cache` is the number of tokens remembered (0: none), `peer_rps` how many requests
    /// without a good token one peer network may send a second, `root_rps` how many good tokens and chains that are not
    /// remembered are verified a second below one root token.
    #[must_use]
    pub fn new(
        books: (Arc<Keyring>, Arc<Registry>, Arc<Limiter>),
        verifier: Box<dyn Verifier>,
        clock: Arc<dyn Clock>,
        token_cache: usize,
        (peer_rps, root_rps): (u32, u32),
    ) -> Self {
        let (keyring, registry, limiter) = books;
        let bytes = REMEMBERED_BYTES.saturating_mul(token_cache as u64).max(MEMORY_MIN);
        let memory = (token_cache > 0)
            .then(|| quick_cache::sync::Cache::with_weighter(token_cache, bytes, Weight));
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

    /// Counts a request without a good token against its peer's network.
    ///
    /// # Errors
    /// `peer-rate` when the network's rate is used up.
    pub fn limit_unauthenticated(&self, peer: IpAddr) -> Result<(), Refusal> {
        self.peers
            .take(network(peer), self.now())
            .map_err(|_| Refusal::new(Code::PeerRate).after(std::time::Duration::from_secs(1)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Charges a token that is not remembered to its peer's network and to its root token.
    fn charge(&self, peer: IpAddr, text: &str) -> Result<Charge, Refusal> {
        self.limit_unauthenticated(peer)?;
        // A root has one spelling, so its text stands for it; a keyed hash is enough to count by.
        let root = text.split('~').next().unwrap_or_default();
        let charge = Charge { peer: network(peer), root: u128::from(self.hashing.hash_one(root)) };
        self.roots.take(charge.root, self.now()).map_err(|wait| {
            // Nothing was verified, and others behind the same address need not wait for this root.
            self.peers.give_back(charge.peer, self.now());
            Refusal::new(Code::RootRate).after(wait)
        })?;
        Ok(charge)
    }

    /// Gives the half of a charge back that does not apply: a good token's peer did nothing wrong, and what is no good says
    /// nothing about the holder of the root that it begins with.
    fn settle(&self, charge: Charge, good: bool) {
        let now = self.now();
        if good {
            self.peers.give_back(charge.peer, now);
        } else {
            self.roots.give_back(charge.root, now);
        }
    }

    /// The public keys that anybody may have, as a JWK Set, for a caller without a token.
    ///
    /// # Errors
    /// `peer-rate`.
    pub fn published_keys(&self, peer: IpAddr) -> Result<String, Refusal> {
        self.limit_unauthenticated(peer)?;
        Ok(self.keyring.published())
    }

    /// Answers who is asking.
    ///
    /// # Errors
    /// Any refusal of the stages presented, verified and authenticated.
    pub fn authenticate(
        &self,
        credential: &Credential<'_>,
        peer: IpAddr,
        tables: Arc<Tables>,
    ) -> Result<Authentication, Box<Denied>> {
        let held = handle::id(credential.0).and_then(|id| self.registry.handle(&id));
        let text = held.as_ref().map_or(credential.0, |held| &held.text);
        let hash = self.hashing.hash_one(text);
        let generation = self.keyring.generation();
        let same = |known: &Arc<CachedToken>| {
            let same = aws_lc_rs::constant_time::verify_slices_are_equal(
                known.text.as_bytes(),
                text.as_bytes(),
            );
            same.is_ok() && known.generation == generation
        };
        if let Some(known) = self.memory.as_ref().and_then(|memory| memory.get(&hash)).filter(same)
        {
            let changes = self.changes(&known);
            self.refused(peer, known.verified.still_valid(self.clock.now()))?;
            let class = self.refused(peer, self.check_status(&known, held.is_some(), &tables));
            let caller = self.admitted(known, class, (tables, held.map(|held| held.id)))?;
            return Ok(Authentication { caller, changes, found: TokenLookup::Cached });
        }
        let charge = self.charge(peer, text)?;
        let known = self.verify(text, generation).inspect_err(|_| self.settle(charge, false))?;
        let known = Arc::new(known);
        let changes = self.changes(&known);
        let class = self.check_status(&known, held.is_some(), &tables);
        self.settle(charge, class.is_ok());
        // Who may not act takes nobody's place in the memory.
        if let (Some(memory), Ok(_)) = (&self.memory, &class)
            && known.bytes <= ENTRY_MAX
        {
            memory.insert(hash, Arc::clone(&known));
        }
        let caller = self.admitted(known, class, (tables, held.map(|held| held.id)))?;
        Ok(Authentication { caller, changes, found: TokenLookup::Verified })
    }

    /// Changes from now on that concern a token. A change of keys since it was verified counts as one.
    fn changes(&self, known: &CachedToken) -> Changes {
        let mut changes = known.subscription.changes();
        if known.generation != self.keyring.generation() {
            changes.mark();
        }
        changes
    }

    /// The caller, or whose token it is that may not act.
    fn admitted(
        &self,
        remembered: Arc<CachedToken>,
        class: Result<Arc<Class>, Refusal>,
        (tables, handle): (Arc<Tables>, Option<HandleId>),
    ) -> Result<Authenticated, Box<Denied>> {
        match class {
            Ok(class) => {
                self.keyring.note_use(remembered.verified.kid(), self.clock.now());
                Ok(Authenticated { remembered, class, tables, handle })
            }
            Err(refusal) => Err(Box::new(Denied { refusal, token: Some(remembered), handle })),
        }
    }

    /// Counts a remembered token that is refused against its peer, as one that is not remembered was counted already.
    fn refused<T>(&self, peer: IpAddr, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        answer.map_err(|refusal| self.limit_unauthenticated(peer).err().unwrap_or(refusal))
    }

    fn verify(&self, text: &str, generation: u64) -> Result<CachedToken, Refusal> {
        let presented = Presented::read(text)?;
        let verified = verify(&presented, &*self.keyring, &*self.verifier, self.clock.now())?;
        let agents: Vec<Subject> = verified
            .agent()
            .lineage()
            .map(|name| self.limiter.subject(SubjectKind::Agent, name))
            .collect();
        let principal = self.limiter.principal(verified.issuer(), verified.principal().as_str());
        let by_handle = self.keyring.key(verified.kid()).is_some_and(|key| key.issuer.handles);
        let (agent, named) = (verified.agent().clone(), verified.principal().clone());
        let caller =
            Arc::new(Caller { agent, principal: named, chain: verified.chain().collect() });
        let tokens: Vec<TokenId> = verified.ids().copied().collect();
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

    /// The standing of key, token and agent, and the agent's class. A token behind a handle is taken by that alone.
    fn check_status(
        &self,
        known: &CachedToken,
        by_handle: bool,
        tables: &Tables,
    ) -> Result<Arc<Class>, Refusal> {
        if self.may_act(known)?.is_some() && !by_handle {
            return Err(Code::HandleRequired.into());
        }
        let name = self.registry.class(known.verified.agent());
        tables
            .class(&name)
            .ok_or_else(|| Refusal::new(Code::ClassUnknown).because(format_args!("class {name}")))
    }

    /// Times, key, token, agent; and the handle that the token stands behind.
    fn may_act(&self, known: &CachedToken) -> Result<Option<HandleId>, Refusal> {
        let verified = &known.verified;
        verified.still_valid(self.clock.now())?;
        self.keyring.may_sign(verified.kid(), verified.issued())?;
        verified.holders().try_for_each(|kid| self.keyring.not_revoked(&kid))?;
        let behind =
            self.registry.may_act(verified.agent(), verified.principal(), verified.ids())?;
        if behind.is_some() && !known.by_handle { Err(Code::HandlesOff.into()) } else { Ok(behind) }
    }

    /// Asks again whether the caller of a request in flight may act. Where keys or issuers have changed since its token was
    /// verified, it is verified anew: the answer is then what to go by from now on.
    ///
    /// # Errors
    /// The refusal that a new request would get.
    pub fn may_still_act(&self, known: &CachedToken) -> Result<Option<Renewed>, Refusal> {
        let generation = self.keyring.generation();
        if known.generation == generation {
            return self.may_act(known).map(|_| None);
        }
        let token = Arc::new(self.verify(&known.text, generation)?);
        let changes = self.changes(&token);
        self.may_act(&token)?;
        Ok(Some(Renewed { token, changes }))
    }

    /// Bytes that the remembered tokens take.
    #[must_use]
    pub fn remembered_bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, quick_cache::sync::Cache::weight)
    }

    /// Gives the memory of peers and roots that were not seen lately back.
    pub fn sweep(&self) {
        let now = self.now();
        self.peers.sweep(now);
        self.roots.sweep(now);
    }
}

#[cfg(test)]
mod tests;
