//! The successor's half of a take-over.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Process;
use super::wire::{Hello, PassedState, Word, receive, send};
use super::{ANSWER_MAX, PROTOCOL, socket, step};
use crate::app::{Listeners, StartFault};
use crate::config::Config;
use crate::control::socket::connect_at_once;

/// The time that the predecessor has to send `go`, or to end.
const GO_MAX: Duration = Duration::from_secs(15);

/// The answer to a request for a take-over.
pub enum TakeOver {
    /// No gateway runs on this folder.
    Nobody,
    /// One ran, and died during the exchange. Its lock becomes free soon.
    Died,
    /// One waits until this process is ready.
    Over(Box<Over>),
}

/// The parts that a predecessor has passed on.
pub struct Over {
    stream: UnixStream,
    process: Process,
    /// The sockets that it listened on.
    pub listeners: Listeners,
    /// The locked file of its log.
    pub(in crate::app) lock: File,
    pub(in crate::app) state: PassedState,
    /// The connection for records.
    pub(in crate::app) records: UnixStream,
    /// The connection for requests of kept connections.
    pub(in crate::app) requests: UnixStream,
}

/// An optional path as an absolute one. The predecessor compares it, and may run in another folder.
fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>, StartFault> {
    match path {
        Some(path) => Ok(Some(std::path::absolute(path).map_err(StartFault::take_over)?)),
        None => Ok(None),
    }
}

/// Asks the gateway of this config to hand over. `source` is the config's file. Blocks until the
/// gateway has stopped serving and waits for this process.
///
/// # Errors
/// When it refuses, or what it passes on cannot be used.
pub fn ask(config: &Config, source: Option<&Path>) -> Result<TakeOver, StartFault> {
    let path = socket(&config.data);
    let stream = match connect_at_once(&path) {
        Ok(stream) => stream,
        // A socket without a listener is left after a crash. Both cases mean that no gateway runs.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(TakeOver::Nobody);
        }
        Err(error) => {
            return Err(StartFault::take_over(format_args!("{}: {error}", path.display())));
        }
    };
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(StartFault::take_over)?;
    stream.set_write_timeout(Some(ANSWER_MAX)).map_err(StartFault::take_over)?;
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: config.policy.clone(),
        name: config.name.clone(),
        api: config.proxy.listen.address,
        metrics: config.proxy.metrics,
        admin: std::path::absolute(&config.proxy.admin).map_err(StartFault::take_over)?,
        auditors: absolute(config.proxy.auditors.socket.as_deref())?,
        source: absolute(source)?,
    };
    step("successor-asks");
    let answer = send(&stream, &Word::TakeOver(hello), &[]).and_then(|()| receive(&stream));
    step("successor-has");
    match answer {
        Ok((Word::Passed(state), descriptors)) => {
            unpack(stream, *state, descriptors).map(|over| TakeOver::Over(Box::new(over)))
        }
        Ok((Word::Refused(why), _)) => Err(StartFault::take_over(why)),
        Ok(_) => Err(StartFault::take_over("the running gateway says something else")),
        // The caller tests the lock, which shows whether it died.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(TakeOver::Died)
        }
        Err(error) => Err(StartFault::take_over(error)),
    }
}

/// Assigns the descriptors. Their order is that of the sender (`Giver::pass`).
fn unpack(
    stream: UnixStream,
    state: PassedState,
    descriptors: Vec<OwnedFd>,
) -> Result<Over, StartFault> {
    let passed = &mut descriptors.into_iter();
    let process = Process::passed(next(passed)?);
    // The lock belongs to the open file, so it stays taken when the predecessor closes its copy
    // (flock(2)).
    let lock = File::from(next(passed)?);
    let records = UnixStream::from(next(passed)?);
    let requests = UnixStream::from(next(passed)?);
    let api = tcp(next(passed)?)?;
    let metrics = tcp(next(passed)?)?;
    let admin = unix(next(passed)?)?;
    let handover = unix(next(passed)?)?;
    let auditors = if state.auditors { Some(unix(next(passed)?)?) } else { None };
    let listeners = Listeners {
        api,
        metrics,
        admin,
        auditors,
        handover: Some(handover),
        own: state.own.clone(),
    };
    Ok(Over { stream, process, listeners, lock, state, records, requests })
}

