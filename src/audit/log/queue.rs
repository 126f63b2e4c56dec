//! What the threads of a log share: what waits, what is being answered, and how the log is.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::{LogFault, QUEUE_MAX, SYNC_MAX, Sealed, State};
use crate::audit::event::Event;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::durable;

/// How often the files and the running sync are looked after.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Whom to tell how it went.
pub(super) type Then = Box<dyn FnOnce(Result<Sealed, LogFault>) + Send>;

/// An event that is to be recorded.
pub(super) struct Waiting {
    pub(super) event: Event,
    pub(super) by: Option<String>,
    pub(super) then: Then,
}

type Observer = Box<dyn Fn(Duration, usize) + Send + Sync>;

pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the writer: something waits, or the log closes.
    wake: Condvar,
    /// Wakes the watch and whoever closes: the writer has ended, or the log has failed.
    over: Condvar,
    clock: std::sync::Arc<dyn Clock>,
    observer: OnceLock<Observer>,
    mourner: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Inner {
    queue: VecDeque<Waiting>,
    /// Those of the batch on its way to the disk. Here, so that they hear of a failure while the writer hangs in a sync.
    answering: Vec<(Then, Sealed)>,
    writing_since: Option<Duration>,
    watched: Vec<durable::Identity>,
    closing: bool,
    ended: bool,
    state: State,
}

impl Inner {
    const fn over(&self) -> bool {
        self.ended || self.state.failed.is_some()
    }
}

impl Shared {
    pub(super) fn new(clock: std::sync::Arc<dyn Clock>, watched: Vec<durable::Identity>, size: u64, at: Timestamp) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            answering: Vec::new(),
            writing_since: None,
            watched,
            closing: false,
            ended: false,
            state: State { size, at, sync_last: Duration::ZERO, failed: None },
        };
        Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            over: Condvar::new(),
            clock,
            observer: OnceLock::new(),
            mourner: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    pub(super) fn healthy(&self) -> bool {
        let inner = self.lock();
        !inner.closing && !inner.over()
    }

    pub(super) fn observe(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    pub(super) fn on_failure(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let _ = self.mourner.set(tell);
    }

    /// The time that the next record gets: the wall clock, but never earlier than `last`.
    pub(super) fn now_after(&self, last: Timestamp) -> Timestamp {
        self.clock.now().max(last)
    }

    pub(super) fn enqueue(&self, waiting: Waiting) {
        let mut inner = self.lock();
        let fault = if let Some(fault) = &inner.state.failed {
            fault.clone()
        } else if inner.closing {
            LogFault::Closed
        } else if inner.queue.len() >= QUEUE_MAX {
            LogFault::Busy
        } else {
            inner.queue.push_back(waiting);
            drop(inner);
            self.wake.notify_one();
            return;
        };
        drop(inner);
        (waiting.then)(Err(fault));
    }

    /// Waits for work and takes all of it. `None`: the log closes and nothing is left to do, or it has failed.
    pub(super) fn take(&self) -> Option<VecDeque<Waiting>> {
        let idle = |inner: &mut Inner| inner.queue.is_empty() && !inner.closing && inner.state.failed.is_none();
        let mut inner = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let work = std::mem::take(&mut inner.queue);
        (!work.is_empty() && inner.state.failed.is_none()).then_some(work)
    }

    /// A batch goes to the disk. What did not fit into it is first in the queue again.
    pub(super) fn begin_writing(&self, batch: Vec<(Then, Sealed)>, rest: VecDeque<Waiting>) {
        let mut inner = self.lock();
        if let Some(fault) = inner.state.failed.clone() {
            // It failed after these were taken: nobody else would tell them.
            drop(inner);
            for then in batch.into_iter().map(|(then, _)| then).chain(rest.into_iter().map(|waiting| waiting.then)) {
                then(Err(fault.clone()));
            }
            return;
        }
        for waiting in rest.into_iter().rev() {
            inner.queue.push_front(waiting);
        }
        inner.writing_since = (!batch.is_empty()).then(|| self.clock.monotonic());
        inner.answering = batch;
    }

    /// The batch is durable: everybody in it hears so, in the log's order. Unless the log has failed meanwhile, and they
    /// have heard that.
    pub(super) fn written(&self, watched: Vec<durable::Identity>, size: u64) {
        let mut inner = self.lock();
        let took = inner.writing_since.take().map_or(Duration::ZERO, |since| self.clock.monotonic().saturating_sub(since));
        let batch = std::mem::take(&mut inner.answering);
        let Some((_, last)) = batch.last().filter(|_| inner.state.failed.is_none()) else {
            return;
        };
        inner.state = State { size, at: last.at, sync_last: took, failed: None };
        inner.watched.extend(watched);
        drop(inner);
        if let Some(observe) = self.observer.get() {
            observe(took, batch.len());
        }
        for (then, sealed) in batch {
            then(Ok(sealed));
        }
    }

    /// The batch was not written, not even in part, and the log goes on.
    pub(super) fn not_written(&self, fault: &LogFault) {
        let mut inner = self.lock();
        inner.writing_since = None;
        let batch = std::mem::take(&mut inner.answering);
        drop(inner);
        for (then, _) in batch {
            then(Err(fault.clone()));
        }
    }

    /// Ends the log. Everybody who waits hears `fault`, and so does everybody who comes later. The first fault stays.
    pub(super) fn fail(&self, fault: LogFault) {
        let mut inner = self.lock();
        if inner.over() {
            return;
        }
        tracing::error!(%fault, size = inner.state.size, "the audit log has failed: nothing can be recorded any more");
        inner.state.failed = Some(fault.clone());
        let batch = std::mem::take(&mut inner.answering);
        let queue = std::mem::take(&mut inner.queue);
        drop(inner);
        self.wake.notify_all();
        self.over.notify_all();
        if let Some(tell) = self.mourner.get() {
            tell();
        }
        for then in batch.into_iter().map(|(then, _)| then).chain(queue.into_iter().map(|waiting| waiting.then)) {
            then(Err(fault.clone()));
        }
    }

    pub(super) fn begin_closing(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    /// Waits until the writer has ended; false when it hangs and will not.
    pub(super) fn wait_for_writer(&self) -> bool {
        let running = |inner: &mut Inner| !inner.ended && !matches!(inner.state.failed, Some(LogFault::Hung));
        self.over.wait_while(self.lock(), running).unwrap_or_else(PoisonError::into_inner).ended
    }

    /// The watch's thread: notices files that change under us, and a sync that does not come back.
    pub(super) fn watch(&self) {
        loop {
            let running = |inner: &mut Inner| !inner.over();
            let waited = self.over.wait_timeout_while(self.lock(), WATCH_EVERY, running);
            let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if inner.over() {
                return;
            }
            let now = self.clock.monotonic();
            let hung = inner.writing_since.is_some_and(|since| now.saturating_sub(since) > SYNC_MAX);
            let watched = inner.watched.clone();
            drop(inner);
            let changed = watched.iter().find_map(|file| file.check().err()).map(LogFault::from);
            if let Some(fault) = hung.then_some(LogFault::Hung).or(changed) {
                self.fail(fault);
            }
        }
    }
}

/// The writer's last word, however it ends.
pub(super) struct End<'a>(pub(super) &'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(LogFault::Stopped);
        }
        self.0.lock().ended = true;
        self.0.over.notify_all();
    }
}
