//! Which upstreams serve: written by whoever dials and asks, read by whoever chooses.
//!
//! An upstream is down after a dial that failed, until one succeeds; and after several requests in a row that failed there, or
//! connections that the server ended as soon as they were open, for a while. Then one request is let through as a trial, whatever dials say: if it is served the upstream is up again, else it stays
//! down for twice as long, a minute at the most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Requests in a row that fail before an upstream counts as down.
const FAULTS_MAX: u32 = 3;
/// How long it is down at first.
const DOWN_MIN: Duration = Duration::from_secs(5);
/// How long it is down at the most before the next trial.
const DOWN_MAX: Duration = Duration::from_secs(60);

/// The book of upstreams; one that is not in it counts as up.
pub struct Health {
    upstreams: HashMap<Arc<str>, Mutex<ServerState>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct ServerState {
    /// The last dial failed.
    unreachable: bool,
    /// Requests in a row that failed.
    faults: u32,
    down: Option<Down>,
}

#[derive(Clone, Copy)]
struct Down {
    /// When the next trial may be made, on the monotonic clock.
    until: Duration,
    /// How long it was down before.
    wait: Duration,
}

impl ServerState {
    const fn up(&self) -> bool {
        !self.unreachable && self.down.is_none()
    }

    /// Changes the state; what the upstream is now, where that is news.
    fn change(&mut self, change: impl FnOnce(&mut Self)) -> Option<bool> {
        let before = self.up();
        change(self);
        Some(self.up()).filter(|up| *up != before)
    }
}

impl Health {
    /// A book in which all of `names` are up.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>, clock: Arc<dyn Clock>) -> Self {
        Self { upstreams: names.into_iter().map(|name| (name, Mutex::default())).collect(), clock }
    }

    fn state(&self, name: &str) -> Option<MutexGuard<'_, ServerState>> {
        Some(self.upstreams.get(name)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True unless the upstream is down; also where a trial may be made.
    #[must_use]
    pub fn is_up(&self, name: &str) -> bool {
        let Some(state) = self.state(name) else { return true };
        !state.unreachable && state.down.is_none_or(|down| down.until <= self.clock.monotonic())
    }

    /// True where a request may go to the upstream now. Where that is a trial, there is no other until this one had its time.
    pub fn begin(&self, name: &str) -> bool {
        let Some(mut state) = self.state(name) else { return true };
        if state.unreachable {
            return false;
        }
        let now = self.clock.monotonic();
        if let Some(down) = &mut state.down {
            if down.until > now {
                return false;
            }
            down.wait = (down.wait * 2).min(DOWN_MAX);
            down.until = now + down.wait;
        }
        true
    }

    /// Notes how a dial went. What the upstream is now, where that is news.
    pub fn dialled(&self, name: &str, succeeded: bool) -> Option<bool> {
        self.state(name)?.change(|state| state.unreachable = !succeeded)
    }

    /// Notes that a request was served. What the upstream is now, where that is news.
    pub fn served(&self, name: &str) -> Option<bool> {
        self.state(name)?.change(|state| *state = ServerState::default())
    }

    /// Notes that a request failed there: reset, not answered, or answered that the server cannot serve; or that the server
    /// ended a connection as soon as it was open. What the upstream is now, where that is news.
    pub fn failed(&self, name: &str) -> Option<bool> {
        let now = self.clock.monotonic();
        self.state(name)?.change(|state| {
            state.faults += 1;
            if state.faults >= FAULTS_MAX && state.down.is_none() {
                state.down = Some(Down { until: now + DOWN_MIN, wait: DOWN_MIN });
            }
        })
    }

    /// True where the upstream is up, no trial pending.
    #[must_use]
    pub fn serves(&self, name: &str) -> bool {
        self.state(name).is_none_or(|state| state.up())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    fn book() -> (Arc<ManualClock>, Health) {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        (Arc::clone(&clock), Health::new(["a".into()], clock))
    }

    #[test]
    fn requests_that_fail_outlive_a_dial_that_succeeds() {
        let (clock, book) = book();
        assert_eq!(
            (book.failed("a"), book.failed("a"), book.failed("a"), book.failed("a")),
            (None, None, Some(false), None)
        );
        assert_eq!(
            (book.dialled("a", true), book.is_up("a"), book.begin("a")),
            (None, false, false)
        );
        clock.advance(DOWN_MIN);
        assert!(book.is_up("a") && !book.serves("a"));
        assert!(book.begin("a") && !book.begin("a") && !book.is_up("a"), "one trial at a time");
        clock.advance(DOWN_MIN);
        assert!(!book.begin("a"), "twice as long");
        clock.advance(DOWN_MIN);
        assert!(book.begin("a"));
        assert_eq!((book.served("a"), book.serves("a"), book.begin("a")), (Some(true), true, true));
    }

    #[test]
    fn the_wait_is_bounded() {
        let (clock, book) = book();
        for _ in 0..FAULTS_MAX {
            book.failed("a");
        }
        for _ in 0..20 {
            clock.advance(DOWN_MAX);
            assert!(book.begin("a"));
            assert_eq!(book.failed("a"), None);
        }
    }

    #[test]
    fn requests_that_are_served_between_others_keep_it_up() {
        let (_, book) = book();
        for _ in 0..20 {
            book.failed("a");
            book.failed("a");
            book.served("a");
        }
        assert!(book.is_up("a"));
    }

    #[test]
    fn a_dial_marks_and_unmarks() {
        let (_, book) = book();
        assert_eq!(
            (book.dialled("a", false), book.is_up("a"), book.begin("a")),
            (Some(false), false, false)
        );
        assert_eq!((book.dialled("a", true), book.is_up("a")), (Some(true), true));
        assert_eq!((book.dialled("b", false), book.is_up("b")), (None, true));
    }
}
