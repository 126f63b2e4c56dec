//! The queue during a shortage: which events wait for its end, and which are refused.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::{QueueState, QueuedEvent, SharedQueue, Then};
use crate::audit::store::log::LogFault;
use crate::audit::store::log::shortage::{
    COMMANDS_WAIT, LogThread, PAUSE_FIRST, PAUSE_MAX, PAUSES_AT_CLOSE, Shortage,
};
use crate::durable;

impl QueueState {
    /// Notes that something is short, and takes out of the queue who is not to wait for it.
    pub(in crate::audit::store::log) fn falls_short(
        &mut self,
        who: LogThread,
        fault: &durable::DiskFault,
        now: Duration,
    ) -> Vec<Then> {
        if self.shortages.any().is_none() && !fault.is_full() {
            tracing::error!(%fault, "the log waits for what is short: nothing new is admitted meanwhile");
        }
        let shortage = self
            .shortages
            .of(who)
            .get_or_insert_with(|| Shortage { fault: fault.clone(), since: now });
        shortage.fault = fault.clone();
        let commands_wait = !fault.is_full() && now.saturating_sub(shortage.since) < COMMANDS_WAIT;
        let waits = |waiting: &QueuedEvent| {
            let event = &waiting.event;
            event.is_reserved()
                || !event.is_new_work() && (commands_wait || who == LogThread::Checkpointer)
        };
        let (stay, go): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(waits);
        self.queue = stay;
        go.into_iter().map(|waiting| waiting.then).collect()
    }

    /// That thread has what it needs.
    pub(in crate::audit::store::log) fn ends_shortage(&mut self, who: LogThread) {
        let ended = self.shortages.of(who).take();
        if ended.is_some_and(|ended| !ended.fault.is_full()) && self.shortages.any().is_none() {
            tracing::info!("the log has what was short");
        }
    }
}

impl SharedQueue {
    /// Does `step`, and does it again for as long as something that it needs is short.
    ///
    /// # Errors
    /// Any other fault of `step`; [`LogFault::Disk`] where the log has failed or closes meanwhile.
    pub(in crate::audit::store::log) fn patiently<T>(
        &self,
        who: LogThread,
        mut step: impl FnMut() -> Result<T, LogFault>,
    ) -> Result<T, LogFault> {
        let mut pause = PAUSE_FIRST;
        let mut waited = false;
        loop {
            let done = step();
            let shortage = done.as_ref().err().and_then(LogFault::shortage);
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

    /// Refuses new work, and waits a little for what is short; not at all where a piece of the reserve helps. False where it is
    /// waited for no longer: the log has failed, or closes.
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
        // Nobody may take a pause for a sync that does not come back.
        let since = match who {
            LogThread::Writer => &mut inner.writing_since,
            LogThread::Checkpointer => &mut inner.checkpoint_since,
        };
        *since = since.map(|_| now);
        drop(inner);
        let fault = LogFault::of_step(fault.clone());
        told.into_iter().for_each(|then| then(Err(fault.clone())));
        let mut inner = self.lock();
        let goes_on = |inner: &mut QueueState| inner.state.failed.is_none();
        let waited = self.over.wait_timeout_while(inner, pause, goes_on);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        if inner.closing {
            inner.shortages.pauses_at_close += 1;
        }
        inner.state.failed.is_none() && inner.shortages.pauses_at_close <= PAUSES_AT_CLOSE
    }

    /// The batch was not written, not even in part: it is first in the queue again, but for what is not to wait.
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
