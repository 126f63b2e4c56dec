//! The core of every request rate: the generic cell rate algorithm (GCRA, ITU-T I.371), with one
//! arrival time per limit.
//!
//! A [`Limit`] of `rate` requests per period with a `burst` lets at most `rate + burst` requests
//! pass in any window of one period. The rate limit state belongs to a subject (an agent, a
//! principal, a model), and several limits may be tested against it. The state keeps one arrival
//! time for each limit in use, and every request that passes moves all of them. So a second token
//! with another limit cannot reset the count of the first one. It also cannot delay the first one
//! for longer than its own period.

/// The window in which a rate counts requests.
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

/// The burst of a limit without a configured burst, as far as its rate is that large.
const SMALL_BURST: u32 = 10;

/// `rate` requests per `period`, `burst` of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The window.
    pub period: Period,
    /// Requests per window; 0 refuses every request.
    pub rate: u32,
    /// Requests that may come at once; at least 1.
    pub burst: u32,
}

impl Limit {
    /// A limit of `rate` per `period`. Without a `burst`, the burst is a sixth of the rate, but at
    /// least 10 or the whole of a smaller rate. So a caller with two requests a minute may send
    /// both at once.
    #[must_use]
    pub fn new(period: Period, rate: u64, burst: Option<u64>) -> Self {
        let rate = clip(rate);
        let burst = match burst {
            Some(burst) => clip(burst),
            None => (rate / 6).max(rate.min(SMALL_BURST)),
        };
        Self { period, rate, burst: burst.max(1) }
    }

    /// Nanoseconds between two requests at the limit's rate. The rate must not be 0.
    const fn interval(self) -> u64 {
        // Rounded up: a limit may pass slightly less than it says, never more.
        self.period.nanos().div_ceil(self.rate as u64)
    }

    /// How many nanoseconds the arrival time may be ahead of now for a request to pass.
    const fn tolerance(self) -> u64 {
        // One request of the burst needs no tolerance: it passes at the arrival time.
        self.interval().saturating_mul(self.burst as u64 - 1)
    }
}

/// A number of requests, cut to `u32`. A larger number has no effect in practice, and the smaller
/// type keeps the state small.
fn clip(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The remaining part of the limit that is nearest to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The limit.
    pub limit: Limit,
    /// Requests that would pass at once now.
    pub remaining: u64,
    /// Nanoseconds until the whole burst is available again.
    pub reset_ns: u64,
}

/// The result of a counted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedRequest {
    /// The remaining part of the tightest limit that was tested.
    pub headroom: Option<Headroom>,
    /// Limits that were full already and moved by less than one request, with the nanoseconds that
    /// they moved.
    pub clamped: Vec<(Limit, u64)>,
}

/// A refusal by a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit that refuses.
    pub limit: Limit,
    /// Nanoseconds until this request would pass; `None` where waiting cannot help (a rate of
    /// zero).
    pub wait_ns: Option<u64>,
}

/// The arrival time of one limit.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    limit: Limit,
    /// The theoretical arrival time of the next request, in nanoseconds of the monotonic clock.
    at: u64,
}

impl Arrival {
    /// How far it is ahead of `now`, in requests. Rounded up, so that a new limit is never treated
    /// too well. The rate must not be 0.
    fn debt(&self, now: u64) -> u64 {
        self.at.saturating_sub(now).div_ceil(self.limit.interval().max(1))
    }
}

/// Distinct limits that one subject may be tested against within one period. A subject has as many
/// as it has tokens with different rates in use at once. A request with a further limit waits until
/// one of them is idle.
const LIMITS_MAX: usize = 8;

/// The arrival times of one subject. One limit is stored inline, which is 24 bytes in the common
/// case.
#[derive(Debug, Default)]
pub struct RateState {
    /// The arrival time of the first limit.
    first: Option<Arrival>,
    #[allow(clippy::box_collection, reason = "eight bytes in a million idle agents instead of 24")]
    more: Option<Box<Vec<Arrival>>>,
}

impl RateState {
    /// All arrival times.
    fn arrivals(&self) -> impl Iterator<Item = &Arrival> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    /// All arrival times, to change them.
    fn arrivals_mut(&mut self) -> impl Iterator<Item = &mut Arrival> {
        self.first.iter_mut().chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
    }

    /// The arrival time for testing `limit`. A limit in use has its own. For a new limit, it is as
    /// many requests ahead of now as the busiest of the other limits. So a new limit does not start
    /// with an empty count.
    fn arrival(&self, limit: Limit, now: u64) -> u64 {
        if let Some(own) = self.arrivals().find(|arrival| arrival.limit == limit) {
            return own.at.max(now);
        }
        let mut debt = 0;
        for other in self.arrivals() {
            // Only limits of the same period are compared: a debt of one minute is no measure for
            // one second.
            if other.limit.period == limit.period && other.limit.rate > 0 {
                debt = debt.max(other.debt(now));
            }
        }
        // At most one burst: the new limit is then full, and a request waits no longer than that
        // limit justifies.
        let requests = debt.min(u64::from(limit.burst));
        now.saturating_add(limit.interval().saturating_mul(requests))
    }

    /// Whether the limit is in use.
    fn has(&self, limit: Limit) -> bool {
        self.arrivals().any(|arrival| arrival.limit == limit)
    }

