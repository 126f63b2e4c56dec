//! The queue during a shortage: which events wait for its end, and which are refused.

use std::collections::VecDeque;
use std::time::Duration;

use super::{QueueState, QueuedEvent, SharedQueue, Then};
use crate::audit::store::locked::wait_at_most;
use crate::audit::store::log::LogFault;
use crate::audit::store::log::shortage::{
    COMMANDS_WAIT, LogThread, PAUSE_FIRST, PAUSE_MAX, PAUSES_AT_CLOSE, Shortage,
};
use crate::durable;

impl QueueState {
    /// Stores a shortage, and removes from the queue the events that may not wait for it. Returns
    /// their callbacks.
    pub(in crate::audit::store::log) fn falls_short(
        &mut self,
        who: LogThread,
        fault: &durable::DiskFault,
        now: Duration,
    ) -> Vec<Then> {
        if self.shortages.any().is_none() && !fault.is_full() {
            tracing::error!(%fault, "the log waits for what is short: no new work is admitted \
                meanwhile");
        }
        let shortage = self
            .shortages
            .of(who)
            .get_or_insert_with(|| Shortage { fault: fault.clone(), since: now });
        shortage.fault = fault.clone();
        // On a full disk without a reserve, commands fail at once: an operator must free room.
        // Other shortages may pass within `COMMANDS_WAIT`.
        let commands_wait = who == LogThread::Checkpointer
            || (!fault.is_full() && now.saturating_sub(shortage.since) < COMMANDS_WAIT);
        let (stay, go): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|waiting| waiting.waits(commands_wait));
        self.queue = stay;
        go.into_iter().map(|waiting| waiting.then).collect()
    }

    /// Ends the shortage of that thread.
    pub(in crate::audit::store::log) fn ends_shortage(&mut self, who: LogThread) {
        let ended = self.shortages.of(who).take();
        if ended.is_some_and(|ended| !ended.fault.is_full()) && self.shortages.any().is_none() {
            tracing::info!("the log has what was short");
        }
    }
}

impl SharedQueue {
    /// Runs `step`, and repeats it while a resource is short.
    ///
    /// # Errors
    /// Any other fault of `step`. [`LogFault::Disk`] where the log fails or closes meanwhile.
    pub(in crate::audit::store::log) fn patiently<T>(
        &self,
        who: LogThread,
        mut step: impl FnMut() -> Result<T, LogFault>,
    ) -> Result<T, LogFault> {
        let mut pause = PAUSE_FIRST;
        let mut waited = false;
        loop {
            let done = step();
            let shortage = match &done {
                Ok(_) => None,
                Err(fault) => fault.shortage(),
            };
            let Some(shortage) = shortage else {
                if waited && done.is_ok() {
                    self.lock().ends_shortage(who);
                }
                return done;
            };
            waited = true;
            if !self.wait_out(who, shortage, pause) {
                return Err(LogFault::Disk(shortage.clone()));
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Refuses new work, and waits for the pause. Where a piece of the reserve could be freed, it
    /// returns without a pause. False where the wait ends, because the log has failed or closes.
    pub(in crate::audit::store::log) fn wait_out(
        &self,
        who: LogThread,
        fault: &durable::DiskFault,
        pause: Duration,
    ) -> bool {
        if fault.is_full() && self.give_room(fault) {
            return self.lock().state.failed.is_none();
        }
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let told = inner.falls_short(who, fault, now);
        // A pause is not a sync. The time starts again, so that the watch does not report a hang.
        let since = match who {
            LogThread::Writer => &mut inner.writing_since,
            LogThread::Checkpointer => &mut inner.checkpoint_since,
        };
        *since = since.map(|_| now);
        drop(inner);
        let fault = LogFault::of_step(fault.clone());
        told.into_iter().for_each(|then| then(Err(fault.clone())));
        // The condition variable ends the pause early where the log fails.
        let mut inner =
            wait_at_most(&self.over, self.lock(), pause, |inner| inner.state.failed.is_none());
        if inner.closing {
            inner.shortages.pauses_at_close += 1;
        }
        inner.state.failed.is_none() && inner.shortages.pauses_at_close <= PAUSES_AT_CLOSE
    }

    /// Puts a batch back, of which no byte was written. Its events are first in the queue again;
    /// those that may not wait get the fault.
    pub(in crate::audit::store::log) fn put_off(&self, fault: &durable::DiskFault) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        inner.writing_since = None;
        for (then, sealed) in std::mem::take(&mut inner.answering).into_iter().rev() {
            let (event, by) = (sealed.record.event, sealed.record.by);
            inner.queue.push_front(QueuedEvent { event, by, then });
        }
        let told = inner.falls_short(LogThread::Writer, fault, now);
        drop(inner);
        let fault = LogFault::of_step(fault.clone());
        told.into_iter().for_each(|then| then(Err(fault.clone())));
    }
}
