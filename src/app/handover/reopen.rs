//! Work of a take-over that waits: for descriptors, and for threads.

use std::io;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::management::ManagementSockets;
use crate::durable;

/// Opens the admin, auditors' and metrics sockets again. It retries while descriptors are short and
/// the process is not stopping.
pub(super) async fn open_again(
    management: &mut ManagementSockets,
    stopping: &watch::Receiver<bool>,
) {
    let mut pause = Duration::from_millis(10);
    while let Err(error) = management.open() {
        tracing::error!(%error, "the sockets of operators and scrapers cannot be opened yet");
        if !durable::passes(&error) || *stopping.borrow() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Runs blocking work on a thread of the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
