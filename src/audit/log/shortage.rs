//! Shortages that pass: new work is refused, what was promised waits, and the step that fell short is tried again.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::LogFault;
use super::queue::{Inner, Shared, Then, Waiting};
use crate::clock::Clock;
use crate::durable;

/// The pause before the second try; each later one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Commands wait so long for a shortage to pass, then they are told of it.
pub(super) const COMMANDS_WAIT: Duration = Duration::from_secs(5);
/// Pauses that a log which is being closed still makes: about three seconds.
const PAUSES_AT_CLOSE: u32 = 10;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The journal's and the head's.
    Writer,
    /// A checkpoint's.
    Sealer,
}

/// What is short, and since when.
pub(super) struct Shortage {
    pub(super) fault: durable::Fault,
    since: Duration,
}

/// The shortages of the two threads.
#[derive(Default)]
pub(super) struct Shortages {
    writer: Option<Shortage>,
    sealer: Option<Shortage>,
    pauses_at_close: u32,
}

impl Shortages {
    const fn of(&mut self, who: Who) -> &mut Option<Shortage> {
        match who {
            Who::Writer => &mut self.writer,
            Who::Sealer => &mut self.sealer,
        }
    }

    /// What is short.
    pub(super) fn any(&self) -> Option<&durable::Fault> {
        self.writer.as_ref().or(self.sealer.as_ref()).map(|shortage| &shortage.fault)
    }
}

/// Does `step`, and does it again for as long as something that it needs is short, where no log is open that could wait. `tell`
/// hears what is short, before each pause, and for how long it has been so. Once `closes`, not much longer.
///
/// # Errors
/// Any other fault of `step`; what is short, where it is waited for no longer.
pub(super) fn until_enough<T>(
    clock: &dyn Clock,
    mut step: impl FnMut() -> Result<T, LogFault>,
    tell: impl Fn(&durable::Fault, Duration),
    closes: impl Fn() -> bool,
) -> Result<T, LogFault> {
    let began = clock.monotonic();
    let mut pause = PAUSE_FIRST;
    let mut pauses_at_close = 0;
    let mut waited = false;
    loop {
        let done = step();
        let Some(fault) = done.as_ref().err().and_then(LogFault::shortage_at_open) else {
            if waited && done.is_ok() {
                tracing::info!("the log has what was short");
            }
            return done;
        };
        if !waited {
            tracing::error!(%fault, "the log cannot be opened for what is short: nothing new is admitted meanwhile");
        }
        waited = true;
        pauses_at_close += u32::from(closes());
        if pauses_at_close > PAUSES_AT_CLOSE {
            return done;
        }
        tell(fault, clock.monotonic().saturating_sub(began));
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Inner {
    /// Notes that something is short, and takes out of the queue who is not to wait for it.
    pub(super) fn falls_short(&mut self, who: Who, fault: &durable::Fault, now: Duration) -> Vec<Then> {
        if self.shortages.any().is_none() && !fault.is_full() {
            tracing::error!(%fault, "the log waits for what is short: nothing new is admitted meanwhile");
        }
        let shortage = self.shortages.of(who).get_or_insert_with(|| Shortage { fault: fault.clone(), since: now });
        shortage.fault = fault.clone();
        let commands_wait = !fault.is_full() && now.saturating_sub(shortage.since) < COMMANDS_WAIT;
        let waits = |waiting: &Waiting| {
            let event = &waiting.event;
            event.is_promised() || !event.is_new_work() && (commands_wait || who == Who::Sealer)
        };
        let (stay, go): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.queue).into_iter().partition(waits);
        self.queue = stay;
        go.into_iter().map(|waiting| waiting.then).collect()
    }

    /// That thread has what it needs.
    pub(super) fn ends_shortage(&mut self, who: Who) {
        let ended = self.shortages.of(who).take();
        if ended.is_some_and(|ended| !ended.fault.is_full()) && self.shortages.any().is_none() {
            tracing::info!("the log has what was short");
        }
    }
}

impl Shared {
    /// Does `step`, and does it again for as long as something that it needs is short.
    ///
    /// # Errors
    /// Any other fault of `step`; [`LogFault::Disk`] where the log has failed or closes meanwhile.
    pub(super) fn patiently<T>(&self, who: Who, mut step: impl FnMut() -> Result<T, LogFault>) -> Result<T, LogFault> {
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
    pub(super) fn wait_out(&self, who: Who, fault: &durable::Fault, pause: Duration) -> bool {
        if fault.is_full() && self.give_room(fault) {
            return self.lock().state.failed.is_none();
        }
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let told = inner.falls_short(who, fault, now);
        // Nobody may take a pause for a sync that does not come back.
        let since = match who {
            Who::Writer => &mut inner.writing_since,
            Who::Sealer => &mut inner.sealing_since,
        };
        *since = since.map(|_| now);
        drop(inner);
        let fault = LogFault::of_step(fault.clone());
        told.into_iter().for_each(|then| then(Err(fault.clone())));
        let mut inner = self.lock();
        let goes_on = |inner: &mut Inner| inner.state.failed.is_none();
        let waited = self.over.wait_timeout_while(inner, pause, goes_on);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        if inner.closing {
            inner.shortages.pauses_at_close += 1;
        }
        inner.state.failed.is_none() && inner.shortages.pauses_at_close <= PAUSES_AT_CLOSE
    }

    /// The batch was not written, not even in part: it is first in the queue again, but for what is not to wait.
    pub(super) fn put_off(&self, fault: &durable::Fault) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        inner.writing_since = None;
        for (then, sealed) in std::mem::take(&mut inner.answering).into_iter().rev() {
            let (event, by) = (sealed.record.event, sealed.record.by);
            inner.queue.push_front(Waiting { event, by, then });
        }
        let told = inner.falls_short(Who::Writer, fault, now);
        drop(inner);
        let fault = LogFault::of_step(fault.clone());
        told.into_iter().for_each(|then| then(Err(fault.clone())));
    }
}
