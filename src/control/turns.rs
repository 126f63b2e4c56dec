//! Commands, one at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{Control, ControlFault};
use crate::audit::store::log::LogFault;

/// How long a command waits for another before it is asked whether that waits for something that is short.
const LOOK: Duration = Duration::from_secs(5);

impl Control {
    /// Lets commands wait, once the one at work is done, until what this gives is dropped.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.one_at_a_time).lock_owned().await
    }

    /// A command's turn.
    ///
    /// # Errors
    /// What is short, where nothing can be recorded for it.
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
