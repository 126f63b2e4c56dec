//! Rates and quotas, at the values where they change.

use std::sync::Arc;
use std::time::Duration;

use token_shield::clock::{Clock, ManualClock, Timestamp};
use token_shield::guard::charges::Charges;
use token_shield::guard::egress::fetch_quota::FetchQuota;
use token_shield::guard::gcra::{Limit, Period, RateState};
use token_shield::guard::limiter::{Limiter, SubjectKind};

const SECOND: u64 = 1_000_000_000;

#[test]
fn the_headroom_is_that_of_the_tightest_limit() {
    let minute = Limit::new(Period::Minute, 600, Some(100));
    let second = Limit::new(Period::Second, 5, Some(5));
    for limits in [[minute, second], [second, minute]] {
        let counted = RateState::default().take(&limits, 0).expect("it is the first");
        let headroom = counted.headroom.expect("there are limits");
        assert_eq!((headroom.limit, headroom.remaining), (second, 4));
    }
}

#[test]
fn a_used_quota_is_free_again_after_an_hour() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let limiter = Limiter::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let subjects = [limiter.subject(SubjectKind::Agent, "a/b")];
    let quota = Arc::new(FetchQuota::new(clock));
    let mut taken = quota.take(&subjects, 100, 100).expect("all of it");
    assert!(taken.spend(100));
    drop(taken);
    let refusal = quota.take(&subjects, 1, 100).err().expect("it is used up");
    // The quota is counted in whole minutes, and the current one counts too.
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(61 * 60)));
}

#[test]
fn a_charge_is_forgotten_when_it_is_due() {
    let charges = Charges::per_second(1);
    charges.take(1, 0).expect("it is the first");
    assert_eq!(charges.len(), 1);
    charges.sweep(SECOND - 1);
    assert_eq!(charges.len(), 1);
    charges.sweep(SECOND);
    assert_eq!(charges.len(), 0);
}

#[test]
fn a_restored_state_has_eight_limits_at_most() {
    let ahead = (1..=10).map(|rate| (Limit::new(Period::Minute, rate, None), SECOND));
    assert_eq!(RateState::of_ahead(ahead, 0).ahead(0).count(), 8);
}
