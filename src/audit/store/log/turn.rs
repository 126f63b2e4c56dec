//! The next epoch of a log that is being written: the gateway goes on serving, and nothing that it records is lost.
//!
//! ```text
//! what comes is held → the epoch's queue written, all of it under a checkpoint → the next epoch opened, its first record durable
//!                    → what was held goes into that one, in its order
//! ```
//!
//! A crash leaves what a crash of a start leaves that begins an epoch: `log/succeed.rs` says how it is mended.

use std::sync::Arc;

use super::ownership::{Begun, SharedLog, locked};
use super::recover::Carried;
use super::{Log, LogFault, LogSettings, NewEpoch};

impl Log {
    /// Closes the epoch that is being written and begins the next, with new keys; gives its origin. Blocks for several syncs.
    ///
    /// # Errors
    /// When the next epoch cannot be begun. The log then goes on in the one that is open; if that is impossible too, it has
    /// failed. [`LogFault::Elsewhere`] where another process has taken the log over: it is that one's to begin.
    pub fn begin_epoch(&self, reason: String, by: Option<String>) -> Result<Arc<str>, LogFault> {
        let open = &self.0;
        let _turn = locked(&open.turn);
        open.stop()?;
        let (begun, fault) = open
            .next(NewEpoch { reason, by, after_loss: false })
            .inspect_err(|fault| open.gone(fault))?;
        let origin = Arc::clone(&begun.current.origin);
        open.go_on(begun);
        fault.map_or(Ok(origin), Err)
    }
}

impl SharedLog {
    /// Opens the epoch behind the one that has ended; where that cannot be done, that one again, and says why.
    fn next(&self, asked: NewEpoch) -> Result<(Begun, Option<LogFault>), LogFault> {
        // A copy of the lock: it is never free in between.
        let carried =
            || Ok(Carried { lock: Some(self.lock()?), vault: Some(Arc::clone(self.vault())) });
        let settings = LogSettings { begin: Some(asked), ..self.settings().clone() };
        match carried().and_then(|carried| self.open(&settings, carried)) {
            Ok(begun) => Ok((begun, None)),
            Err(fault) => {
                tracing::error!(%fault, "the next epoch of the audit log could not be begun");
                let settings = self.settings().clone().going_on();
                Ok((self.open_again(&settings, carried)?, Some(fault)))
            }
        }
    }
}
