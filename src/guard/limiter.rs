//! The limiter: request rates and requests in flight, counted per agent, principal, model and
//! upstream.
//!
//! The limiter knows a subject by a keyed 128-bit hash; a subject costs about forty bytes. A sweep
//! frees the memory of a subject whose last request is one period old and that has no request in
//! flight.

use std::hash::BuildHasher;
use std::sync::Arc;

use dashmap::DashMap;
use foldhash::SharedSeed;
use foldhash::quality::{RandomState, SeedableRandomState};

use crate::clock::Clock;
use crate::guard::gcra::{Exceeded, Headroom, Limit, RateState};
use crate::guard::slots::Slot;

/// The keys for the hashes of subject names.
pub type Seeds = [u64; 4];

/// The kind of a subject. The same name under two kinds gives two subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// An agent, by its whole name.
    Agent,
    /// A principal.
    Principal,
    /// A model.
    Model,
    /// An upstream.
    Upstream,
}

impl SubjectKind {
    /// The kind's name in headers and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Principal => "principal",
            Self::Model => "model",
            Self::Upstream => "upstream",
        }
    }
}

/// A subject: its kind and the keyed hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The kind.
    pub kind: SubjectKind,
    key: u128,
}

impl Subject {
    /// The keyed hash of the name.
    pub(super) const fn key(self) -> u128 {
        self.key
    }
}

/// One subject and the rates that a request must keep for it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The subject whose rate state is used.
    pub subject: Subject,
    /// The limits. An empty list always passes and counts no request.
    pub limits: Vec<Limit>,
}

/// A refusal by a rate.
#[derive(Clone, Copy, Debug)]
pub struct RateExceeded {
    /// The kind of the subject whose rate is used up.
    pub kind: SubjectKind,
    /// The limit and the waiting time.
    pub exceeded: Exceeded,
}

/// A refusal because too many requests are in flight.
#[derive(Clone, Copy, Debug)]
pub struct InFlightExceeded {
    /// The kind of the subject.
    pub kind: SubjectKind,
    /// The limit that is reached.
    pub limit: u64,
}

/// What the limiter knows of one subject.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Arrival times per limit.
    pub(super) rates: RateState,
    /// Requests in flight.
    pub(super) in_flight: u32,
}

/// The rate states and in-flight counts of all subjects.
pub struct Limiter {
    /// By the keyed hash of the subject.
    pub(super) accounts: DashMap<u128, Account, RandomState>,
    /// The keys as numbers, for the successor process.
    pub(super) seeds: Seeds,
    /// Hashers for the upper and the lower half of the 128-bit hash.
    keys: [SeedableRandomState; 2],
    clock: Arc<dyn Clock>,
}

/// A random number.
fn random() -> u64 {
    RandomState::default().hash_one(())
}

/// A seed that is never freed, because the hasher borrows it with a static lifetime. A process
/// makes two.
fn shared(seed: u64) -> &'static SharedSeed {
    Box::leak(Box::new(SharedSeed::from_u64(seed)))
}

