//! The counts that a process passes to its successor in a take-over: rates, work in flight, slots
//! at upstreams, bytes fetched. Subjects are named by their keyed hashes, and the hash keys are
//! passed too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::guard::gcra::{Limit, Period, RateState};
use crate::guard::limiter::{Limiter, Seeds};
use crate::guard::queue::Holder;
use crate::guard::slots::{Slot, Slots};
use crate::lock::locked;

/// A subject's keyed hash: its upper and its lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(u64, u64);

impl From<u128> for Key {
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    fn from(key: u128) -> Self {
        Self((key >> 64) as u64, key as u64)
    }
}

impl From<Key> for u128 {
    fn from(Key(high, low): Key) -> Self {
        Self::from(high) << 64 | Self::from(low)
    }
}

/// One limit of a subject, with the nanoseconds that its next arrival time is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Whether the limit counts per minute; otherwise it counts per second.
    minute: bool,
    /// Requests per window.
    rate: u32,
    /// Requests at once.
    burst: u32,
    /// A duration, because the monotonic clocks of two processes cannot be compared.
    ahead_ns: u64,
}

impl Ahead {
    /// A limit and the nanoseconds that its next arrival time is ahead.
    const fn new(limit: Limit, ahead_ns: u64) -> Self {
        let Limit { period, rate, burst } = limit;
        Self { minute: matches!(period, Period::Minute), rate, burst, ahead_ns }
    }

    /// The limit.
    const fn limit(&self) -> Limit {
        let period = if self.minute { Period::Minute } else { Period::Second };
        Limit { period, rate: self.rate, burst: self.burst }
    }
}

/// All rate states that are not idle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tallies {
    /// The keys of the subject hashes.
    pub seeds: Seeds,
    /// The rate states by subject.
    pub rates: Vec<(Key, Vec<Ahead>)>,
}

impl Limiter {
    /// The rate states now.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let now = self.now();
        let mut rates = Vec::new();
        for account in &self.accounts {
            let mut ahead = Vec::new();
            for (limit, ahead_ns) in account.rates.ahead(now) {
                ahead.push(Ahead::new(limit, ahead_ns));
            }
            // Idle subjects are left out: they are the same as unknown ones.
            if !ahead.is_empty() {
                rates.push(((*account.key()).into(), ahead));
            }
        }
        Tallies { seeds: self.seeds, rates }
    }

    /// The work in flight of every subject that has some.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(Key, u32)> {
        let mut busy = Vec::new();
        for account in &self.accounts {
            if account.in_flight > 0 {
                busy.push(((*account.key()).into(), account.in_flight));
            }
        }
        busy
    }

    /// Continues from the rates that another process has passed on. The time of the transfer is not
    /// credited, so rates are enforced more strictly, never less.
    pub fn take_in(&self, rates: Vec<(Key, Vec<Ahead>)>) {
        let now = self.now();
        for (key, ahead) in rates {
            let ahead = ahead.iter().map(|one| (one.limit(), one.ahead_ns));
            self.accounts.entry(key.into()).or_default().rates = RateState::of_ahead(ahead, now);
        }
    }
}

/// The slots of one holder at one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtUpstream {
    /// The upstream's name.
    upstream: String,
    /// The holder's class.
    class: String,
    /// The weight of the class.
    weight: u32,
    /// The agent of the root token.
    root: String,
    /// The number of slots.
    count: u64,
}

/// All work in flight in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// By subject.
    subjects: Vec<(Key, u32)>,
    /// The slots at upstreams.
    upstreams: Vec<AtUpstream>,
}

impl InFlight {
    /// The work in flight now.
    #[must_use]
    pub fn of(limiter: &Limiter, slots: &Slots) -> Self {
        let subjects = limiter.in_flight();
        let mut upstreams = Vec::new();
        for (upstream, holder, count) in slots.held() {
            upstreams.push(AtUpstream {
                upstream: upstream.to_string(),
                class: holder.class.to_string(),
                weight: holder.weight,
                root: holder.root.to_string(),
                count,
            });
        }
        Self { subjects, upstreams }
    }
}

/// Work in flight in another process. It counts here until it is finished there, or until this
/// value is dropped.
pub struct RemoteWork {
    limiter: Arc<Limiter>,
    slots: Arc<Slots>,
    /// What was counted here at the last report.
    held: Mutex<CountedWork>,
}

/// The counts of the last report.
#[derive(Default)]
struct CountedWork {
    subjects: HashMap<u128, u32>,
    /// By upstream and holder.
    upstreams: HashMap<(Arc<str>, Holder), Vec<Slot>>,
}

impl RemoteWork {
    /// Counts no work yet.
    #[must_use]
    pub fn new(limiter: Arc<Limiter>, slots: Arc<Slots>) -> Self {
        Self { limiter, slots, held: Mutex::default() }
    }

    /// Counts what is in flight there now, and removes the counts of the report before.
    pub fn set(&self, in_flight: InFlight) {
        let mut held = locked(&self.held);
        self.set_subjects(&mut held.subjects, in_flight.subjects);
        self.set_upstreams(&mut held.upstreams, in_flight.upstreams);
    }

