//! The successor's half.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::process::Process;
use super::wire::{Hello, PassedState, Word, receive, send};
use super::{ANSWER_MAX, PROTOCOL, socket, step};
use crate::app::{Listeners, StartFault};
use crate::config::Config;

/// How long the predecessor may take to say `go`, or to end.
const GO_MAX: Duration = Duration::from_secs(15);

/// What became of the question.
pub enum TakeOver {
    /// No gateway runs on that folder.
    Nobody,
    /// One ran, and died while it was asked: its lock is free in a moment.
    Died,
    /// One waits for this process to be ready.
    Over(Box<Over>),
}

/// What a predecessor has passed on.
pub struct Over {
    stream: UnixStream,
    process: Process,
    /// What it listened on.
    pub listeners: Listeners,
    /// The locked file of its log.
    pub(in crate::app) lock: File,
    pub(in crate::app) state: PassedState,
    /// The way of records.
    pub(in crate::app) records: UnixStream,
    /// The way of requests on kept connections.
    pub(in crate::app) requests: UnixStream,
}

fn fault(why: impl std::fmt::Display) -> StartFault {
    StartFault::TakeOver(why.to_string())
}

/// Asks the gateway of that config, which was read from the file `source`, to hand over. Blocks until it has stopped, and waits for this process.
///
/// # Errors
/// When it refuses, or what it passes on cannot be used.
pub fn ask(config: &Config, source: Option<&Path>) -> Result<TakeOver, StartFault> {
    let path = socket(&config.data);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(TakeOver::Nobody);
        }
        Err(error) => return Err(fault(format_args!("{}: {error}", path.display()))),
    };
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(fault)?;
    stream.set_write_timeout(Some(ANSWER_MAX)).map_err(fault)?;
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: config.policy.clone(),
        name: config.name.clone(),
        api: config.proxy.listen.address,
        metrics: config.proxy.metrics,
        admin: std::path::absolute(&config.proxy.admin).map_err(fault)?,
        auditors: config
            .proxy
            .auditors
            .socket
            .as_ref()
            .map(std::path::absolute)
            .transpose()
            .map_err(fault)?,
        source: source.map(std::path::absolute).transpose().map_err(fault)?,
    };
    step("successor-asks");
    let answer = send(&stream, &Word::TakeOver(hello), &[]).and_then(|()| receive(&stream));
    step("successor-has");
    match answer {
        Ok((Word::Passed(state), descriptors)) => {
            unpack(stream, *state, descriptors).map(|over| TakeOver::Over(Box::new(over)))
        }
        Ok((Word::Refused(why), _)) => Err(fault(why)),
        Ok(_) => Err(fault("the running gateway says something else")),
        // Its lock says whether it died.
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
        Err(error) => Err(fault(error)),
    }
}

fn unpack(
    stream: UnixStream,
    state: PassedState,
    descriptors: Vec<OwnedFd>,
) -> Result<Over, StartFault> {
    let mut passed = descriptors.into_iter();
    let mut next = || passed.next().ok_or_else(|| fault("a descriptor is missing"));
    let process = Process::passed(next()?);
    let lock = File::from(next()?);
    let (records, requests) = (UnixStream::from(next()?), UnixStream::from(next()?));
    let api = tcp(next()?)?;
    let metrics = tcp(next()?)?;
    let (admin, handover) = (unix(next()?)?, unix(next()?)?);
    let auditors = if state.auditors { Some(unix(next()?)?) } else { None };
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

fn tcp(descriptor: OwnedFd) -> Result<tokio::net::TcpListener, StartFault> {
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true).map_err(fault)?;
    tokio::net::TcpListener::from_std(listener).map_err(fault)
}

fn unix(descriptor: OwnedFd) -> Result<tokio::net::UnixListener, StartFault> {
    let listener = std::os::unix::net::UnixListener::from(descriptor);
    listener.set_nonblocking(true).map_err(fault)?;
    tokio::net::UnixListener::from_std(listener).map_err(fault)
}

/// The other half of [`Over`], which says that this process is ready.
pub(in crate::app) struct ReadySignal {
    stream: UnixStream,
    process: Process,
}

impl Over {
    /// What is needed to say that this process is ready.
    pub(in crate::app) fn asked(&self) -> Result<ReadySignal, StartFault> {
        let stream = self.stream.try_clone().map_err(fault)?;
        let process = self.process.try_clone().map_err(fault)?;
        Ok(ReadySignal { stream, process })
    }
}

impl ReadySignal {
    /// Says that this process could serve now, and waits until it may. A predecessor that died meanwhile needs no longer be asked.
    /// Blocks.
    ///
    /// # Errors
    /// When it may not: the predecessor lives, and goes on.
    pub(in crate::app) fn ready(self) -> Result<(), StartFault> {
        step("successor-ready");
        let _ = self.stream.set_read_timeout(Some(GO_MAX));
        let answer = send(&self.stream, &Word::Ready, &[]).and_then(|()| receive(&self.stream));
        step("successor-goes");
        match answer {
            Ok((Word::Go, _)) => Ok(()),
            // It closes this way only by dying, or before it kills this process.
            _ if self.process.is_over(GO_MAX) => {
                tracing::warn!("the predecessor has died during the take-over");
                Ok(())
            }
            Ok((Word::Refused(why), _)) => Err(fault(why)),
            Ok(_) => Err(fault("the predecessor says something else")),
            Err(error) => Err(fault(error)),
        }
    }

    /// Says that this process cannot take over.
    pub(in crate::app) fn failed(&self, why: &StartFault) {
        let _ = send(&self.stream, &Word::Failed(why.to_string()), &[]);
    }
}

/// Whether two names are of one socket: the same path, or the same file.
pub(super) fn is_same_socket(wanted: &Path, found: &Path) -> bool {
    let identity =
        |path: &Path| std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
    std::path::absolute(found).is_ok_and(|found| found == wanted)
        || identity(wanted).is_some_and(|wanted| Some(wanted) == identity(found))
}

/// Whether a successor that wants `wanted` can listen at `found`: a port of 0 leaves the choice.
pub(super) fn agrees(wanted: SocketAddr, found: SocketAddr) -> bool {
    wanted.ip() == found.ip() && (wanted.port() == 0 || wanted.port() == found.port())
}
