//! Begins the next epoch of a log that is being written. The gateway continues to serve, and every
//! event is recorded.
//!
//! ```text
//! new events are held → the epoch's queue written, all of it under a checkpoint
//!                     → the next epoch opened, its first record durable
//!                     → the held events go into that epoch, in order
//! ```
//!
//! A crash here leaves the same files as a crash of a start that begins an epoch. `log/succeed.rs`
//! describes the repair.

use std::sync::Arc;

use super::current::Begun;
use super::ownership::SharedLog;
use super::recover::Carried;
use super::{Log, LogFault, LogSettings, NewEpoch};
use crate::audit::store::locked::locked;

impl Log {
    /// Closes the epoch that is being written, and begins the next with new keys. Returns its
    /// origin. Blocks for several syncs.
    ///
    /// # Errors
    /// When the next epoch cannot be begun. The log then continues in the open epoch; if that is
    /// impossible too, it has failed. [`LogFault::Elsewhere`] where another process has taken the
    /// log over: only that process can begin an epoch.
    pub fn begin_epoch(&self, reason: String, by: Option<String>) -> Result<Arc<str>, LogFault> {
        let open = &self.0;
        let _turn = locked(&open.turn);
        // From here to `go_on` or `gone`, new events wait in `LogOwner::Between`.
        open.stop()?;
        let (begun, fault) = match open.next(NewEpoch { reason, by, after_loss: false }) {
            Ok(next) => next,
            Err(fault) => {
                open.gone(&fault);
                return Err(fault);
            }
        };
        let origin = Arc::clone(&begun.current.origin);
        open.go_on(begun);
        fault.map_or(Ok(origin), Err)
    }
}

impl SharedLog {
    /// Opens the epoch after the one that has ended. Where that fails, opens the ended epoch again,
    /// and returns the fault with it.
    fn next(&self, asked: NewEpoch) -> Result<(Begun, Option<LogFault>), LogFault> {
        let settings = LogSettings { begin: Some(asked), ..self.settings().clone() };
        match self.open_carried(&settings) {
            Ok(begun) => Ok((begun, None)),
            Err(fault) => {
                tracing::error!(%fault, "the next epoch of the audit log could not be begun");
                // Without `begin`: the ended epoch continues, whatever its age.
                let settings = self.settings().clone().going_on();
                Ok((self.open_again(&settings, || self.carried())?, Some(fault)))
            }
        }
    }

    /// Opens the log with the lock and the record keys of the epoch that has ended.
    fn open_carried(&self, settings: &LogSettings) -> Result<Begun, LogFault> {
        self.open(settings, self.carried()?)
    }

    /// The parts that the next opening takes over. A copy of the lock is one of them, so that the
    /// lock is never free in between.
    fn carried(&self) -> Result<Carried, LogFault> {
        Ok(Carried { lock: Some(self.lock()?), vault: Some(Arc::clone(self.vault())) })
    }
}
