//! What goes on on one caller's connection: shared by its reader and writer, its requests and its timers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The state of one connection.
pub struct Activity {
    state: Mutex<ActivityState>,
    written: Arc<DeliveredBytes>,
    began: Instant,
    /// Answers, or parts of them, that are ready and that the caller has not taken.
    owed: AtomicUsize,
    /// When the caller last took something, or was first owed something: milliseconds since `began`.
    moved_ms: AtomicU64,
}

/// Bytes that a caller took: those of a connection over HTTP/1.1, those of one stream over HTTP/2.
#[derive(Default)]
pub struct DeliveredBytes(AtomicU64);

impl DeliveredBytes {
    /// Counts further ones.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct ActivityState {
    /// Requests that are at work, until the caller's socket has taken the last byte of their answer.
    requests: usize,
    /// Those of them whose answer is not all there yet.
    unanswered: usize,
    /// When the last of the requests ended, or the connection began.
    quiet_since: Instant,
    /// When the last of the unanswered was answered.
    answered_since: Instant,
    /// Whether the socket takes nothing at the moment.
    is_blocked: bool,
    /// Whether the newest request's version knows interim answers (HTTP/1.1).
    takes_interim: bool,
    /// Whether the caller has closed its side while a request was at work.
    is_half_closed: bool,
    /// The connection's task, where it waits for the end of a request.
    waiting: Option<Waker>,
}

/// A request at work; its end is noted when this is dropped.
pub struct Busy(Arc<Activity>);

/// A request whose answer is not all there yet.
pub struct Unanswered(Arc<Activity>);

/// Something that is ready for the caller and that it has not taken.
pub struct Owed(Arc<Activity>);

impl Activity {
    /// A connection without requests.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        let state = ActivityState {
            requests: 0,
            unanswered: 0,
            quiet_since: now,
            answered_since: now,
            is_blocked: false,
            takes_interim: false,
            is_half_closed: false,
            waiting: None,
        };
        let (owed, moved_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { state: Mutex::new(state), written: Arc::default(), began: now, owed, moved_ms }
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
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

    /// How long nothing has been at work and nothing was written; none while something is.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        let state = self.lock();
        (state.requests == 0 && !state.is_blocked).then(|| state.quiet_since.elapsed())
    }

    /// How long all that is left to do has been the caller's: to read answers that are there; none while one is not.
    #[must_use]
    pub fn answered_for(&self) -> Option<Duration> {
        let state = self.lock();
        (state.unanswered == 0).then(|| state.answered_since.elapsed())
    }

    /// How long the caller has taken nothing of what is ready for it; none where nothing is.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        let moved = self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        (self.owed.load(Ordering::Relaxed) > 0).then(|| moved.elapsed())
    }

    /// Notes that the caller took something.
    fn moved(&self) {
        let now = self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.moved_ms.store(now, Ordering::Relaxed);
    }

    /// Notes whether the socket takes nothing at the moment.
    pub fn blocked(&self, is_blocked: bool) {
        let mut state = self.lock();
        if state.is_blocked && !is_blocked {
            state.quiet_since = Instant::now();
        }
        state.is_blocked = is_blocked;
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
        self.written.add(bytes);
    }

    /// The bytes that the caller's socket took.
    #[must_use]
    pub fn written(&self) -> Arc<DeliveredBytes> {
        Arc::clone(&self.written)
    }
}

impl Busy {
    /// Whether the caller has closed its side and may still read.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.0.is_half_closed()
    }

    /// Notes that the answer is not all there yet, until that is dropped.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.0.lock().unanswered += 1;
        Unanswered(Arc::clone(&self.0))
    }

    /// Notes that something is ready for the caller, until that is dropped.
    #[must_use]
    pub fn owes(&self) -> Owed {
        if self.0.owed.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.moved();
        }
        Owed(Arc::clone(&self.0))
    }
}

impl Owed {
    /// Notes that the caller took some of it.
    pub fn moved(&self) {
        self.0.moved();
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.moved();
        self.0.owed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.unanswered -= 1;
        state.answered_since = Instant::now();
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
