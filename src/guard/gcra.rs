//! The core of every request rate: the generic cell rate algorithm (ITU-T I.371), with one arrival time per limit.
//!
//! A [`Limit`] of `rate` requests per period with a `burst` lets at most `rate + burst` requests pass in any window of one
//! period. The tally belongs to a subject (an agent, a principal, a model); several limits may be tested against it. Each
//! limit in use keeps an arrival time of its own inside the tally, and every request that passes moves all of them: so a
//! second token with another limit neither resets the first one's count nor is starved by it for longer than its own period.

/// The window that a rate is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// One second.
    Second,
    /// Sixty seconds.
    Minute,
}

impl Period {
    /// The window's length in nanoseconds.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        match self {
            Self::Second => 1_000_000_000,
            Self::Minute => 60_000_000_000,
        }
    }

    /// The window's length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.nanos() / 1_000_000_000
    }
}

/// Requests that a limit without a burst of its own lets pass at once, as far as its rate has so many.
const SMALL_BURST: u32 = 10;

/// `rate` requests per `period`, `burst` of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The window.
    pub period: Period,
    /// Requests per window; 0 refuses everything.
    pub rate: u32,
    /// Requests that may come at once; at least 1.
    pub burst: u32,
}

impl Limit {
    /// A limit of `rate` per `period`; without a `burst` it is a sixth of the rate, but at least 10 or the whole of a smaller
    /// rate: who may send two a minute may send the two at once.
    #[must_use]
    pub fn new(period: Period, rate: u64, burst: Option<u64>) -> Self {
        // No request rate of this world reaches the cap: a larger number limits nothing either way.
        let clip = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let rate = clip(rate);
        Self {
            period,
            rate,
            burst: burst.map_or((rate / 6).max(rate.min(SMALL_BURST)), clip).max(1),
        }
    }

    /// Nanoseconds between two requests at the limit's own pace.
    const fn interval(self) -> u64 {
        // Rounded up: a limit may pass a hair less than it says, never more.
        self.period.nanos().div_ceil(self.rate as u64)
    }

    /// How far ahead of now the arrival time may lie for a request to pass.
    const fn tolerance(self) -> u64 {
        self.interval().saturating_mul(self.burst as u64 - 1)
    }
}

/// What is left of the limit that is nearest to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The limit that it speaks of.
    pub limit: Limit,
    /// Requests that would pass at once from now on.
    pub remaining: u64,
    /// Nanoseconds until the whole burst is there again.
    pub reset_ns: u64,
}

/// A request that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedRequest {
    /// What is left of the tightest limit that was tested.
    pub headroom: Option<Headroom>,
    /// Limits that were full already and moved by less than a request, and by how many nanoseconds.
    pub clamped: Vec<(Limit, u64)>,
}

/// A request that does not pass, and how many nanoseconds to wait; `None` where waiting cannot help (a rate of zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit that says no.
    pub limit: Limit,
    /// Nanoseconds until this request would pass it.
    pub wait_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    limit: Limit,
    /// The theoretical arrival time of the next request, in nanoseconds of the monotonic clock.
    at: u64,
}

/// Distinct limits that one subject may be tested against within one period. A subject has as many as it has tokens with
/// different rates in use at once; beyond this number the newest waits until one falls idle.
const LIMITS_MAX: usize = 8;

/// The arrival times of one subject. One limit is held inline: 24 bytes for the common case.
#[derive(Debug, Default)]
pub struct RateState {
    first: Option<Arrival>,
    #[allow(clippy::box_collection, reason = "eight bytes in a million idle agents instead of 24")]
    more: Option<Box<Vec<Arrival>>>,
}

impl RateState {
    fn arrivals(&self) -> impl Iterator<Item = &Arrival> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    fn arrivals_mut(&mut self) -> impl Iterator<Item = &mut Arrival> {
        self.first.iter_mut().chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
    }

    /// The arrival time that `limit` is tested against: its own, or for a limit not seen lately as many requests ahead of
    /// now as the busiest of the others, so that a new limit is no clean slate.
    fn arrival(&self, limit: Limit, now: u64) -> u64 {
        if let Some(own) = self.arrivals().find(|arrival| arrival.limit == limit) {
            return own.at.max(now);
        }
        let debt = |other: &Arrival| {
            (other.at.saturating_sub(now)).div_ceil(other.limit.interval().max(1))
        };
        let same_period = self
            .arrivals()
            .filter(|other| other.limit.period == limit.period && other.limit.rate > 0);
        let requests = same_period.map(debt).max().unwrap_or(0).min(u64::from(limit.burst));
        now.saturating_add(limit.interval().saturating_mul(requests))
    }

