//! Shortages that can pass: new work is refused, admitted work waits, and the failed step is
//! retried.

use std::time::Duration;

use super::LogFault;
use crate::clock::Clock;
use crate::durable;

/// The pause before the second try. Each later pause is twice as long.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The maximum pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The time that commands wait for the end of a shortage. Then they fail.
pub(super) const COMMANDS_WAIT: Duration = Duration::from_secs(5);
/// The number of pauses while the log is being closed: about three seconds in total.
pub(super) const PAUSES_AT_CLOSE: u32 = 10;

/// The thread whose step lacks a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogThread {
    /// Writes the journal and the head.
    Writer,
    /// Writes checkpoints.
    Checkpointer,
}

/// A resource that is short, and the monotonic time since when.
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
    /// The shortage of one thread.
    pub(super) const fn of(&mut self, who: LogThread) -> &mut Option<Shortage> {
        match who {
            LogThread::Writer => &mut self.writer,
            LogThread::Checkpointer => &mut self.checkpointer,
        }
    }

    /// The fault of a current shortage.
    pub(super) fn any(&self) -> Option<&durable::DiskFault> {
        let shortage = self.writer.as_ref().or(self.checkpointer.as_ref())?;
        Some(&shortage.fault)
    }
}

/// Runs `step`, and repeats it while a resource is short. It is for a log that is not open, so that
/// no queue can wait. `tell` gets the shortage before each pause, and how long it has lasted. After
/// `closes` is true, only [`PAUSES_AT_CLOSE`] pauses follow.
///
/// # Errors
/// Any other fault of `step`. The shortage, where the wait ends.
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
        let shortage = match &done {
            Ok(_) => None,
            Err(fault) => fault.shortage_at_open(),
        };
        let Some(fault) = shortage else {
            if waited && done.is_ok() {
                tracing::info!("the log has what was short");
            }
            return done;
        };
        if !waited {
            tracing::error!(%fault, "the log cannot be opened for what is short: no new work is \
                admitted meanwhile");
        }
        waited = true;
        // Only pauses after the announced end count: before it, the log waits without a limit.
        pauses_at_close += u32::from(closes());
        if pauses_at_close > PAUSES_AT_CLOSE {
            return done;
        }
        tell(fault, clock.monotonic().saturating_sub(began));
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