impl Limiter {
    /// An empty limiter on `clock`, with random keys.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        // The keys are random so that a caller cannot choose names whose hashes collide: two
        // subjects with one hash would share their limits.
        Self::keyed(clock, [random(), random(), random(), random()])
    }

    /// An empty limiter with the keys of another process, so that both compute the same hashes.
    #[must_use]
    pub fn keyed(clock: Arc<dyn Clock>, seeds: Seeds) -> Self {
        let [high, low, shared_high, shared_low] = seeds;
        let keys = [
            SeedableRandomState::with_seed(high, shared(shared_high)),
            SeedableRandomState::with_seed(low, shared(shared_low)),
        ];
        Self { accounts: DashMap::with_hasher(RandomState::default()), seeds, keys, clock }
    }

    /// The subject with that kind and name.
    #[must_use]
    pub fn subject(&self, kind: SubjectKind, name: &str) -> Subject {
        let [high, low] = &self.keys;
        let whole = (kind as u8, name);
        Subject {
            kind,
            key: u128::from(high.hash_one(whole)) << 64 | u128::from(low.hash_one(whole)),
        }
    }

    /// The subject of a principal, as that issuer's tokens name it. The same name at another issuer
    /// is another principal.
    #[must_use]
    pub fn principal(&self, issuer: &str, name: &str) -> Subject {
        // The zero byte separates the two parts: neither a URL nor a name can contain one.
        self.subject(SubjectKind::Principal, &[issuer, name].join("\0"))
    }

    /// The monotonic time in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts one request against every ask, in order. The caller puts narrow subjects first: a
    /// request that its own limit refuses then changes no shared rate state.
    ///
    /// # Errors
    /// The first limit that refuses. The counts made before it are taken back.
    pub fn take(&self, asks: &[Ask]) -> Result<Option<Headroom>, RateExceeded> {
        let now = self.now();
        let mut first = None;
        // What full limits counted of this request, by the ask's index: only that much may be taken
        // back.
        let mut clamped = Vec::new();
        for (place, ask) in asks.iter().enumerate() {
            if ask.limits.is_empty() {
                continue;
            }
            // Each entry is locked alone and briefly. Two locks at once could deadlock with another
            // request.
            let taken =
                self.accounts.entry(ask.subject.key).or_default().rates.take(&ask.limits, now);
            match taken {
                Ok(taken) => {
                    first = first.or(taken.headroom);
                    for part in taken.clamped {
                        clamped.push((place, part));
                    }
                }
                Err(exceeded) => {
                    // Taken back, so that a refused request uses up no narrower rate.
                    self.give_back(&asks[..place], &clamped);
                    return Err(RateExceeded { kind: ask.subject.kind, exceeded });
                }
            }
        }
        Ok(first)
    }

    /// Takes a request back that was counted against `asks`. `clamped` has what full limits counted
    /// of it, by the ask's index.
    fn give_back(&self, asks: &[Ask], clamped: &[(usize, (Limit, u64))]) {
        for (at, counted) in asks.iter().enumerate() {
            if counted.limits.is_empty() {
                continue;
            }
            if let Some(mut account) = self.accounts.get_mut(&counted.subject.key) {
                let mut parts = Vec::new();
                for (of, part) in clamped {
                    if *of == at {
                        parts.push(*part);
                    }
                }
                account.rates.give_back(&parts);
            }
        }
    }

    /// Takes a slot for every subject, up to its limit (`u64::MAX` counts without a limit).
    ///
    /// # Errors
    /// The first subject that is full. Slots taken before it are returned.
    pub fn enter(self: &Arc<Self>, slots: &[(Subject, u64)]) -> Result<Permit, InFlightExceeded> {
        let mut permit = Permit {
            limiter: Some(Arc::clone(self)),
            taken: Vec::with_capacity(slots.len()),
            upstream: None,
        };
        for &(subject, limit) in slots {
            let mut account = self.accounts.entry(subject.key).or_default();
            // On this return `permit` is dropped, which returns the slots that were taken before.
            if u64::from(account.in_flight) >= limit {
                return Err(InFlightExceeded { kind: subject.kind, limit });
            }
            account.in_flight += 1;
            // The lock on the entry ends before the next entry is locked.
            drop(account);
            permit.taken.push(subject.key);
        }
        Ok(permit)
    }

    /// Removes every idle subject and frees its memory. Cost: one pass over all subjects, with one
    /// shard locked at a time.
    pub fn sweep(&self) {
        let now = self.now();
        self.accounts.retain(|_, account| account.in_flight > 0 || !account.rates.idle(now));
        // Shrinks only when the table is less than a quarter full, so that a steady load causes no
        // reallocation at each sweep.
        if self.accounts.capacity() > 4 * self.accounts.len() + 1024 {
            self.accounts.shrink_to_fit();
        }
    }

    /// The number of subjects in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// True when no subject is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The memory of the table in bytes, by its capacity.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // The table keeps one control byte per entry.
        self.accounts.capacity() * (size_of::<(u128, Account)>() + 1)
    }
}