/// The next passed descriptor.
fn next(passed: &mut std::vec::IntoIter<OwnedFd>) -> Result<OwnedFd, StartFault> {
    let Some(descriptor) = passed.next() else {
        return Err(StartFault::take_over("a descriptor is missing"));
    };
    Ok(descriptor)
}

/// A TCP listener from a passed descriptor.
fn tcp(descriptor: OwnedFd) -> Result<tokio::net::TcpListener, StartFault> {
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true).map_err(StartFault::take_over)?;
    tokio::net::TcpListener::from_std(listener).map_err(StartFault::take_over)
}

/// A Unix listener from a passed descriptor.
fn unix(descriptor: OwnedFd) -> Result<tokio::net::UnixListener, StartFault> {
    let listener = std::os::unix::net::UnixListener::from(descriptor);
    listener.set_nonblocking(true).map_err(StartFault::take_over)?;
    tokio::net::UnixListener::from_std(listener).map_err(StartFault::take_over)
}

/// The other half of [`Over`]. It reports that this process is ready.
pub(in crate::app) struct ReadySignal {
    stream: UnixStream,
    process: Process,
}

impl Over {
    /// The parts with which to report that this process is ready.
    pub(in crate::app) fn asked(&self) -> Result<ReadySignal, StartFault> {
        let stream = self.stream.try_clone().map_err(StartFault::take_over)?;
        let process = self.process.try_clone().map_err(StartFault::take_over)?;
        Ok(ReadySignal { stream, process })
    }
}

impl ReadySignal {
    /// Reports that this process could serve now, and waits until it may. If the predecessor has
    /// died meanwhile, its permission is not needed. Blocks.
    ///
    /// # Errors
    /// If this process may not serve. The predecessor is alive, and resumes.
    pub(in crate::app) fn ready(self) -> Result<(), StartFault> {
        step("successor-ready");
        // Without the limit, this process would wait for ever for a predecessor that hangs.
        let _ = self.stream.set_read_timeout(Some(GO_MAX));
        let answer = send(&self.stream, &Word::Ready, &[]).and_then(|()| receive(&self.stream));
        step("successor-goes");
        match answer {
            Ok((Word::Go, _)) => Ok(()),
            // The predecessor closes this connection only when it dies, or before it kills this
            // process. If it is dead, it cannot write, so this process may serve.
            _ if self.process.is_over(GO_MAX) => {
                tracing::warn!("the predecessor has died during the take-over");
                Ok(())
            }
            Ok((Word::Refused(why), _)) => Err(StartFault::take_over(why)),
            Ok(_) => Err(StartFault::take_over("the predecessor says something else")),
            Err(error) => Err(StartFault::take_over(error)),
        }
    }

    /// Reports that this process cannot take over.
    pub(in crate::app) fn failed(&self, why: &StartFault) {
        let _ = send(&self.stream, &Word::Failed(why.to_string()), &[]);
    }
}

/// The device and the inode of a file. A link counts as itself.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Whether two paths name one socket: the same path, or the same file.
pub(super) fn is_same_socket(wanted: &Path, found: &Path) -> bool {
    std::path::absolute(found).is_ok_and(|found| found == wanted)
        || identity(wanted).is_some_and(|wanted| Some(wanted) == identity(found))
}

/// Whether a successor with the configured address `wanted` can listen at `found`. Port 0 matches
/// every port.
pub(super) fn agrees(wanted: SocketAddr, found: SocketAddr) -> bool {
    wanted.ip() == found.ip() && (wanted.port() == 0 || wanted.port() == found.port())
}
