//! Clocks. This is the only file that reads the machine's clocks; all other code gets a [`Clock`].

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A time in milliseconds since 1970-01-01T00:00:00Z. It is printed as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The text is not an RFC 3339 time in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time of the form 2026-11-21T08:15:30.000Z")]
pub struct TimestampFault;

impl Timestamp {
    /// The time that many seconds after 1970.
    #[must_use]
    pub const fn at_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since 1970: a NumericDate (RFC 7519 section 2).
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time plus `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(out, "{moment:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = TimestampFault;

    fn from_str(text: &str) -> Result<Self, TimestampFault> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| TimestampFault)?;
        let read = Self(moment.as_millisecond());
        // Each time has exactly one accepted spelling: the one that is printed.
        if read.to_string() == text { Ok(read) } else { Err(TimestampFault) }
    }
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// A clock that never steps back, counted from its own origin. Nanosecond resolution.
    fn monotonic(&self) -> Duration;
    /// How far the wall clock is behind the reported time. More than zero after it has stepped
    /// back.
    fn behind(&self) -> Duration {
        Duration::ZERO
    }
}

impl<C: Clock> Clock for std::sync::Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn behind(&self) -> Duration {
        (**self).behind()
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 reads as 1970.
        let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
            return Timestamp(0);
        };
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// A wall clock that never goes back. An expired token therefore stays expired after the machine's
/// clock was set back.
pub struct Ratchet {
    inner: Box<dyn Clock>,
    /// The latest reported time, in milliseconds.
    highest: AtomicI64,
    /// The largest step back since the last query, in milliseconds.
    farthest: AtomicI64,
}

impl Ratchet {
    /// A ratchet over `inner`. It has no floor until [`Self::raise`] sets one.
    #[must_use]
    pub fn new(inner: Box<dyn Clock>) -> Self {
        Self { inner, highest: AtomicI64::new(i64::MIN), farthest: AtomicI64::new(0) }
    }

    /// From now on no time before `at` is reported.
    pub fn raise(&self, at: Timestamp) {
        self.highest.fetch_max(at.0, Ordering::Relaxed);
    }

    /// The largest distance of the wall clock behind the reported time since the last call. Only
    /// times at which a caller read the clock count. A step back that was corrected since then is
    /// included.
    #[must_use]
    pub fn farthest_behind(&self) -> Duration {
        let farthest = self.farthest.swap(0, Ordering::Relaxed);
        Duration::from_millis(u64::try_from(farthest).unwrap_or(0)).max(self.behind())
    }

    /// Accepts the wall clock as correct: from now on its time is reported again.
    pub fn accept(&self) {
        self.highest.store(self.inner.now().0, Ordering::Relaxed);
        self.farthest.store(0, Ordering::Relaxed);
    }
}

impl Clock for Ratchet {
    fn now(&self) -> Timestamp {
        let now = self.inner.now();
        // One atomic operation: two threads cannot report times in the wrong order.
        let highest = self.highest.fetch_max(now.0, Ordering::Relaxed).max(now.0);
        let behind = highest.saturating_sub(now.0);
        if behind > 0 {
            self.farthest.fetch_max(behind, Ordering::Relaxed);
        }
        Timestamp(highest)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn behind(&self) -> Duration {
        let behind = self.highest.load(Ordering::Relaxed).saturating_sub(self.inner.now().0);
        Duration::from_millis(u64::try_from(behind).unwrap_or(0))
    }
}

/// A clock that moves only by command: for tests and for replaying a record.
#[derive(Debug)]
pub struct ManualClock {
    wall_ms: AtomicI64,
    monotonic_ns: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `at`.
    #[must_use]
    pub const fn at(at: Timestamp) -> Self {
        Self { wall_ms: AtomicI64::new(at.0), monotonic_ns: AtomicU64::new(0) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.wall_ms
            .fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.monotonic_ns
            .fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratchet_never_goes_back_until_somebody_says_so() {
        let wall = std::sync::Arc::new(ManualClock::at(Timestamp(10_000)));
        let ratchet = Ratchet::new(Box::new(std::sync::Arc::clone(&wall)));
        assert_eq!((ratchet.now(), ratchet.behind()), (Timestamp(10_000), Duration::ZERO));
        ratchet.raise(Timestamp(400_000));
        assert_eq!(
            (ratchet.now(), ratchet.behind()),
            (Timestamp(400_000), Duration::from_secs(390))
        );
        wall.advance(Duration::from_secs(1));
        assert_eq!(ratchet.now(), Timestamp(400_000));
        ratchet.accept();
        assert_eq!((ratchet.now(), ratchet.behind()), (Timestamp(11_000), Duration::ZERO));
    }

    #[test]
    fn a_step_back_that_was_made_good_is_not_missed() {
        let wall = std::sync::Arc::new(ManualClock::at(Timestamp(10_000)));
        let ratchet = Ratchet::new(Box::new(std::sync::Arc::clone(&wall)));
        assert_eq!((ratchet.now(), ratchet.farthest_behind()), (Timestamp(10_000), Duration::ZERO));
        wall.wall_ms.store(6_000, Ordering::Relaxed);
        assert_eq!(ratchet.now(), Timestamp(10_000));
        wall.advance(Duration::from_secs(5));
        assert_eq!((ratchet.now(), ratchet.behind()), (Timestamp(11_000), Duration::ZERO));
        assert_eq!(ratchet.farthest_behind(), Duration::from_secs(4));
        assert_eq!(ratchet.farthest_behind(), Duration::ZERO);
    }

    #[test]
    fn prints_and_reads_the_same_moment() {
        for ms in [0, 1, 999, 1_790_000_000_123, -1] {
            let at = Timestamp(ms);
            assert_eq!(at.to_string().parse(), Ok(at));
        }
        assert_eq!(Timestamp(1_790_000_000_120).to_string(), "2026-09-21T14:13:20.120Z");
        assert!("2026-09-21T14:13:20Z".parse::<Timestamp>().is_err());
    }
}
