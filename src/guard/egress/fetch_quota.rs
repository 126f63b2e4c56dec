//! Fetch quotas: how many bytes are fetched for an agent within any hour, for it and everything
//! that it delegates to. A fetch takes its bytes before it begins, and gives back what it did not
//! use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use foldhash::quality::RandomState;

use crate::clock::Clock;
use crate::guard::limiter::Subject;
use crate::guard::passed::Key;
use crate::refusal::{Code, Refusal};

/// The minutes of an hour, and the one that has begun.
const MINUTES: u64 = 61;

/// Bytes by the minute in which they were taken, oldest first.
#[derive(Debug, Default)]
struct Hour(VecDeque<(u64, u64)>);

impl Hour {
    /// Removes minutes that are more than an hour old.
    fn forget(&mut self, minute: u64) {
        while let Some((then, _)) = self.0.front()
            && then + MINUTES <= minute
        {
            self.0.pop_front();
        }
    }

    /// The bytes within the hour.
    fn sum(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Adds bytes to the current minute.
    fn add(&mut self, minute: u64, bytes: u64) {
        match self.0.back_mut() {
            Some((then, sum)) if *then == minute => *sum += bytes,
            Some(_) | None => self.0.push_back((minute, bytes)),
        }
    }

    /// Takes bytes back from the minute in which they were counted.
    fn give_back(&mut self, minute: u64, bytes: u64) {
        if let Some((_, sum)) = self.0.iter_mut().find(|(then, _)| *then == minute) {
            *sum = sum.saturating_sub(bytes);
        }
    }

    /// The bytes of each minute, with its age in minutes.
    fn ages(&self, minute: u64) -> Vec<(u64, u64)> {
        let mut ages = Vec::with_capacity(self.0.len());
        for (then, bytes) in &self.0 {
            ages.push((minute.saturating_sub(*then), *bytes));
        }
        ages
    }
}

/// The fetched bytes of all agents.
pub struct FetchQuota {
    /// By the keyed hash of the agent.
    hours: DashMap<u128, Hour, RandomState>,
    clock: Arc<dyn Clock>,
}

impl FetchQuota {
    /// No bytes fetched yet, on `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { hours: DashMap::with_hasher(RandomState::default()), clock }
    }

    /// The current minute of the monotonic clock.
    fn minute(&self) -> u64 {
        self.clock.monotonic().as_secs() / 60
    }

    /// Takes `wanted` bytes for an agent and its ancestors, or the remaining bytes of `per_hour`
    /// where they are fewer.
    ///
    /// # Errors
    /// `fetch-quota` where no bytes are left.
    pub fn take(
        self: &Arc<Self>,
        agents: &[Subject],
        wanted: u64,
        per_hour: u64,
    ) -> Result<QuotaReservation, Refusal> {
        let minute = self.minute();
        let mut taken = QuotaReservation {
            fetch_quota: Arc::clone(self),
            keys: Vec::with_capacity(agents.len()),
            minute,
            bytes: wanted,
            used: 0,
        };
        for agent in agents {
            let mut hour = self.hours.entry(agent.key()).or_default();
            hour.forget(minute);
            let left = per_hour.saturating_sub(hour.sum());
            // The reservation in `taken` is dropped on return, which gives the bytes of the agents
            // before back.
            if left == 0 && wanted > 0 {
                // The oldest bytes leave the hour first, so they determine the waiting time.
                let oldest = match hour.0.iter().find(|(_, bytes)| *bytes > 0) {
                    Some((then, _)) => *then,
                    None => minute,
                };
                // Unlocked before the drop of `taken`, which locks entries again.
                drop(hour);
                let wait =
                    Duration::from_secs((oldest + MINUTES).saturating_sub(minute).max(1) * 60);
                let says = format!(
                    "The {per_hour} bytes an hour that may be fetched for this agent are used up."
                );
                let refusal = Refusal::new(Code::FetchQuota).saying(says);
                // With a quota of zero, waiting cannot help.
                return Err(if per_hour == 0 { refusal } else { refusal.after(wait) });
            }
            let granted = left.min(taken.bytes);
            hour.add(minute, granted);
            drop(hour);
            // The agents before this one were granted more than it has left, so they get the
            // difference back.
            taken.shrink(granted);
            taken.keys.push(agent.key());
        }
        Ok(taken)
    }

    /// The bytes of each agent, with their age in minutes, for the successor process.
    #[must_use]
    pub fn passed(&self) -> Vec<(Key, Vec<(u64, u64)>)> {
        let minute = self.minute();
        let mut passed = Vec::new();
        for hour in &self.hours {
            passed.push(((*hour.key()).into(), hour.ages(minute)));
        }
        passed
    }

    /// Continues from the bytes that another process has passed on; its agents have the same keys.
    /// Bytes that its running fetches do not use are not given back here.
    pub fn take_in(&self, passed: Vec<(Key, Vec<(u64, u64)>)>) {
        // This clock may have begun after the bytes were taken. They then count as taken at its
        // beginning, and so for longer.
        let minute = self.minute();
        for (key, hours) in passed {
            let mut hour = self.hours.entry(key.into()).or_default();
            for (age, bytes) in hours {
                if age < MINUTES {
                    hour.add(minute.saturating_sub(age), bytes);
                }
            }
        }
    }