    /// Tests `limits` at `now`. If all pass, counts one request against every limit of this
    /// subject.
    ///
    /// # Errors
    /// The first limit that does not pass. In that case no limit is changed.
    pub fn take(&mut self, limits: &[Limit], now: u64) -> Result<CountedRequest, Exceeded> {
        // First, so that limits no longer in use do not count against `LIMITS_MAX`.
        self.forget_idle(now, limits);
        let known = self.arrivals().count();
        let mut new = 0;
        for limit in limits {
            new += usize::from(!self.has(*limit));
        }
        let mut tightest: Option<Headroom> = None;
        for &limit in limits {
            // Before `interval`, which divides by the rate.
            if limit.rate == 0 {
                return Err(Exceeded { limit, wait_ns: None });
            }
            if known + new > LIMITS_MAX {
                // A bounded number of arrival times keeps the memory of a subject bounded, whatever
                // tokens are signed for it.
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
        // Counted only now, after all limits have passed: a refused request changes no state.
        Ok(CountedRequest { headroom: tightest, clamped: self.count(limits, now) })
    }

    /// Counts one request against every limit. Returns the limits that moved by less than one
    /// request.
    fn count(&mut self, limits: &[Limit], now: u64) -> Vec<(Limit, u64)> {
        for &limit in limits {
            if !self.has(limit) {
                // The start of a new limit depends on the others, so it is computed before they
                // move.
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
            // This request may not have tested this limit, so it may be full already. It stays full
            // and does not move further ahead, so that another token cannot delay it without end.
            let full = now.saturating_add(arrival.limit.tolerance()).saturating_add(interval);
            let from = arrival.at.max(now);
            arrival.at = from.saturating_add(interval).min(full.max(from));
            if arrival.at - from < interval {
                clamped.push((arrival.limit, arrival.at - from));
            }
        }
        clamped
    }

    /// Takes one counted request back, because another subject's limit refused it. `clamped` comes
    /// from [`RateState::take`].
    pub fn give_back(&mut self, clamped: &[(Limit, u64)]) {
        for arrival in self.arrivals_mut() {
            // A clamped limit moved by less than one interval. Subtracting a whole one would give
            // the caller additional requests.
            let moved = match clamped.iter().find(|(limit, _)| *limit == arrival.limit) {
                Some((_, part)) => *part,
                None => arrival.limit.interval(),
            };
            arrival.at = arrival.at.saturating_sub(moved);
        }
    }

    /// Each limit in use, with the nanoseconds that its arrival time is ahead of `now`.
    pub fn ahead(&self, now: u64) -> impl Iterator<Item = (Limit, u64)> {
        self.arrivals()
            .filter(move |arrival| arrival.at > now)
            .map(move |arrival| (arrival.limit, arrival.at - now))
    }

    /// A state whose arrival times are so far ahead of `now`. At most the first eight are kept.
    #[must_use]
    pub fn of_ahead(ahead: impl IntoIterator<Item = (Limit, u64)>, now: u64) -> Self {
        let mut arrivals = ahead
            .into_iter()
            .map(|(limit, ahead)| Arrival { limit, at: now.saturating_add(ahead) });
        let first = arrivals.next();
        let more: Vec<Arrival> = arrivals.take(LIMITS_MAX - 1).collect();
        Self { first, more: (!more.is_empty()).then(|| Box::new(more)) }
    }

    /// True when no arrival time is after `now`: the state can be removed without effect.
    #[must_use]
    pub fn idle(&self, now: u64) -> bool {
        self.arrivals().all(|arrival| arrival.at <= now)
    }

    /// Removes arrival times that have passed and are not in `asked`.
    fn forget_idle(&mut self, now: u64, asked: &[Limit]) {
        if let Some(more) = &mut self.more {
            more.retain(|arrival| arrival.at > now || asked.contains(&arrival.limit));
            if more.is_empty() {
                self.more = None;
            }
        }
        if self.first.is_some_and(|first| first.at <= now && !asked.contains(&first.limit)) {
            // The inline field is filled from the list, so that one limit in use needs no
            // allocation.
            self.first = match &mut self.more {
                Some(more) => more.pop(),
                None => None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes requests until one is refused, and compares their number.
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
            // A caller that sends all the time gets the rest of one minute's worth, and then the
            // rate.
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
        // Five requests of the tight limit count for the wide one too, so 3 of its burst of 8 are
        // left.
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
            // The tight limit was full and did not move, so that taking back must not move it
            // either.
            assert_eq!(taken.clamped, [(tight, 0)]);
            tally.give_back(&taken.clamped);
        }
        passes(&mut tally, &[tight], 0, 0);
    }

    proptest! {
        /// In any window of one period, at most rate + burst requests pass for every limit. The
        /// test sends mixed requests at any time.
        #[test]
        fn no_window_passes_more_than_rate_and_burst(
            rates in prop::collection::vec((1u64..40, 1u64..10), 1..4),
            steps in prop::collection::vec((0u64..3_000, 0usize..4), 1..400),
        ) {
            let limits: Vec<Limit> = rates
                .iter()
                .map(|&(rate, burst)| Limit::new(Period::Minute, rate, Some(burst)))
                .collect();
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
                    let within =
                        times[place..].iter().filter(|at| **at - from < 60 * SECOND).count();
                    let most = u64::from(limit.rate) + u64::from(limit.burst);
                    prop_assert!(within as u64 <= most, "{within} under {limit:?}");
                }
            }
        }
    }
}
