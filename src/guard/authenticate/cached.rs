//! The token cache: verified tokens by a keyed hash of their text.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::audit::format::request::Caller;
use crate::guard::limiter::Subject;
use crate::registry::Subscription;
use crate::token::Verified;

/// The planned memory of a cached token, in bytes: an ML-DSA-65 root with its claims takes about
/// eight thousand.
const REMEMBERED_BYTES: u64 = 9 << 10;
/// The memory in bytes that a cache entry takes in addition to the token: slots, hashes, and the
/// allocator's overhead for six pieces.
const ENTRY_BYTES: usize = 256;
/// The largest cached token, in bytes. A larger one is verified each time. No chain of 40 KiB is as
/// large.
const ENTRY_MAX: usize = 64 << 10;
/// The smallest cache, in bytes. A smaller one could not hold a single long chain.
const MEMORY_MIN: u64 = 1 << 20;

/// A verified token, with values that are computed once.
pub struct CachedToken {
    /// The verified claims.
    pub verified: Verified,
    /// The agent and the agents that it was delegated from, nearest first.
    pub agents: Vec<Subject>,
    /// The principal.
    pub principal: Subject,
    /// The caller as records describe it.
    pub caller: Arc<Caller>,
    /// Whether its issuer allows handles for tokens.
    pub(super) by_handle: bool,
    /// The generation of the keyring by which it was verified.
    pub(super) generation: u64,
    /// Reports changes that concern its requests in flight.
    pub(super) subscription: Subscription,
    /// The token's text. A presented token must be equal to it.
    pub(super) text: Box<str>,
    /// The memory that it takes in total, in bytes.
    pub(super) bytes: usize,
}

impl CachedToken {
    /// The memory in bytes of a token with this text, with everything that is kept of it and its
    /// entry in the cache.
    pub(super) fn weigh(
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
        // The text is the largest piece. Allocators round such pieces up by as much as a quarter.
        own + text.len() + text.len() / 4 + verified.bytes() + ENTRY_BYTES
    }
}

/// Weighs cached tokens by their memory, because a holder of a key can sign any number of long
/// chains.
#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<u64, Arc<CachedToken>> for Weight {
    fn weight(&self, _: &u64, known: &Arc<CachedToken>) -> u64 {
        known.bytes as u64
    }
}

/// Cached tokens, by the keyed hash of their text.
pub(super) struct TokenCache(quick_cache::sync::Cache<u64, Arc<CachedToken>, Weight>);

impl TokenCache {
    /// An empty cache of `tokens` tokens; `None` for zero.
    pub(super) fn new(tokens: usize) -> Option<Self> {
        if tokens == 0 {
            return None;
        }
        // The cache is bounded in bytes, not in tokens: long chains take the room of many short
        // tokens.
        let bytes = REMEMBERED_BYTES.saturating_mul(tokens as u64).max(MEMORY_MIN);
        Some(Self(quick_cache::sync::Cache::with_weighter(tokens, bytes, Weight)))
    }

    /// The token with that hash and text, where it was verified under this generation of keys.
    pub(super) fn get(&self, hash: u64, text: &str, generation: u64) -> Option<Arc<CachedToken>> {
        let known = self.0.get(&hash)?;
        // In constant time: the time must not show how much of a guessed token equals a cached one.
        let same = verify_slices_are_equal(known.text.as_bytes(), text.as_bytes());
        if same.is_ok() && known.generation == generation { Some(known) } else { None }
    }

    /// Caches a token, unless it is too large.
    pub(super) fn insert(&self, hash: u64, known: &Arc<CachedToken>) {
        if known.bytes <= ENTRY_MAX {
            self.0.insert(hash, Arc::clone(known));
        }
    }

    /// The memory of the cached tokens, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}