    /// Removes agents that have fetched no bytes for an hour.
    pub fn sweep(&self) {
        let minute = self.minute();
        self.hours.retain(|_, hour| {
            hour.forget(minute);
            hour.sum() > 0
        });
        if self.hours.capacity() > 4 * self.hours.len() + 1024 {
            self.hours.shrink_to_fit();
        }
    }
}

/// Bytes that may be fetched. Unused bytes are given back when this is dropped.
pub struct QuotaReservation {
    fetch_quota: Arc<FetchQuota>,
    /// The agent and its ancestors.
    keys: Vec<u128>,
    /// The minute in which the bytes were counted.
    minute: u64,
    /// The reserved bytes.
    bytes: u64,
    /// The bytes that have arrived.
    used: u64,
}

impl QuotaReservation {
    /// The reserved bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes that have arrived; false where they are more than were reserved.
    pub const fn spend(&mut self, bytes: u64) -> bool {
        self.used = self.used.saturating_add(bytes);
        self.used <= self.bytes
    }

    /// Reduces the reservation to `bytes`.
    fn shrink(&mut self, bytes: u64) {
        let less = self.bytes - bytes;
        self.give_back(less);
        self.bytes = bytes;
    }

    /// Gives bytes back to the agents whose quota was taken so far.
    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        for key in &self.keys {
            if let Some(mut hour) = self.fetch_quota.hours.get_mut(key) {
                hour.give_back(self.minute, bytes);
            }
        }
    }
}

impl Drop for QuotaReservation {
    fn drop(&mut self) {
        self.give_back(self.bytes.saturating_sub(self.used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::guard::limiter::{Limiter, SubjectKind};
    use proptest::prelude::*;

    fn book() -> (Arc<ManualClock>, Arc<FetchQuota>, [Subject; 2]) {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let limiter = Limiter::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let subjects = [
            limiter.subject(SubjectKind::Agent, "a/b/c"),
            limiter.subject(SubjectKind::Agent, "a/b"),
        ];
        (Arc::clone(&clock), Arc::new(FetchQuota::new(clock)), subjects)
    }

    #[test]
    fn what_was_not_used_is_given_back() {
        let (_, book, line) = book();
        let mut first = book.take(&line, 100, 150).expect("there is enough");
        assert!(first.spend(40) && first.spend(60) && first.bytes() == 100);
        drop(first);
        let mut second = book.take(&line, 100, 150).expect("there is something");
        assert_eq!(second.bytes(), 50);
        assert_eq!(book.take(&line, 1, 150).err().map(|no| no.code), Some(Code::FetchQuota));
        assert!(second.spend(20) && !second.spend(31));
        drop(second);
        assert!(book.take(&line, 1, 150).is_err());
    }

    #[test]
    fn children_share_what_their_parent_has() {
        let (clock, book, line) = book();
        let [_, parent] = line;
        let mut spent = book.take(&[parent], 90, 100).expect("there is enough");
        assert!(spent.spend(90));
        drop(spent);
        assert_eq!(book.take(&line, 50, 100).map(|taken| taken.bytes()).ok(), Some(10));
        // The child got its bytes back too: it may take all that the parent has again.
        clock.advance(Duration::from_secs(3_660));
        assert_eq!(book.take(&line, 100, 100).map(|taken| taken.bytes()).ok(), Some(100));
        book.sweep();
        assert!(book.hours.is_empty());
    }

    #[test]
    fn what_was_fetched_counts_on_in_another_book() {
        let (clock, book, line) = book();
        clock.advance(Duration::from_secs(600));
        let mut spent = book.take(&line, 90, 100).expect("there is enough");
        assert!(spent.spend(90));
        drop(spent);
        let (_, other, _) = self::book();
        other.take_in(book.passed());
        assert_eq!(other.take(&line, 50, 100).map(|taken| taken.bytes()).ok(), Some(10));
    }

    proptest! {
        /// No hour exceeds the quota, whatever is taken and used at which time.
        #[test]
        fn no_hour_sees_more_than_there_is(
            steps in prop::collection::vec((0u64..900, 1u64..60, 0u64..60), 1..200),
        ) {
            let (clock, book, line) = book();
            let (mut now, mut spent) = (0, Vec::new());
            for (wait, wanted, used) in steps {
                now += wait;
                clock.advance(Duration::from_secs(wait));
                if let Ok(mut taken) = book.take(&line, wanted, 100) {
                    let used = used.min(taken.bytes());
                    prop_assert!(taken.spend(used));
                    spent.push((now, used));
                }
            }
            for (at, (from, _)) in spent.iter().enumerate() {
                let within: u64 = spent[at..]
                    .iter()
                    .filter(|(then, _)| then - from < 3_600)
                    .map(|(_, used)| used)
                    .sum();
                prop_assert!(within <= 100, "{within}");
            }
        }
    }
}
