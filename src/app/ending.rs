//! The end of a run in good order.

use std::path::PathBuf;
use std::sync::Arc;

use super::handover::{Predecessor, Successor};
use super::{App, LAST_WORDS, StartFault};
use crate::audit::format::event::Event;
use crate::proxy::listen::FAREWELL;

impl App {
    /// Seals what was counted, and the stop; closes the log, and takes the sockets away.
    pub(super) async fn end(&self, predecessor: Option<Arc<Predecessor>>, sockets: &[PathBuf]) -> Result<(), StartFault> {
        self.gateway.pen.flush(true);
        if let Some(predecessor) = predecessor {
            // It drains beside this process, and is told to stop beside it: at the end of its drain it cuts its streams, and then says
            // what became of them. What it has not said by then is not known.
            let drain = self.config.proxy.timeouts.drain;
            if tokio::time::timeout(drain, predecessor.over()).await.is_err() {
                // What this process answers on connections of that one.
                self.gateway.pen.cut();
                self.gateway.registry.announce();
                if tokio::time::timeout(2 * FAREWELL + 3 * LAST_WORDS, predecessor.over()).await.is_err() {
                    predecessor.close();
                }
            }
        }
        // A stop says that nothing is open; where something is, the next start closes it.
        if self.gateway.pen.finish(LAST_WORDS).await {
            self.books.log.seal(Event::Stop, None).await?;
        } else {
            tracing::warn!("something that was admitted has no outcome; the next start closes it as unknown");
        }
        self.books.log.close()?;
        for socket in sockets {
            if let Err(error) = std::fs::remove_file(socket) {
                tracing::debug!(%error, socket = %socket.display(), "a socket's file stays");
            }
        }
        Ok(())
    }

    /// Leaves the rest to the process that has taken over: it has the log and the sockets, once the last of what was counted here
    /// is recorded there.
    pub(super) async fn end_elsewhere(&self, successor: &Successor) -> Result<(), StartFault> {
        self.gateway.pen.flush(true);
        if !self.gateway.pen.finish(LAST_WORDS).await {
            tracing::warn!("something that was admitted has no outcome; the process that has taken over closes it as unknown");
        }
        if tokio::time::timeout(LAST_WORDS, successor.settled()).await.is_err() {
            tracing::warn!("the process that has taken over does not say whether the last records are durable");
        }
        Ok(())
    }
}
