//! The state that a log's threads share: waiting events, the current batch, and the status.

mod ends;
mod events;
mod patience;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use super::pending::{
    CHECKPOINT_EVERY, PENDING_BYTES_MAX, Pending, ROOM_EVERY, SHORT_EVERY, bytes_of,
};
use super::reserve::Reserve;
use super::shortage::{LogThread, Shortages};
use super::vkeys::Vkeys;
use super::{Appended, CHECKPOINT_MAX, LogFault, LogState, QUEUE_MAX, SYNC_SLOW};
use crate::audit::format::record::Record;
use crate::audit::store::locked::{locked, wait, wait_at_most, wait_while};
use crate::clock::{Clock, Timestamp};
use crate::durable;
use crate::failpoint::{Failpoint, is_armed};

pub(super) use ends::{CheckpointerEnd, WriterEnd};
pub use events::Then;
use events::tell_all;
pub(super) use events::{QueuedEvent, Rejected};

type BoxedSyncObserver = Box<dyn Fn(Duration, usize) + Send + Sync>;
type BoxedRecordListener = Box<dyn Fn(&Record) + Send + Sync>;

/// The queue of one epoch. Its threads share it, and it outlives a dropped handle.
pub(super) struct SharedQueue {
    inner: Mutex<QueueState>,
    reserve: Mutex<Reserve>,
    pub(super) epoch: PathBuf,
    pub(super) vkeys: Vkeys,
    /// Wakes the checkpointer: a checkpoint may be due.
    checkpoint_due: Condvar,
    /// Wakes the writer: an event waits, or the log closes.
    wake: Condvar,
    /// Wakes the watch and the callers of a close: the writer has ended, or the log has failed.
    pub(super) over: Condvar,
    pub(super) clock: std::sync::Arc<dyn Clock>,
    observer: OnceLock<BoxedSyncObserver>,
    failure: OnceLock<Box<dyn Fn() + Send + Sync>>,
    listener: OnceLock<BoxedRecordListener>,
}

/// The part of the queue under its lock.
pub(super) struct QueueState {
    pub(super) queue: VecDeque<QueuedEvent>,
    /// The callbacks of the current batch. They get a failure while the writer hangs in a sync.
    pub(super) answering: Vec<(Then, Appended)>,
    pub(super) writing_since: Option<Duration>,
    /// The monotonic time since which the checkpointer writes a checkpoint.
    pub(super) checkpoint_since: Option<Duration>,
    pub(super) watched: Vec<durable::Identity>,
    /// The files that the newest checkpoint depends on.
    pub(super) checkpoint_files: Vec<durable::Identity>,
    /// The journal's segments, each with the index of its first record.
    pub(super) segments: VecDeque<(u64, durable::Identity)>,
    pending: Pending,
    pub(super) closing: bool,
    ended: bool,
    checkpointer_ended: bool,
    pub(super) shortages: Shortages,
    pub(super) state: LogState,
}

impl QueueState {
    /// Whether the log has ended or failed.
    pub(super) const fn over(&self) -> bool {
        (self.ended && self.checkpointer_ended) || self.state.failed.is_some()
    }

    /// Whether the log has failed because a step does not return.
    const fn hangs(&self) -> bool {
        matches!(self.state.failed, Some(LogFault::Hung))
    }

    /// Whether the writer has no work now. Memory stays bounded: the journal waits for the next
    /// checkpoint.
    fn is_idle(&self) -> bool {
        let wait = self.queue.is_empty() || self.pending.bytes > PENDING_BYTES_MAX;
        wait && !self.closing && self.state.failed.is_none()
    }
}

/// A recovered log: the initial values of the queue.
pub(super) struct RecoveredLog {
    pub(super) epoch: PathBuf,
    pub(super) vkeys: Vkeys,
    pub(super) watched: Vec<durable::Identity>,
    pub(super) checkpoint_files: Vec<durable::Identity>,
    pub(super) segments: Vec<(u64, durable::Identity)>,
    pub(super) reserve: Reserve,
    /// Whether the reserve is not whole, because the disk had no room.
    pub(super) low: bool,
    pub(super) pending: Vec<Vec<u8>>,
    pub(super) ragged: usize,
    pub(super) size: u64,
    pub(super) signed: u64,
    pub(super) at: Timestamp,
}