    /// Tests `limits` at `now` and, if all pass, counts one request against every limit of this subject.
    ///
    /// # Errors
    /// The first limit that does not pass; nothing is counted then.
    pub fn take(&mut self, limits: &[Limit], now: u64) -> Result<CountedRequest, Exceeded> {
        self.forget_idle(now, limits);
        let known = self.arrivals().count();
        let new = limits
            .iter()
            .filter(|limit| !self.arrivals().any(|arrival| arrival.limit == **limit))
            .count();
        let mut tightest: Option<Headroom> = None;
        for &limit in limits {
            if limit.rate == 0 {
                return Err(Exceeded { limit, wait_ns: None });
            }
            if known + new > LIMITS_MAX {
                let soonest = self.arrivals().map(|arrival| arrival.at.saturating_sub(now)).min();
                return Err(Exceeded { limit, wait_ns: soonest });
            }
            let ahead = self.arrival(limit, now) - now;
            if ahead > limit.tolerance() {
                return Err(Exceeded { limit, wait_ns: Some(ahead - limit.tolerance()) });
            }
            let reset_ns = ahead + limit.interval();
            let left = Headroom {
                limit,
                remaining: (limit.tolerance() - ahead) / limit.interval(),
                reset_ns,
            };
            if tightest.is_none_or(|other| left.remaining < other.remaining) {
                tightest = Some(left);
            }
        }
        Ok(CountedRequest { headroom: tightest, clamped: self.count(limits, now) })
    }

    fn count(&mut self, limits: &[Limit], now: u64) -> Vec<(Limit, u64)> {
        for &limit in limits {
            if !self.arrivals().any(|arrival| arrival.limit == limit) {
                let arrival = Arrival { limit, at: self.arrival(limit, now) };
                if self.first.is_none() {
                    self.first = Some(arrival);
                } else {
                    self.more.get_or_insert_default().push(arrival);
                }
            }
        }
        let mut clamped = Vec::new();
        for arrival in self.arrivals_mut() {
            let interval = arrival.limit.interval();
            // Requests that this limit did not test may run past it; it is then full, and no fuller.
            let full = now.saturating_add(arrival.limit.tolerance()).saturating_add(interval);
            let from = arrival.at.max(now);
            arrival.at = from.saturating_add(interval).min(full.max(from));
            if arrival.at - from < interval {
                clamped.push((arrival.limit, arrival.at - from));
            }
        }
        clamped
    }

    /// Gives one counted request back, because another subject's limit refused it. `clamped` is what [`RateState::take`] said.
    pub fn give_back(&mut self, clamped: &[(Limit, u64)]) {
        for arrival in self.arrivals_mut() {
            let part =
                clamped.iter().find(|(limit, _)| *limit == arrival.limit).map(|(_, part)| *part);
            arrival.at = arrival.at.saturating_sub(part.unwrap_or(arrival.limit.interval()));
        }
    }

    /// Each limit in use, and by how many nanoseconds its arrival time lies ahead of `now`.
    pub fn ahead(&self, now: u64) -> impl Iterator<Item = (Limit, u64)> {
        self.arrivals()
            .filter(move |arrival| arrival.at > now)
            .map(move |arrival| (arrival.limit, arrival.at - now))
    }

    /// A tally of which the arrival times lie so far ahead of `now`: at most the first eight are kept.
    #[must_use]
    pub fn of_ahead(ahead: impl IntoIterator<Item = (Limit, u64)>, now: u64) -> Self {
        let mut arrivals = ahead
            .into_iter()
            .map(|(limit, ahead)| Arrival { limit, at: now.saturating_add(ahead) });
        let first = arrivals.next();
        let more: Vec<Arrival> = arrivals.take(LIMITS_MAX - 1).collect();
        Self { first, more: (!more.is_empty()).then(|| Box::new(more)) }
    }

    /// True when nothing that was counted matters any more at `now`.
    #[must_use]
    pub fn idle(&self, now: u64) -> bool {
        self.arrivals().all(|arrival| arrival.at <= now)
    }

