//! The orderly end of a run.

use std::path::PathBuf;
use std::sync::Arc;

use super::handover::{Predecessor, Successor};
use super::{App, LAST_WORDS, StartFault};
use crate::audit::format::event::Event;
use crate::proxy::listen::FAREWELL;

impl App {
    /// Records the counts and the stop, closes the log, and removes the sockets.
    pub(super) async fn end(
        &self,
        predecessor: Option<Arc<Predecessor>>,
        sockets: &[PathBuf],
    ) -> Result<(), StartFault> {
        // Counters of refusals are written first, so that the stop covers them.
        self.gateway.recorder.flush(true);
        if let Some(predecessor) = predecessor {
            // The former process drains at the same time, and gets the stop too. At the end of its
            // drain it ends its streams, and then reports their outcomes. An outcome that it does
            // not report is unknown.
            let drain = self.config.proxy.timeouts.drain;
            if tokio::time::timeout(drain, predecessor.over()).await.is_err() {
                // This process also answers requests on connections of the former one.
                // The streams here end with an error event, and then their outcomes are recorded.
                self.gateway.recorder.cut();
                self.gateway.registry.announce();
                if tokio::time::timeout(2 * FAREWELL + 3 * LAST_WORDS, predecessor.over())
                    .await
                    .is_err()
                {
                    predecessor.close();
                }
            }
        }
        // A recorded stop means that every request has an outcome. Otherwise the next start closes
        // the open ones.
        if self.gateway.recorder.finish(LAST_WORDS).await {
            self.gateway_state.log.append(Event::Stop, None).await?;
        } else {
            tracing::warn!(
                "an admitted request has no outcome; the next start closes it as unknown"
            );
        }
        // Commits the last records and syncs the head before the process ends.
        self.gateway_state.log.close()?;
        // Only the files that this process has bound. Those of a service manager stay.
        for socket in sockets {
            if let Err(error) = std::fs::remove_file(socket) {
                tracing::debug!(%error, socket = %socket.display(), "a socket's file was not \
                    removed");
            }
        }
        Ok(())
    }

    /// Leaves the log and the sockets to the successor, after it has recorded the last counts of
    /// this process.
    pub(super) async fn end_elsewhere(&self, successor: &Successor) -> Result<(), StartFault> {
        self.gateway.recorder.flush(true);
        if !self.gateway.recorder.finish(LAST_WORDS).await {
            tracing::warn!(
                "an admitted request has no outcome; the successor closes it as unknown"
            );
        }
        if tokio::time::timeout(LAST_WORDS, successor.settled()).await.is_err() {
            tracing::warn!("the successor does not confirm that the last records are durable");
        }
        Ok(())
    }
}
