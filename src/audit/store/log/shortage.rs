//! Shortages that pass: new work is refused, what was promised waits, and the step that fell short is tried again.

use std::time::Duration;

use super::LogFault;
use crate::clock::Clock;
use crate::durable;

/// The pause before the second try; each later one is twice as long.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// No pause is longer.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Commands wait so long for a shortage to pass, then they are told of it.
pub(super) const COMMANDS_WAIT: Duration = Duration::from_secs(5);
/// Pauses that a log which is being closed still makes: about three seconds.
pub(super) const PAUSES_AT_CLOSE: u32 = 10;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogThread {
    /// The journal's and the head's.
    Writer,
    /// A checkpoint's.
    Checkpointer,
}

/// What is short, and since when.
pub(super) struct Shortage {
    pub(super) fault: durable::DiskFault,
    pub(super) since: Duration,
}

/// The shortages of the two threads.
#[derive(Default)]
pub(super) struct Shortages {
    writer: Option<Shortage>,
    checkpointer: Option<Shortage>,
    pub(super) pauses_at_close: u32,
}

impl Shortages {
    pub(super) const fn of(&mut self, who: LogThread) -> &mut Option<Shortage> {
        match who {
            LogThread::Writer => &mut self.writer,
            LogThread::Checkpointer => &mut self.checkpointer,
        }
    }

    /// What is short.
    pub(super) fn any(&self) -> Option<&durable::DiskFault> {
        self.writer.as_ref().or(self.checkpointer.as_ref()).map(|shortage| &shortage.fault)
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
    tell: impl Fn(&durable::DiskFault, Duration),
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
