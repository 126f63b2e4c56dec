//! The sockets that a gateway listens on.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use super::inherited::Inherited;
use super::management::Sockets;
use super::{StartFault, auditors, handover};
use crate::config::Config;
use crate::control::socket;

/// The bound sockets of a gateway.
pub struct Listeners {
    /// For agents.
    pub api: TcpListener,
    /// For Prometheus.
    pub metrics: TcpListener,
    /// For operators.
    pub admin: UnixListener,
    /// For auditors.
    pub auditors: Option<UnixListener>,
    /// For a successor.
    pub(super) handover: Option<UnixListener>,
    /// Files of sockets that were bound here. The gateway removes them when it stops. Those of a
    /// service manager stay.
    pub(super) own: Vec<PathBuf>,
}

impl Listeners {
    /// Takes the sockets that a service manager has bound (`LISTEN_FDS`), and binds the rest.
    ///
    /// # Errors
    /// If an address cannot be bound, or the config does not name a socket that was passed on.
    pub async fn bind(config: &Config) -> Result<Self, StartFault> {
        let mut inherited = Inherited::from_environment()?;
        let mut own = Vec::new();
        let (api, metrics) = (config.proxy.listen.address, config.proxy.metrics);
        let api = tcp(&mut inherited, api).await?;
        let metrics = tcp(&mut inherited, metrics).await?;
        let admin = unix(&mut inherited, &config.proxy.admin, socket::bind, &mut own)?;
        let auditors = match &config.proxy.auditors.socket {
            Some(path) => Some(unix(&mut inherited, path, auditors::bind, &mut own)?),
            None => None,
        };
        // After all listeners have taken theirs: the rest has no use.
        inherited.end()?;
        Ok(Self { api, metrics, admin, auditors, handover: None, own })
    }
}

impl Listeners {
    /// Also binds the socket for a take-over.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn with_handover(mut self, config: &Config) -> Result<Self, StartFault> {
        let path = handover::socket(&config.data);
        let bound = socket::bind(&path)
            .map_err(|error| StartFault::Bind { address: path.display().to_string(), error })?;
        // Absolute: a successor may run in another folder.
        // Only a path that this process has bound is removed at the stop.
        self.own.push(std::path::absolute(&path).unwrap_or(path));
        self.handover = Some(bound);
        Ok(self)
    }
}

/// The sockets of a running gateway. Sockets that it closes and opens again keep a descriptor here.
pub(super) struct RunningSockets {
    pub(super) management: Sockets,
    /// The sockets for a take-over, if one is possible.
    pub(super) handover: Option<HandoverSockets>,
}

/// The sockets that the task for take-overs needs.
pub(super) struct HandoverSockets {
    /// A copy of the API's socket.
    pub(super) api: std::net::TcpListener,
    /// The socket at which a successor connects.
    pub(super) handover: std::os::unix::net::UnixListener,
}

/// The fault if a descriptor cannot be copied.
pub(super) fn copied(error: std::io::Error) -> StartFault {
    StartFault::Bind { address: "a copy of a socket".to_owned(), error }
}

impl RunningSockets {
    /// Splits the sockets. Those for a take-over are copied only if a take-over is possible.
    pub(super) fn of(
        api: &TcpListener,
        admin: UnixListener,
        auditors: Option<UnixListener>,
        metrics: TcpListener,
        handover: Option<UnixListener>,
    ) -> Result<Self, StartFault> {
        let auditors = match auditors {
            Some(auditors) => Some(auditors.into_std().map_err(copied)?),
            None => None,
        };
        let (admin, metrics) =
            (admin.into_std().map_err(copied)?, metrics.into_std().map_err(copied)?);
        let handover = match handover {
            Some(handover) => {
                let api = api.as_fd().try_clone_to_owned().map_err(copied)?.into();
                Some(HandoverSockets { api, handover: handover.into_std().map_err(copied)? })
            }
            None => None,
        };
        Ok(Self { management: Sockets { admin, auditors, metrics }, handover })
    }
}

/// The TCP listener at `address`: inherited, or bound now.
async fn tcp(
    inherited: &mut Inherited,
    address: std::net::SocketAddr,
) -> Result<TcpListener, StartFault> {
    match inherited.tcp(address)? {
        Some(listener) => Ok(listener),
        None => {
            let bound = TcpListener::bind(address).await;
            bound.map_err(|error| StartFault::Bind { address: address.to_string(), error })
        }
    }
}

/// The Unix listener at `path`: inherited, or bound now. A path that is bound here is added to
/// `own`.
fn unix(
    inherited: &mut Inherited,
    path: &Path,
    bind: impl FnOnce(&Path) -> std::io::Result<UnixListener>,
    own: &mut Vec<PathBuf>,
) -> Result<UnixListener, StartFault> {
    if let Some(listener) = inherited.unix(path)? {
        return Ok(listener);
    }
    let bound = bind(path)
        .map_err(|error| StartFault::Bind { address: path.display().to_string(), error })?;
    own.push(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    Ok(bound)
}
