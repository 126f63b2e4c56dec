//! Charges: limit the work that unauthenticated callers cause, per key and second. A charge is
//! taken before the work and given back where the work was justified.
//!
//! A key is a peer's network or a root token. Charges follow the generic cell rate algorithm with a
//! burst of one second's worth. So at most twice the rate passes in any second. A sweep removes
//! idle keys.

use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::quality::RandomState;

/// The charges of every key of one kind.
pub struct Charges {
    /// The time at which the next charge of the key is due, in nanoseconds of the monotonic clock.
    /// A key whose time has passed needs no row.
    due: DashMap<u128, u64, RandomState>,
    /// Nanoseconds between two charges at the rate.
    interval: u64,
    /// How many nanoseconds the due time may be ahead of now for a charge to pass.
    tolerance: u64,
}

impl Charges {
    /// `rate` charges a second for each key, with a burst of the same number. 0 counts as 1.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        // Rounded up: a rate may pass slightly less than configured, never more.
        let rate = u64::from(rate.max(1));
        let interval = 1_000_000_000_u64.div_ceil(rate);
        Self {
            due: DashMap::with_hasher(RandomState::default()),
            interval,
            tolerance: interval * (rate - 1),
        }
    }

    /// Charges `key` once at `now`.
    ///
    /// # Errors
    /// The time until the charge would pass. In that case the key is not charged.
    pub fn take(&self, key: u128, now: u64) -> Result<(), Duration> {
        let mut due = self.due.entry(key).or_insert(now);
        // An idle key starts from now: unused time gives no additional charges later.
        let from = (*due).max(now);
        if from - now > self.tolerance {
            return Err(Duration::from_nanos(from - now - self.tolerance));
        }
        *due = from.saturating_add(self.interval);
        Ok(())
    }

    /// Gives one charge of `key` back.
    pub fn give_back(&self, key: u128, now: u64) {
        // A swept key has no row. It owes no charge, so there is none to reduce.
        if let Entry::Occupied(mut row) = self.due.entry(key) {
            let due = row.get().saturating_sub(self.interval);
            if due > now {
                row.insert(due);
            } else {
                row.remove();
            }
        }
    }

    /// Removes the keys whose due time has passed, and frees their memory.
    pub fn sweep(&self, now: u64) {
        self.due.retain(|_, due| *due > now);
        // Shrinks only when less than a quarter of the table is used, so that a steady load causes
        // no reallocation.
        if self.due.capacity() > 4 * self.due.len() + 1024 {
            self.due.shrink_to_fit();
        }
    }

    /// The number of keys with a row.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// True where no key has a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn passing(charges: &Charges, key: u128, now: u64) -> usize {
        std::iter::repeat_with(|| charges.take(key, now)).take_while(Result::is_ok).count()
    }

    #[test]
    fn a_rate_passes_at_once_and_then_at_its_pace() {
        let charges = Charges::per_second(20);
        assert_eq!(
            (passing(&charges, 1, 0), passing(&charges, 2, 0)),
            (20, 20),
            "each key has its own"
        );
        let wait = charges.take(1, 0).expect_err("used up");
        assert_eq!(wait, Duration::from_millis(50));
        assert!(charges.take(1, 49_000_000).is_err());
        assert!(charges.take(1, 50_000_000).is_ok());
        assert_eq!(passing(&charges, 1, 10 * SECOND), 20, "no more are saved up");
    }

    #[test]
    fn what_is_given_back_was_never_charged() {
        let charges = Charges::per_second(2);
        for _ in 0..1000 {
            charges.take(1, 5).expect("given back each time");
            charges.give_back(1, 5);
        }
        assert!(charges.is_empty());
        assert_eq!(passing(&charges, 1, 5), 2);
        charges.give_back(1, 5);
        assert_eq!(passing(&charges, 1, 5), 1);
        charges.give_back(9, 5);
        charges.sweep(5);
        assert_eq!(charges.len(), 1);
        charges.sweep(3 * SECOND);
        assert!(charges.is_empty());
    }
}