    /// Replaces the counts in flight by subject.
    fn set_subjects(&self, held: &mut HashMap<u128, u32>, subjects: Vec<(Key, u32)>) {
        let mut now: HashMap<u128, u32> = HashMap::with_capacity(subjects.len());
        for (key, count) in subjects {
            now.insert(key.into(), count);
        }
        for (key, count) in &now {
            let mut account = self.limiter.accounts.entry(*key).or_default();
            // Only the difference changes: the account also counts work of this process.
            let before = held.remove(key).unwrap_or(0);
            account.in_flight = account.in_flight.saturating_sub(before).saturating_add(*count);
        }
        // The rest had work in flight at the last report, and has none now.
        for (key, before) in held.drain() {
            if let Some(mut account) = self.limiter.accounts.get_mut(&key) {
                account.in_flight = account.in_flight.saturating_sub(before);
            }
        }
        *held = now;
    }

    /// Replaces the slots at upstreams.
    fn set_upstreams(
        &self,
        held: &mut HashMap<(Arc<str>, Holder), Vec<Slot>>,
        upstreams: Vec<AtUpstream>,
    ) {
        let mut now = HashMap::new();
        for AtUpstream { upstream, class, weight, root, count } in upstreams {
            let upstream: Arc<str> = upstream.into();
            let holder = Holder { class: class.into(), weight, root: root.into() };
            let key = (Arc::clone(&upstream), holder.clone());
            let mut slots = held.remove(&key).unwrap_or_default();
            // Slots that stay are kept. Returning and taking them again would let a waiting request
            // in between.
            slots.resize_with(usize::try_from(count).unwrap_or(usize::MAX), || {
                self.slots.taken_elsewhere(&upstream, holder.clone())
            });
            now.insert(key, slots);
        }
        // Slots of holders that have none there now are returned when the former map is dropped.
        *held = now;
    }
}

impl Drop for RemoteWork {
    fn drop(&mut self) {
        // The other process has ended, or has stopped reporting: its work must not block slots
        // here.
        self.set(InFlight::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, Timestamp};
    use crate::guard::limiter::{Ask, SubjectKind};

    #[test]
    fn rates_and_places_go_on_in_another_book() {
        let clock = || Arc::new(ManualClock::at(Timestamp(0))) as Arc<dyn Clock>;
        let before = Arc::new(Limiter::new(clock()));
        let limits =
            vec![Limit::new(Period::Minute, 60, Some(3)), Limit::new(Period::Second, 100, Some(5))];
        let ask = |book: &Limiter| Ask {
            subject: book.subject(SubjectKind::Agent, "a/b"),
            limits: limits.clone(),
        };
        for _ in 0..2 {
            before.take(&[ask(&before)]).expect("passes");
        }
        let place = |book: &Limiter| [(book.subject(SubjectKind::Agent, "a/b"), 2)];
        let permit = before.enter(&place(&before)).expect("room");
        let text = serde_json::to_string(&before.tallies()).expect("written");
        let passed: Tallies = serde_json::from_str(&text).expect("read");
        assert_eq!(passed, before.tallies());
        let after = Arc::new(Limiter::keyed(clock(), passed.seeds));
        assert_eq!(
            after.subject(SubjectKind::Agent, "a/b"),
            before.subject(SubjectKind::Agent, "a/b")
        );
        // The limit allows a burst of three, and two were counted before the take-over.
        after.take_in(passed.rates);
        after.take(&[ask(&after)]).expect("the third of three");
        assert!(after.take(&[ask(&after)]).is_err(), "two were counted before");
        let upstreams = slots();
        let elsewhere = RemoteWork::new(Arc::clone(&after), Arc::clone(&upstreams));
        elsewhere.set(InFlight::of(&before, &upstreams));
        let own = after.enter(&place(&after)).expect("room for one");
        assert!(after.enter(&place(&after)).is_err());
        drop(permit);
        elsewhere.set(InFlight::of(&before, &upstreams));
        let again = after.enter(&place(&after)).expect("given back there, and so here");
        let one = vec![(after.subject(SubjectKind::Agent, "a/b").key().into(), 1)];
        elsewhere.set(InFlight { subjects: one, upstreams: Vec::new() });
        drop((own, again));
        drop(elsewhere);
        assert!(after.in_flight().is_empty());
    }

    fn slots() -> Arc<Slots> {
        let metrics =
            crate::metrics::Metrics::new(&[], &["one".to_owned()], None).expect("metrics");
        Arc::new(Slots::new(Arc::new(metrics)))
    }

    #[test]
    fn places_at_upstreams_count_on_until_they_are_given_back_there() {
        let limiter = Arc::new(Limiter::new(Arc::new(ManualClock::at(Timestamp(0)))));
        let (before, after) = (slots(), slots());
        let holder = |root: &str| Holder { class: "c".into(), weight: 2, root: root.into() };
        let upstream: Arc<str> = "one".into();
        let mut taken: Vec<Slot> = ["a/b", "a/b", "a/c"]
            .iter()
            .map(|root| before.taken_elsewhere(&upstream, holder(root)))
            .collect();
        let text = serde_json::to_string(&InFlight::of(&limiter, &before)).expect("written");
        let elsewhere = RemoteWork::new(Arc::clone(&limiter), Arc::clone(&after));
        elsewhere.set(serde_json::from_str(&text).expect("read"));
        assert_eq!(after.held(), before.held());
        assert_eq!(after.held().iter().map(|(_, _, count)| count).sum::<u64>(), 3);
        let own = after.taken_elsewhere(&upstream, holder("a/b"));
        taken.truncate(1);
        elsewhere.set(InFlight::of(&limiter, &before));
        assert_eq!(after.held(), [(Arc::clone(&upstream), holder("a/b"), 2)]);
        drop(elsewhere);
        assert_eq!(after.held(), [(upstream, holder("a/b"), 1)]);
        drop(own);
        assert!(after.held().is_empty());
    }
}
