//! The admin, auditors' and metrics sockets. They are closed and opened together. Meanwhile they
//! stay bound, so that new connections wait in the backlog.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::readiness::Readiness;
use super::{LAST_WORDS, auditors, housekeeping};
use crate::control::bounded::Bounded;
use crate::control::{Control, api};
use crate::metrics::Metrics;
use crate::proxy::descriptors::SOCKET_CONNECTIONS_MAX;
use crate::proxy::tree::LogTree;

/// The parts that answer at the sockets.
pub(super) struct SocketHandlers {
    pub(super) control: Arc<Control>,
    pub(super) tree: Arc<LogTree>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ready: Readiness,
}

/// The bound sockets.
pub(super) struct Sockets {
    pub(super) admin: std::os::unix::net::UnixListener,
    pub(super) auditors: Option<std::os::unix::net::UnixListener>,
    pub(super) metrics: std::net::TcpListener,
}

/// The three sockets, open or closed.
pub(super) struct ManagementSockets {
    handlers: SocketHandlers,
    /// `None` after a take-over. A copy here would keep the sockets bound. If the successor died,
    /// connections would then wait in a backlog that no process accepts.
    sockets: Option<Sockets>,
    /// The tasks of the open sockets, and the signal that closes them.
    open: Option<(JoinSet<()>, watch::Sender<bool>)>,
}

impl ManagementSockets {
    /// The sockets, which are not open yet.
    pub(super) const fn new(handlers: SocketHandlers, sockets: Sockets) -> Self {
        Self { handlers, sockets: Some(sockets), open: None }
    }

    /// The sockets, for a take-over.
    pub(super) const fn sockets(&self) -> Option<&Sockets> {
        self.sockets.as_ref()
    }

    /// Leaves the sockets to the successor.
    pub(super) fn leave(&mut self) {
        self.sockets = None;
    }

    /// Opens the sockets.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn open(&mut self) -> std::io::Result<()> {
        let Some(sockets) = &self.sockets else { return Ok(()) };
        let (quiet, hushed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        // Each task gets a copy of the descriptor. The original stays here, so that a close does
        // not unbind the socket.
        let admin = UnixListener::from_std(sockets.admin.try_clone()?)?;
        let admin = api::run(
            Bounded::new(admin, SOCKET_CONNECTIONS_MAX),
            Arc::clone(&self.handlers.control),
            hushed.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin socket failed");
            }
        });
        if let Some(listener) = &sockets.auditors {
            let listener = UnixListener::from_std(listener.try_clone()?)?;
            let reading = auditors::run(listener, Arc::clone(&self.handlers.tree), hushed.clone());
            tasks.spawn(async move {
                if let Err(error) = reading.await {
                    tracing::error!(%error, "the auditors' socket failed");
                }
            });
        }
        let metrics = TcpListener::from_std(sockets.metrics.try_clone()?)?;
        tasks.spawn(housekeeping::metrics(
            metrics,
            Arc::clone(&self.handlers.metrics),
            self.handlers.ready.clone(),
            hushed,
        ));
        self.open = Some((tasks, quiet));
        Ok(())
    }

    /// Closes the sockets. Open requests get a short time for their answers.
    pub(super) async fn close(&mut self) {
        let Some((mut tasks, quiet)) = self.open.take() else { return };
        quiet.send_replace(true);
        // A command or scrape in progress gets its answer. A hanging client must not hold up a
        // take-over.
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            // A client that does not read its answer is cut off.
            tasks.shutdown().await;
        }
    }
}