/// Slots in flight, returned when dropped. The permit is kept inside the answer's body.
#[derive(Default)]
pub struct Permit {
    /// `None` for a permit without counted slots.
    limiter: Option<Arc<Limiter>>,
    /// The hashes of the subjects.
    taken: Vec<u128>,
    /// The slot at the upstream that serves the request.
    upstream: Option<Slot>,
}

impl Permit {
    /// The same permit with that slot at an upstream, which replaces the slot at another one.
    #[must_use]
    pub fn at(mut self, upstream: Slot) -> Self {
        // The assignment drops the former slot, which returns it to the former upstream.
        self.upstream = Some(upstream);
        self
    }

    /// The slots of this permit and those of `other`, from the same limiter.
    #[must_use]
    pub fn with(mut self, mut other: Self) -> Self {
        // `other` keeps no keys, so its drop returns no slot twice.
        self.taken.append(&mut other.taken);
        if self.limiter.is_none() {
            self.limiter = other.limiter.take();
        }
        if self.upstream.is_none() {
            self.upstream = other.upstream.take();
        }
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(limiter) = &self.limiter else { return };
        for key in &self.taken {
            if let Some(mut account) = limiter.accounts.get_mut(key) {
                // Saturating: a wrong count must not wrap around and block the subject.
                account.in_flight = account.in_flight.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::guard::gcra::Period;
    use std::time::Duration;

    fn limiter() -> (Arc<ManualClock>, Arc<Limiter>) {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        (Arc::clone(&clock), Arc::new(Limiter::new(clock)))
    }

    #[test]
    fn a_wide_refusal_gives_the_narrow_count_back() {
        let (_, book) = limiter();
        let ask = |kind, name, rate| Ask {
            subject: book.subject(kind, name),
            limits: vec![Limit::new(Period::Minute, rate, Some(rate))],
        };
        let (agent, principal) =
            (ask(SubjectKind::Agent, "a/b", 5), ask(SubjectKind::Principal, "team", 2));
        for _ in 0..2 {
            book.take(&[agent.clone(), principal.clone()]).expect("passes");
        }
        let refused = book.take(&[agent.clone(), principal]).expect_err("principal is full");
        assert_eq!(refused.kind, SubjectKind::Principal);
        for _ in 0..3 {
            book.take(std::slice::from_ref(&agent)).expect("only two were counted");
        }
        assert!(book.take(&[agent]).is_err());
    }

    #[test]
    fn permits_are_given_back() {
        let (_, book) = limiter();
        let place = [
            (book.subject(SubjectKind::Agent, "a/b"), 2),
            (book.subject(SubjectKind::Model, "m"), 1),
        ];
        let first = book.enter(&place).expect("room");
        assert_eq!(
            book.enter(&place).map(drop).expect_err("model is full").kind,
            SubjectKind::Model
        );
        drop(first);
        let again = book.enter(&place).expect("given back, the half-taken one too");
        drop(again);
        book.sweep();
        assert!(book.is_empty());
    }

    #[test]
    fn a_million_agents_cost_little_and_an_hour_later_nothing() {
        let (clock, book) = limiter();
        for number in 0..1_000_000 {
            let subject = book.subject(SubjectKind::Agent, &format!("fleet/agent-{number}"));
            book.take(&[Ask { subject, limits: vec![Limit::new(Period::Minute, 120, None)] }])
                .expect("first request");
        }
        assert_eq!(book.len(), 1_000_000);
        assert!(book.bytes() <= 256 << 20, "{} bytes", book.bytes());
        clock.advance(Duration::from_secs(3600));
        book.sweep();
        assert_eq!((book.len(), book.bytes() < 64 << 10), (0, true), "{} bytes", book.bytes());
    }
}
