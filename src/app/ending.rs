//! The end of a run in good order.

use super::{App, LAST_WORDS, StartFault};
use crate::audit::event::Event;

impl App {
    /// Seals what was counted, and the stop; closes the log, and takes the sockets away.
    pub(super) async fn end(&self) -> Result<(), StartFault> {
        self.gateway.pen.flush(true);
        // A stop says that nothing is open; where something is, the next start closes it.
        if self.gateway.pen.finish(LAST_WORDS).await {
            self.books.log.seal(Event::Stop, None).await?;
        } else {
            tracing::warn!("something that was admitted has no outcome; the next start closes it as unknown");
        }
        self.books.log.close()?;
        for socket in [Some(&self.config.proxy.admin), self.config.proxy.auditors.socket.as_ref()].into_iter().flatten() {
            if let Err(error) = std::fs::remove_file(socket) {
                tracing::debug!(%error, socket = %socket.display(), "a socket's file stays");
            }
        }
        Ok(())
    }
}
