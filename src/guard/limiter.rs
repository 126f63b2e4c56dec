//! The tallies of every subject: request rates and work in flight, counted per agent, principal, model and upstream.
//!
//! A subject is known here by a keyed 128-bit hash, and costs about forty bytes; when its last request is a period old and
//! nothing of it is in flight, a sweep gives the memory back.

use std::hash::BuildHasher;
use std::sync::Arc;

use dashmap::DashMap;
use foldhash::SharedSeed;
use foldhash::quality::{RandomState, SeedableRandomState};

use crate::clock::Clock;
use crate::guard::gcra::{Exceeded, Headroom, Limit, RateState};
use crate::guard::slots::Slot;

/// The keys that names of subjects are hashed with.
pub type Seeds = [u64; 4];

/// What a tally belongs to. The same name under two kinds is two subjects.
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
    /// What it is.
    pub kind: SubjectKind,
    key: u128,
}

impl Subject {
    /// The keyed hash of its name.
    pub(super) const fn key(self) -> u128 {
        self.key
    }
}

/// One subject and the rates that it is tested against.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose tally.
    pub subject: Subject,
    /// The limits; an empty list passes and counts nothing.
    pub limits: Vec<Limit>,
}

/// A refusal by a rate.
#[derive(Clone, Copy, Debug)]
pub struct RateExceeded {
    /// Whose tally is full.
    pub kind: SubjectKind,
    /// The limit and the wait.
    pub exceeded: Exceeded,
}

/// A refusal because too much is in flight.
#[derive(Clone, Copy, Debug)]
pub struct InFlightExceeded {
    /// Whose work it is.
    pub kind: SubjectKind,
    /// The limit that is reached.
    pub limit: u64,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) rates: RateState,
    pub(super) in_flight: u32,
}

/// All tallies.
pub struct Limiter {
    pub(super) accounts: DashMap<u128, Account, RandomState>,
    pub(super) seeds: Seeds,
    keys: [SeedableRandomState; 2],
    clock: Arc<dyn Clock>,
}

impl Limiter {
    /// An empty book on `clock`, under keys of its own.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let random = || RandomState::default().hash_one(());
        Self::keyed(clock, [random(), random(), random(), random()])
    }

    /// An empty book under the keys of another one.
    #[must_use]
    pub fn keyed(clock: Arc<dyn Clock>, seeds: Seeds) -> Self {
        let [high, low, shared_high, shared_low] = seeds;
        // Two for the life of the process: the hasher borrows them for ever.
        let shared = |seed| &*Box::leak(Box::new(SharedSeed::from_u64(seed)));
        let keys = [
            SeedableRandomState::with_seed(high, shared(shared_high)),
            SeedableRandomState::with_seed(low, shared(shared_low)),
        ];
        Self { accounts: DashMap::with_hasher(RandomState::default()), seeds, keys, clock }
    }

    /// The subject of that kind and name.
    #[must_use]
    pub fn subject(&self, kind: SubjectKind, name: &str) -> Subject {
        let [high, low] = &self.keys;
        let whole = (kind as u8, name);
        Subject {
            kind,
            key: u128::from(high.hash_one(whole)) << 64 | u128::from(low.hash_one(whole)),
        }
    }

    /// A principal as that issuer's tokens name it: the same name at another issuer is another principal.
    #[must_use]
    pub fn principal(&self, issuer: &str, name: &str) -> Subject {
        // No URL and no name has a zero byte.
        self.subject(SubjectKind::Principal, &[issuer, name].join("\0"))
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts one request against every ask, in order; narrow ones first, so that a request which its own limit refuses
    /// touches no shared tally.
    ///
    /// # Errors
    /// The first that refuses; what was counted before it is given back.
    pub fn take(&self, asks: &[Ask]) -> Result<Option<Headroom>, RateExceeded> {
        let now = self.now();
        let mut first = None;
        let mut clamped = Vec::new();
        for (place, ask) in asks.iter().enumerate().filter(|(_, ask)| !ask.limits.is_empty()) {
            let taken =
                self.accounts.entry(ask.subject.key).or_default().rates.take(&ask.limits, now);
            match taken {
                Ok(taken) => {
                    first = first.or(taken.headroom);
                    clamped.extend(taken.clamped.into_iter().map(|part| (place, part)));
                }
                Err(exceeded) => {
                    for (at, counted) in
                        asks[..place].iter().enumerate().filter(|(_, ask)| !ask.limits.is_empty())
                    {
                        if let Some(mut account) = self.accounts.get_mut(&counted.subject.key) {
                            let parts: Vec<_> = clamped
                                .iter()
                                .filter(|(of, _)| *of == at)
                                .map(|(_, part)| *part)
                                .collect();
                            account.rates.give_back(&parts);
                        }
                    }
                    return Err(RateExceeded { kind: ask.subject.kind, exceeded });
                }
            }
        }
        Ok(first)
    }

    /// Takes a place in flight for every subject, up to its limit (`u64::MAX` counts without limiting).
    ///
    /// # Errors
    /// The first that is full; places taken before it are given back.
    pub fn enter(self: &Arc<Self>, slots: &[(Subject, u64)]) -> Result<Permit, InFlightExceeded> {
        let mut permit = Permit {
            limiter: Some(Arc::clone(self)),
            taken: Vec::with_capacity(slots.len()),
            upstream: None,
        };
        for &(subject, limit) in slots {
            let mut account = self.accounts.entry(subject.key).or_default();
            if u64::from(account.in_flight) >= limit {
                return Err(InFlightExceeded { kind: subject.kind, limit });
            }
            account.in_flight += 1;
            drop(account);
            permit.taken.push(subject.key);
        }
        Ok(permit)
    }

    /// Drops every subject that is idle and gives its memory back. Cost: one pass over the book, a shard locked at a time.
    pub fn sweep(&self) {
        let now = self.now();
        self.accounts.retain(|_, account| account.in_flight > 0 || !account.rates.idle(now));
        if self.accounts.capacity() > 4 * self.accounts.len() + 1024 {
            self.accounts.shrink_to_fit();
        }
    }

    /// Subjects in the book.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// True when no subject is in the book.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Bytes that the book takes, by its capacity.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.accounts.capacity() * (size_of::<(u128, Account)>() + 1)
    }
}

/// Places in flight; given back when dropped. They travel inside the answer's body.
#[derive(Default)]
pub struct Permit {
    limiter: Option<Arc<Limiter>>,
    taken: Vec<u128>,
    upstream: Option<Slot>,
}

impl Permit {
    /// The same with that place at an upstream, in the stead of another one's.
    #[must_use]
    pub fn at(mut self, upstream: Slot) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// These places and those of `other`, of the same limiter.
    #[must_use]
    pub fn with(mut self, mut other: Self) -> Self {
        self.taken.append(&mut other.taken);
        self.limiter = self.limiter.take().or_else(|| other.limiter.take());
        self.upstream = self.upstream.take().or_else(|| other.upstream.take());
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(limiter) = &self.limiter else { return };
        for key in &self.taken {
            if let Some(mut account) = limiter.accounts.get_mut(key) {
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
