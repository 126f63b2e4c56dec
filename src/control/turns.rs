//! The order of commands: one at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{Control, ControlFault};
use crate::audit::store::log::LogFault;

/// The time that a command waits for another before it checks whether the log lacks a resource.
const LOOK: Duration = Duration::from_secs(5);

impl Control {
    /// Waits for the current command. Other commands then wait until the guard is dropped.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.one_at_a_time).lock_owned().await
    }

    /// Waits for the turn of a command.
    ///
    /// # Errors
    /// If the log lacks a resource and cannot record.
    pub(super) async fn turn(&self) -> Result<OwnedMutexGuard<()>, ControlFault> {
        loop {
            if let Ok(turn) = tokio::time::timeout(LOOK, self.pause()).await {
                return Ok(turn);
            }
            // A command that waits for the end of a shortage keeps its turn. The other commands
            // fail here.
            if let Some(fault) = self.log.state().short {
                return Err(ControlFault::Log(LogFault::of_step(fault)));
            }
        }
    }
}