    /// Drops arrival times that lie in the past and are not asked about.
    fn forget_idle(&mut self, now: u64, asked: &[Limit]) {
        if let Some(more) = &mut self.more {
            more.retain(|arrival| arrival.at > now || asked.contains(&arrival.limit));
            if more.is_empty() {
                self.more = None;
            }
        }
        if self.first.is_some_and(|first| first.at <= now && !asked.contains(&first.limit)) {
            self.first = self.more.as_mut().and_then(|more| more.pop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[track_caller]
    fn passes(tally: &mut RateState, limits: &[Limit], now: u64, expect: u64) {
        let mut passed = 0;
        while tally.take(limits, now).is_ok() {
            passed += 1;
            assert!(passed < 100_000, "no limit at all");
        }
        assert_eq!(passed, expect);
    }

    #[test]
    fn a_burst_then_the_pace() {
        let limit = [Limit::new(Period::Minute, 60, None)];
        let mut tally = RateState::default();
        passes(&mut tally, &limit, 0, 10);
        passes(&mut tally, &limit, SECOND, 1);
        passes(&mut tally, &limit, 3 * SECOND, 2);
    }

    #[test]
    fn a_small_rate_may_come_at_once_and_no_more_than_twice_in_a_minute() {
        for rate in 1..=10 {
            let limit = [Limit::new(Period::Minute, rate, None)];
            let mut tally = RateState::default();
            passes(&mut tally, &limit, 0, rate);
            let interval = 60 * SECOND / rate;
            let wait =
                tally.take(&limit, 0).map_err(|no| no.wait_ns).expect_err("full").expect("a wait");
            assert!(wait.abs_diff(interval) <= 1, "{wait} ns for {rate} a minute");
            // Whoever asks all the time gets the rest of a minute's worth, and then the pace.
            let more = (1..60)
                .map(|second| u64::from(tally.take(&limit, second * SECOND).is_ok()))
                .sum::<u64>();
            assert!(more < rate.max(2), "{more} more within the minute at {rate}");
        }
        let burst = |period, rate| Limit::new(period, rate, None).burst;
        assert_eq!(
            [1, 2, 9, 10, 60, 66, 120].map(|rate| burst(Period::Minute, rate)),
            [1, 2, 9, 10, 10, 11, 20]
        );
        assert_eq!([1, 5, 10, 100].map(|rate| burst(Period::Second, rate)), [1, 5, 10, 16]);
        assert_eq!(Limit::new(Period::Minute, 6, Some(1)).burst, 1);
    }

    #[test]
    fn zero_refuses_and_waiting_does_not_help() {
        let refused = RateState::default().take(&[Limit::new(Period::Minute, 0, None)], 0);
        assert_eq!(refused.map_err(|no| no.wait_ns), Err(None));
    }

    #[test]
    fn a_refusal_names_the_wait_after_which_it_passes() {
        let limit = [Limit::new(Period::Minute, 6, None)];
        let mut tally = RateState::default();
        passes(&mut tally, &limit, 5, 6);
        let wait =
            tally.take(&limit, 5).map_err(|no| no.wait_ns).expect_err("full").expect("a wait");
        assert!(tally.take(&limit, 5 + wait - 1).is_err());
        assert!(tally.take(&limit, 5 + wait).is_ok());
    }

    #[test]
    fn another_limit_is_no_clean_slate() {
        let (tight, wide) =
            (Limit::new(Period::Minute, 6, Some(5)), Limit::new(Period::Minute, 60, Some(8)));
        let mut tally = RateState::default();
        passes(&mut tally, &[tight], 0, 5);
        passes(&mut tally, &[wide], 0, 3);
    }

    #[test]
    fn a_request_given_back_passes_again() {
        let limit = [Limit::new(Period::Minute, 60, Some(2))];
        let mut tally = RateState::default();
        passes(&mut tally, &limit, 0, 2);
        tally.give_back(&[]);
        passes(&mut tally, &limit, 0, 1);
    }

    #[test]
    fn what_a_full_limit_did_not_count_is_not_given_back() {
        let (tight, wide) =
            (Limit::new(Period::Minute, 6, Some(2)), Limit::new(Period::Minute, 600, Some(50)));
        let mut tally = RateState::default();
        passes(&mut tally, &[tight], 0, 2);
        for _ in 0..20 {
            let taken = tally.take(&[wide], 0).expect("passes");
            assert_eq!(taken.clamped, [(tight, 0)]);
            tally.give_back(&taken.clamped);
        }
        passes(&mut tally, &[tight], 0, 0);
    }

    proptest! {
        /// In any window of one period at most rate + burst pass, for every limit, whatever is asked when and in which mixture.
        #[test]
        fn no_window_passes_more_than_rate_and_burst(
            rates in prop::collection::vec((1u64..40, 1u64..10), 1..4),
            steps in prop::collection::vec((0u64..3_000, 0usize..4), 1..400),
        ) {
            let limits: Vec<Limit> = rates.iter().map(|&(rate, burst)| Limit::new(Period::Minute, rate, Some(burst))).collect();
            let mut tally = RateState::default();
            let mut passed: Vec<Vec<u64>> = vec![Vec::new(); limits.len()];
            let mut now = 0;
            for (wait_ms, pick) in steps {
                now += wait_ms * 1_000_000;
                let pick = pick % limits.len();
                let asked = [limits[0], limits[pick]];
                let asked = if pick == 0 { &asked[..1] } else { &asked[..] };
                if tally.take(asked, now).is_ok() {
                    passed[0].push(now);
                    if pick > 0 { passed[pick].push(now); }
                }
            }
            for (limit, times) in limits.iter().zip(&passed) {
                for (place, from) in times.iter().enumerate() {
                    let within = times[place..].iter().filter(|at| **at - from < 60 * SECOND).count() as u64;
                    prop_assert!(within <= u64::from(limit.rate) + u64::from(limit.burst), "{within} under {limit:?}");
                }
            }
        }
    }
}
