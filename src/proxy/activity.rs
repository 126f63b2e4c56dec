//! The activity of one caller's connection. The connection's tasks, its requests and its timers
//! share it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::locked;

/// Counters and times of one connection. Requests update them; the timers of the connection read
/// them.
pub struct Activity {
    state: Mutex<ActivityState>,
    written: Arc<DeliveredBytes>,
    began: Instant,
    /// Answers, or parts of them, that are ready and that the caller has not taken yet.
    owed: AtomicUsize,
    /// When the caller last took bytes, or when the first bytes became ready for it. In
    /// milliseconds since `began`.
    moved_ms: AtomicU64,
}

/// Bytes that a caller has taken: of the whole connection over HTTP/1.1, of one stream over HTTP/2.
#[derive(Default)]
pub struct DeliveredBytes(AtomicU64);

impl DeliveredBytes {
    /// Adds `bytes` to the count.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The part of [`Activity`] that changes under one lock.
struct ActivityState {
    /// Open requests. A request is open until the caller's socket has taken the last byte of its
    /// answer.
    requests: usize,
    /// Open requests whose answer is not complete yet.
    unanswered: usize,
    /// When the last open request ended, or the connection began.
    quiet_since: Instant,
    /// When the last unanswered request got its complete answer.
    answered_since: Instant,
    /// Whether the socket accepts no bytes at the moment.
    is_blocked: bool,
    /// Whether the version of the newest request has interim answers (HTTP/1.1).
    takes_interim: bool,
    /// Whether the caller has closed its sending side while a request was open.
    is_half_closed: bool,
    /// The task of the connection, if it waits for the end of a request.
    waiting: Option<Waker>,
}

/// An open request. Dropping this value records its end.
pub struct Busy(Arc<Activity>);

/// A request whose answer is not complete yet. Dropping this value records that it is complete.
pub struct Unanswered(Arc<Activity>);

/// Bytes that are ready for the caller and that it has not taken. Dropping this value records that
/// it took them.
pub struct Owed(Arc<Activity>);

/// Stores the waker of the task of `cx`, unless `kept` already wakes that task.
pub(super) fn keep_waker(kept: &mut Option<Waker>, cx: &Context<'_>) {
    // Cloned only if needed: this runs on each poll.
    if let Some(known) = kept
        && known.will_wake(cx.waker())
    {
        return;
    }
    *kept = Some(cx.waker().clone());
}

impl Activity {
    /// The activity of a connection without requests.
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

    /// The locked state. A panic in another holder leaves only counters, so a poisoned lock is
    /// usable.
    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        locked(&self.state)
    }

    /// Records a new request. `takes_interim` is true if its caller understands interim answers.
    #[must_use]
    pub fn begin(self: &Arc<Self>, takes_interim: bool) -> Busy {
        let mut state = self.lock();
        state.requests += 1;
        state.takes_interim = takes_interim;
        Busy(Arc::clone(self))
    }

    /// How long the connection has been idle: no open request and no blocked write. None if it is
    /// active.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        let state = self.lock();
        // A blocked write means that the caller still has to read bytes, so the connection is in
        // use.
        (state.requests == 0 && !state.is_blocked).then(|| state.quiet_since.elapsed())
    }

    /// How long all answers have been complete, so that only the caller has work left: to read
    /// them. None while an answer is incomplete.
    #[must_use]
    pub fn answered_for(&self) -> Option<Duration> {
        let state = self.lock();
        (state.unanswered == 0).then(|| state.answered_since.elapsed())
    }

    /// How long the caller has left ready bytes untaken. None if no bytes are ready.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        let moved = self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        (self.owed.load(Ordering::Relaxed) > 0).then(|| moved.elapsed())
    }

    /// Records that the caller took bytes now.
    fn moved(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Ordering::Relaxed);
    }

    /// Records whether the socket accepts no bytes at the moment.
    pub fn blocked(&self, is_blocked: bool) {
        let mut state = self.lock();
        // The idle time starts when the socket accepts bytes again, because a blocked write is
        // activity.
        if state.is_blocked && !is_blocked {
            state.quiet_since = Instant::now();
        }
        state.is_blocked = is_blocked;
    }

    /// True while a request is open. In that case the task of `cx` is woken when the last one ends.
    pub fn is_busy(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if state.requests == 0 {
            return false;
        }
        keep_waker(&mut state.waiting, cx);
        true
    }

    /// Whether the caller understands interim answers (RFC 9110 section 15.2).
    #[must_use]
    pub fn takes_interim(&self) -> bool {
        self.lock().takes_interim
    }

    /// Records that the caller has closed its sending side and may still read.
    pub fn half_close(&self) {
        self.lock().is_half_closed = true;
    }

    /// Whether the caller has closed its sending side and may still read.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.lock().is_half_closed
    }

    /// Counts bytes that the caller's socket accepted.
    pub fn wrote(&self, bytes: usize) {
        self.written.add(bytes);
    }

    /// The counter of bytes that the caller's socket accepted.
    #[must_use]
    pub fn written(&self) -> Arc<DeliveredBytes> {
        Arc::clone(&self.written)
    }
}

impl Busy {
    /// Whether the caller has closed its sending side and may still read.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.0.is_half_closed()
    }

    /// Records that the answer is incomplete, until the returned value is dropped.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.0.lock().unanswered += 1;
        Unanswered(Arc::clone(&self.0))
    }

    /// Records that bytes are ready for the caller, until the returned value is dropped.
    #[must_use]
    pub fn owes(&self) -> Owed {
        // Before the first ready bytes the caller had no bytes to take: its time starts now.
        if self.0.owed.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.moved();
        }
        Owed(Arc::clone(&self.0))
    }
}

impl Owed {
    /// Records that the caller took some of the bytes.
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
            // The end of the stream that was hidden during the request may be seen now.
            if let Some(waiting) = state.waiting.take() {
                waiting.wake();
            }
        }
    }
}
