//! Sockets that a service manager has bound (sd_listen_fds(3)). Each serves the address or path of
//! the config that it listens on.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use super::StartFault;

/// Sockets that were passed on and are not used yet.
#[derive(Default)]
pub(super) struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<StdUnixListener>,
}

/// The fault of a socket that cannot be used.
fn fault(error: std::io::Error) -> StartFault {
    StartFault::Bind { address: "a socket of LISTEN_FDS".to_owned(), error }
}

impl Inherited {
    /// Takes the sockets that the environment names. There are none unless `LISTEN_PID` is this
    /// process.
    ///
    /// # Errors
    /// If one of them is not a listening stream socket.
    pub(super) fn from_environment() -> Result<Self, StartFault> {
        let mut passed = ListenFd::from_env();
        let mut found = Self::default();
        for place in 0..passed.len() {
            // TCP or Unix: only a try with both types shows which.
            if let Ok(Some(tcp)) = passed.take_tcp_listener(place) {
                found.tcp.push(tcp);
            } else if let Some(unix) = passed.take_unix_listener(place).map_err(fault)? {
                found.unix.push(unix);
            }
        }
        Ok(found)
    }

    /// The listener at `address`, if one was passed on.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Result<Option<TcpListener>, StartFault> {
        // The address decides, and not the order in which the service manager lists its sockets.
        let place = self
            .tcp
            .iter()
            .position(|listener| listener.local_addr().is_ok_and(|found| found == address));
        let Some(place) = place else { return Ok(None) };
        let listener = self.tcp.swap_remove(place);
        // The service manager may pass a blocking socket, which would block a worker of the
        // runtime.
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Some(TcpListener::from_std(listener).map_err(fault)?))
    }

    /// The listener at `path`, if one was passed on.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn unix(&mut self, path: &Path) -> Result<Option<UnixListener>, StartFault> {
        let Some(place) = self.unix.iter().position(|listener| is_at(listener, path)) else {
            return Ok(None);
        };
        let listener = self.unix.swap_remove(place);
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Some(UnixListener::from_std(listener).map_err(fault)?))
    }

    /// Checks that every socket is used. A socket that the config does not name would never answer.
    ///
    /// # Errors
    /// If a socket is left, with its address.
    pub(super) fn end(self) -> Result<(), StartFault> {
        for listener in &self.tcp {
            if let Ok(address) = listener.local_addr() {
                return Err(StartFault::Inherited(address.to_string()));
            }
        }
        for listener in &self.unix {
            if let Ok(address) = listener.local_addr()
                && let Some(path) = address.as_pathname()
            {
                return Err(StartFault::Inherited(path.display().to_string()));
            }
        }
        Ok(())
    }
}

/// Whether a socket listens at `path`. A socket without a path does not.
fn is_at(listener: &StdUnixListener, path: &Path) -> bool {
    let Ok(address) = listener.local_addr() else { return false };
    let Some(found) = address.as_pathname() else { return false };
    is_same(found, path)
}

/// Whether two paths name the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
