//! The health of upstreams. Dials and requests update it; the choice of an upstream reads it.
//!
//! After a failed dial an upstream is down until a dial succeeds. It is also down for a while after
//! several consecutive failures. Failures are failed requests, and connections that the server
//! ended at once.
//!
//! After that time one request is sent as a trial, regardless of dials. If it is served, the
//! upstream is up again. Otherwise it stays down for twice as long, at most a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Clock;
use crate::lock::locked;

/// Consecutive failed requests after which an upstream is down.
const FAULTS_MAX: u32 = 3;
/// The first down time.
const DOWN_MIN: Duration = Duration::from_secs(5);
/// The longest down time before the next trial.
const DOWN_MAX: Duration = Duration::from_secs(60);

/// The state of all upstreams. An upstream without a state counts as up.
pub struct Health {
    upstreams: HashMap<Arc<str>, Mutex<ServerState>>,
    clock: Arc<dyn Clock>,
}

/// The state of one upstream.
#[derive(Default)]
struct ServerState {
    /// Whether the last dial failed.
    unreachable: bool,
    /// Consecutive failed requests.
    faults: u32,
    down: Option<Down>,
}

/// The down time of an upstream, after failed requests.
#[derive(Clone, Copy)]
struct Down {
    /// The time of the next trial, on the monotonic clock.
    until: Duration,
    /// The length of the current down time.
    wait: Duration,
}

impl ServerState {
    /// Whether the upstream is up.
    const fn up(&self) -> bool {
        !self.unreachable && self.down.is_none()
    }

    /// Changes the state. Returns the new state if it differs from the old one.
    fn change(&mut self, change: impl FnOnce(&mut Self)) -> Option<bool> {
        let before = self.up();
        change(self);
        Some(self.up()).filter(|up| *up != before)
    }
}

impl Health {
    /// The state with all `names` up.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>, clock: Arc<dyn Clock>) -> Self {
        let mut upstreams = HashMap::new();
        for name in names {
            upstreams.insert(name, Mutex::default());
        }
        Self { upstreams, clock }
    }

    /// The locked state of an upstream; none if it is unknown.
    fn state(&self, name: &str) -> Option<MutexGuard<'_, ServerState>> {
        Some(locked(self.upstreams.get(name)?))
    }

    /// Whether the upstream is up, or a trial is due.
    #[must_use]
    pub fn is_up(&self, name: &str) -> bool {
        let Some(state) = self.state(name) else { return true };
        !state.unreachable && state.down.is_none_or(|down| down.until <= self.clock.monotonic())
    }

    /// Whether a request may go to the upstream now. If it is a trial, the next trial is possible
    /// only after a further down time.
    pub fn begin(&self, name: &str) -> bool {
        let Some(mut state) = self.state(name) else { return true };
        // The periodic dial decides about it; a request must not wait for a connect timeout.
        if state.unreachable {
            return false;
        }
        let now = self.clock.monotonic();
        if let Some(down) = &mut state.down {
            if down.until > now {
                return false;
            }
            // Set before the result is known: parallel requests must not all become trials.
            down.wait = (down.wait * 2).min(DOWN_MAX);
            down.until = now + down.wait;
        }
        true
    }

    /// Records the result of a dial. Returns the upstream's new state if it has changed.
    pub fn dialled(&self, name: &str, succeeded: bool) -> Option<bool> {
        self.state(name)?.change(|state| state.unreachable = !succeeded)
    }

    /// Records a served request. Returns the upstream's new state if it has changed.
    pub fn served(&self, name: &str) -> Option<bool> {
        self.state(name)?.change(|state| *state = ServerState::default())
    }

    /// Records a failed request: reset, unanswered, or answered with a status that the server
    /// cannot serve. Also a connection that the server ended at once. Returns the upstream's new
    /// state if it has changed.
    pub fn failed(&self, name: &str) -> Option<bool> {
        let now = self.clock.monotonic();
        self.state(name)?.change(|state| {
            state.faults += 1;
            // A failed trial changes no time here: `begin` has already doubled it.
            if state.faults >= FAULTS_MAX && state.down.is_none() {
                state.down = Some(Down { until: now + DOWN_MIN, wait: DOWN_MIN });
            }
        })
    }

    /// Whether the upstream is up, without a pending trial.
    #[must_use]
    pub fn serves(&self, name: &str) -> bool {
        match self.state(name) {
            Some(state) => state.up(),
            None => true,
        }
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
