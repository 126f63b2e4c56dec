//! Commands, one at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{Control, ControlFault};
use crate::audit::store::log::LogFault;

/// How long a command waits for another before it checks whether the log is short of a resource.
const LOOK: Duration = Duration::from_secs(5);

impl Control {
    /// Waits for the present command, and then lets others wait until the guard is dropped.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.one_at_a_time).lock_owned().await
    }

    /// A command's turn.
    ///
    /// # Errors
    /// If the log is short of a resource and cannot record.
    pub(super) async fn turn(&self) -> Result<OwnedMutexGuard<()>, ControlFault> {
        loop {
            if let Ok(turn) = tokio::time::timeout(LOOK, self.pause()).await {
                return Ok(turn);
            }
            if let Some(fault) = self.log.state().short {
                return Err(ControlFault::Log(LogFault::of_step(fault)));
            }
        }
    }
}