impl SharedQueue {
    pub(super) fn new(clock: std::sync::Arc<dyn Clock>, begin: RecoveredLog) -> Self {
        let RecoveredLog {
            epoch,
            vkeys,
            watched,
            checkpoint_files,
            segments,
            reserve,
            low,
            pending,
            ragged,
            size,
            signed,
            at,
        } = begin;
        let since = (!pending.is_empty()).then(|| clock.monotonic());
        let bytes = bytes_of(&pending);
        let not_before = clock.monotonic() + CHECKPOINT_EVERY;
        let pending = Pending { records: pending, bytes, since, ragged, not_before, wanted: false };
        let inner = QueueState {
            queue: VecDeque::new(),
            answering: Vec::new(),
            writing_since: None,
            checkpoint_since: None,
            watched,
            checkpoint_files,
            segments: segments.into(),
            pending,
            closing: false,
            ended: false,
            checkpointer_ended: false,
            shortages: Shortages::default(),
            state: LogState {
                size,
                signed,
                at,
                sync_last: Duration::ZERO,
                low,
                free_bytes: reserve.free(),
                reserve_bytes: reserve.bytes(),
                reserve_whole_bytes: reserve.whole_bytes(),
                short: None,
                failed: None,
            },
        };
        Self {
            inner: Mutex::new(inner),
            reserve: Mutex::new(reserve),
            epoch,
            vkeys,
            checkpoint_due: Condvar::new(),
            wake: Condvar::new(),
            over: Condvar::new(),
            clock,
            observer: OnceLock::new(),
            failure: OnceLock::new(),
            listener: OnceLock::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        locked(&self.inner)
    }

    pub(super) fn state(&self) -> LogState {
        let inner = self.lock();
        LogState { short: inner.shortages.any().cloned(), ..inner.state.clone() }
    }

    /// The fault that ended the log, where it has failed.
    pub(super) fn failed(&self) -> Option<LogFault> {
        self.lock().state.failed.clone()
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    pub(super) fn healthy(&self) -> bool {
        let inner = self.lock();
        !inner.closing && !inner.ended && !inner.over()
    }

    pub(super) fn observe(&self, observer: BoxedSyncObserver) {
        let _ = self.observer.set(observer);
    }

    pub(super) fn on_failure(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let _ = self.failure.set(tell);
    }

    pub(super) fn on_control(&self, tell: BoxedRecordListener) {
        let _ = self.listener.set(tell);
    }

    /// The time of the next record: the wall clock, but never earlier than `last`.
    pub(super) fn now_after(&self, last: Timestamp) -> Timestamp {
        self.clock.now().max(last)
    }

    /// Queues an event, or returns it with the reason of the rejection.
    pub(super) fn enqueue(&self, waiting: QueuedEvent) -> Result<(), Box<Rejected>> {
        let mut inner = self.lock();
        let fault = if let Some(fault) = &inner.state.failed {
            fault.clone()
        } else if inner.closing {
            LogFault::Closed
        } else if inner.state.low
            && waiting.event.is_new_work()
            && !is_armed(Failpoint::FullDiskIgnored)
        {
            LogFault::Low
        } else if waiting.event.is_new_work()
            && let Some(fault) = inner.shortages.any()
        {
            LogFault::of_step(fault.clone())
        // A reserved event is accepted above the limit: its admission was counted already.
        } else if inner.queue.len() >= QUEUE_MAX && !waiting.event.is_reserved() {
            LogFault::Busy
        } else {
            inner.queue.push_back(waiting);
            drop(inner);
            self.wake.notify_one();
            return Ok(());
        };
        drop(inner);
        Err(Box::new(Rejected { waiting, fault }))
    }

    /// Queues all of them at once, before any other event.
    pub(super) fn enqueue_all(&self, waiting: Vec<QueuedEvent>) {
        self.lock().queue.extend(waiting);
        self.wake.notify_one();
    }

    /// Waits for work, and takes all of it. `None` at a failure, or at a close without work.
    pub(super) fn take(&self) -> Option<VecDeque<QueuedEvent>> {
        let mut inner = self.lock();
        if inner.queue.is_empty() {
            // No event waits, so the shortage ends here. The next event shows whether it continues.
            inner.ends_shortage(LogThread::Writer);
        }
        let mut inner = wait_while(&self.wake, inner, |inner| inner.is_idle());
        let work = std::mem::take(&mut inner.queue);
        (!work.is_empty() && inner.state.failed.is_none()).then_some(work)
    }

    /// Marks a batch as being written. Events that did not fit are first in the queue again.
    pub(super) fn begin_writing(&self, batch: Vec<(Then, Appended)>, rest: VecDeque<QueuedEvent>) {
        let mut inner = self.lock();
        if let Some(fault) = inner.state.failed.clone() {
            // The log failed after these events were taken. Only this code can answer them.
            drop(inner);
            return tell_all(batch, rest, &fault);
        }
        for waiting in rest.into_iter().rev() {
            inner.queue.push_front(waiting);
        }
        inner.writing_since = (!batch.is_empty()).then(|| self.clock.monotonic());
        inner.answering = batch;
    }

    /// Marks the batch as durable, and answers its callers in order, unless `fail` has done so.
    pub(super) fn written(&self, size: u64, records: Vec<Vec<u8>>) {
        let mut inner = self.lock();
        inner.ends_shortage(LogThread::Writer);
        let took = self.time_since(inner.writing_since.take());
        let batch = std::mem::take(&mut inner.answering);
        let Some((_, last)) = batch.last() else { return };
        if inner.state.failed.is_some() {
            return;
        }
        let at = last.at;
        inner.state = LogState { size, at, sync_last: took, ..inner.state.clone() };
        let now = self.clock.monotonic();
        let pending = &mut inner.pending;
        pending.since.get_or_insert(now);
        pending.bytes += bytes_of(&records);
        pending.records.extend(records);
        // The lock is released before the callbacks: they may append another event.
        drop(inner);
        self.checkpoint_due.notify_one();
        if let Some(observe) = self.observer.get() {
            observe(took, batch.len());
        }
        for (then, sealed) in batch {
            // The listener runs first, so that the state is current when the sender continues.
            if sealed.record.event.is_control()
                && let Some(tell) = self.listener.get()
            {
                tell(&sealed.record);
            }
            then(Ok(sealed));
        }
    }

    pub(super) fn begun(&self, segment: Option<(u64, durable::Identity)>) {
        self.lock().segments.extend(segment);
    }

    /// Ends the log. All waiting and later callers get `fault`. Only the first fault counts.
    pub(super) fn fail(&self, fault: LogFault) {
        let mut inner = self.lock();
        if inner.state.failed.is_some() || (inner.ended && inner.checkpointer_ended) {
            return;
        }
        tracing::error!(%fault, size = inner.state.size, "the audit log has failed: no event can \
            be recorded any more");
        inner.state.failed = Some(fault.clone());
        let batch = std::mem::take(&mut inner.answering);
        let queue = std::mem::take(&mut inner.queue);
        drop(inner);
        // All threads wake up first: a slow callback must not delay the end.
        self.wake.notify_all();
        self.checkpoint_due.notify_all();
        self.over.notify_all();
        if let Some(tell) = self.failure.get() {
            tell();
        }
        tell_all(batch, queue, &fault);
    }

    /// Refuses further events, and wakes the writer for the last batch.
    pub(super) fn begin_closing(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    /// Waits until the writer and the checkpointer have ended. False where one of them hangs.
    pub(super) fn wait_for_writer(&self) -> bool {
        drop(wait_while(&self.over, self.lock(), |inner| !inner.ended && !inner.hangs()));
        // Also after a failure: the lock must stay while a checkpoint is being written.
        let inner = wait_at_most(&self.over, self.lock(), CHECKPOINT_MAX, |inner| {
            !inner.checkpointer_ended && !inner.hangs()
        });
        inner.ended && inner.checkpointer_ended
    }

    /// Waits until a checkpoint is due, and returns its records. `None` at the end or a failure.
    pub(super) fn due(&self) -> Option<Vec<Vec<u8>>> {
        let mut inner = self.lock();
        loop {
            if inner.state.failed.is_some() {
                return None;
            }
            let due_in = inner.pending.due_in(self.clock.monotonic(), inner.ended);
            match due_in {
                None if inner.ended => return None,
                Some(time) if time.is_zero() => {
                    inner.pending.since = None;
                    inner.pending.wanted = false;
                    inner.checkpoint_since = Some(self.clock.monotonic());
                    return Some(std::mem::take(&mut inner.pending.records));
                }
                None | Some(_) => inner = wait(&self.checkpoint_due, inner, due_in),
            }
        }
    }

    /// Marks the first `signed` records as covered by a checkpoint. `ragged` is the number of bytes
    /// of the bundle that is not full.
    pub(super) fn checkpointed(&self, signed: u64, ragged: usize) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        inner.state.signed = signed;
        inner.checkpoint_since = None;
        inner.ends_shortage(LogThread::Checkpointer);
        inner.pending.ragged = ragged;
        inner.pending.bytes = bytes_of(&inner.pending.records);
        inner.pending.not_before = now + CHECKPOINT_EVERY;
        drop(inner);
        // The journal may have waited for this: see [`PENDING_BYTES_MAX`].
        self.wake.notify_one();
        self.over.notify_all();
    }

    /// A checkpoint lacks a resource: `records` wait again. A full disk uses the reserve.
    pub(super) fn not_checkpointed(&self, records: Vec<Vec<u8>>, fault: &durable::DiskFault) {
        if fault.is_full() {
            self.give_room(fault);
        }
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let told = if fault.is_full() {
            Vec::new()
        } else {
            inner.falls_short(LogThread::Checkpointer, fault, now)
        };
        inner.checkpoint_since = None;
        // These records come before those that were written meanwhile: the order is the log's.
        let later = std::mem::replace(&mut inner.pending.records, records);
        inner.pending.records.extend(later);
        inner.pending.since.get_or_insert(now);
        inner.pending.not_before = now + if fault.is_full() { ROOM_EVERY } else { SHORT_EVERY };
        inner.pending.wanted = true;
        // At the end, a lasting shortage is accepted: the next start covers the journal's records.
        if inner.ended {
            inner.pending = Pending::default();
        }
        drop(inner);
        told.into_iter().for_each(|then| then(Err(LogFault::of_step(fault.clone()))));
    }

    /// Frees a piece of the reserve, because the disk is full. False where the reserve is empty.
    pub(super) fn give_room(&self, fault: &durable::DiskFault) -> bool {
        let mut inner = self.lock();
        if !inner.state.low {
            tracing::error!(%fault, "the disk is full: no new work is admitted until there is room \
                again");
        }
        inner.state.low = true;
        drop(inner);
        let mut reserve = locked(&self.reserve);
        let given = reserve.give();
        self.lock().state.reserve_bytes = reserve.bytes();
        given
    }

    /// Refills the reserve. The log accepts new work again when the reserve is whole.
    pub(super) fn take_room(&self) {
        let low = self.lock().state.low;
        let mut reserve = locked(&self.reserve);
        let whole = low && reserve.fill();
        let free = reserve.free();
        let mut inner = self.lock();
        inner.state.free_bytes = free;
        inner.state.reserve_bytes = reserve.bytes();
        if whole {
            tracing::info!("there is room again");
            inner.state.low = false;
        }
    }

    /// Marks the writer's last sync as running, so that the watch checks it like every other sync.
    pub(super) fn begin_ending(&self) {
        self.lock().writing_since = Some(self.clock.monotonic());
    }

    /// The time that the oldest record without a checkpoint has waited; zero where no record waits.
    pub(super) fn checkpoint_age(&self) -> Duration {
        let inner = self.lock();
        self.time_since(inner.checkpoint_since.or(inner.pending.since))
    }

    /// The time since that monotonic time; zero where there is none.
    fn time_since(&self, since: Option<Duration>) -> Duration {
        match since {
            Some(since) => self.clock.monotonic().saturating_sub(since),
            None => Duration::ZERO,
        }
    }

    pub(super) fn want_checkpoint(&self) {
        self.lock().pending.wanted = true;
        self.checkpoint_due.notify_one();
    }

    /// The segments that a checkpoint of `signed` records makes unneeded; never the last one.
    pub(super) fn trimmable(&self, signed: u64) -> Vec<PathBuf> {
        let mut inner = self.lock();
        let mut found = Vec::new();
        while let Some((first, _)) = inner.segments.get(1)
            && *first <= signed
        {
            let Some((_, segment)) = inner.segments.pop_front() else { break };
            found.push(segment.path().to_owned());
        }
        found
    }

    pub(super) fn slow(&self) -> bool {
        let inner = self.lock();
        // The running sync counts too: `sync_last` is old while a sync hangs.
        let running = inner.writing_since.map(|since| self.clock.monotonic().saturating_sub(since));
        running.is_some_and(|running| running > SYNC_SLOW || inner.state.sync_last > SYNC_SLOW)
    }
}
