//! What goes on on one caller's connection: shared by its reader and writer, its requests and its timers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The state of one connection.
pub struct Activity {
    state: Mutex<State>,
    written: AtomicU64,
}

struct State {
    /// Requests that are at work, until the last byte of their answer was handed to the connection.
    requests: usize,
    /// When the last of them ended, or the connection began.
    quiet_since: Instant,
    /// Whether the newest request's version knows interim answers (HTTP/1.1).
    takes_interim: bool,
    /// Whether the caller has closed its side while a request was at work.
    is_half_closed: bool,
    /// The connection's task, where it waits for the end of a request.
    waiting: Option<Waker>,
}

/// A request at work; its end is noted when this is dropped.
pub struct Busy(Arc<Activity>);

impl Activity {
    /// A connection without requests.
    #[must_use]
    pub fn new() -> Self {
        let state =
            State { requests: 0, quiet_since: Instant::now(), takes_interim: false, is_half_closed: false, waiting: None };
        Self { state: Mutex::new(state), written: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; `takes_interim` where its caller knows interim answers.
    #[must_use]
    pub fn begin(self: &Arc<Self>, takes_interim: bool) -> Busy {
        let mut state = self.lock();
        state.requests += 1;
        state.takes_interim = takes_interim;
        Busy(Arc::clone(self))
    }

    /// How long nothing has been at work; none while something is.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        let state = self.lock();
        (state.requests == 0).then(|| state.quiet_since.elapsed())
    }

    /// True while a request is at work; then the task of `cx` is woken when it ends.
    pub fn is_busy(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if state.requests == 0 {
            return false;
        }
        if !state.waiting.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.waiting = Some(cx.waker().clone());
        }
        true
    }

    /// Whether the caller knows interim answers (RFC 9110 section 15.2).
    #[must_use]
    pub fn takes_interim(&self) -> bool {
        self.lock().takes_interim
    }

    /// Notes that the caller has closed its side and may still read.
    pub fn half_close(&self) {
        self.lock().is_half_closed = true;
    }

    /// Whether the caller has closed its side and may still read.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.lock().is_half_closed
    }

    /// Counts bytes that the caller's socket took.
    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that the caller's socket took so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Busy {
    /// Whether the caller has closed its side and may still read.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.0.is_half_closed()
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
            state.quiet_since = Instant::now();
            if let Some(waiting) = state.waiting.take() {
                waiting.wake();
            }
        }
    }
}
