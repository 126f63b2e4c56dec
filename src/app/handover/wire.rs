//! The messages of `handover.sock`. A message is a length of four bytes, big-endian, with
//! descriptors attached, and then that many bytes of JSON.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::audit::format::event::Written;
use crate::guard::passed::{InFlight, Key, Tallies};

/// The maximum of descriptors in one message.
const DESCRIPTORS_MAX: usize = 16;
/// The maximum of bytes in one message: enough for the rate limit state of two million subjects.
const BYTES_MAX: u32 = 512 << 20;

/// A successor's description of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) policy: String,
    /// The gateway's name, which is the log's origin.
    pub(super) name: String,
    pub(super) api: SocketAddr,
    pub(super) metrics: SocketAddr,
    /// Absolute, like all paths here. The two processes may have been started in different folders.
    pub(super) admin: PathBuf,
    pub(in crate::app) auditors: Option<PathBuf>,
    /// The config's file.
    pub(super) source: Option<PathBuf>,
}

/// The state that a predecessor passes on, in addition to the descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct PassedState {
    /// The rate limit state of each subject.
    pub(in crate::app) tallies: Tallies,
    /// The predecessor's work in flight.
    pub(in crate::app) in_flight: InFlight,
    /// The bytes fetched for each agent, each with its age in minutes.
    pub(in crate::app) fetched: Vec<(Key, Vec<(u64, u64)>)>,
    /// The key of the cache salts, in base64url.
    pub(in crate::app) cache_salt: String,
    /// The JWK Sets of the last fetch, by `iss`.
    #[serde(default)]
    pub(in crate::app) published: Vec<Published>,
    pub(in crate::app) weights: crate::weights::passed::Passed,
    /// Open requests, each as the outcome to record if the predecessor ends without a report.
    pub(in crate::app) open: Vec<PassedRecord>,
    /// Whether the last descriptor is the auditors' socket.
    pub(in crate::app) auditors: bool,
    /// The socket files that are removed when the gateway stops.
    pub(in crate::app) own: Vec<PathBuf>,
    /// The longest drain of the predecessor, in seconds.
    pub(in crate::app) drain_s: u64,
}

/// A JWK Set that the predecessor fetched from `url`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::app) struct Published {
    pub(in crate::app) iss: String,
    pub(in crate::app) url: String,
    pub(in crate::app) set: String,
}

/// The content of a record that another process appends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PassedRecord {
    kind: String,
    principal: Option<String>,
    inside: String,
}

impl From<&Written> for PassedRecord {
    fn from(written: &Written) -> Self {
        let principal = written.principal().map(|principal| principal.as_str().to_owned());
        Self { kind: written.kind().to_owned(), principal, inside: written.payload().to_owned() }
    }
}

impl PassedRecord {
    /// The record, if its kind may be passed on.
    pub(super) fn read(self) -> Option<Written> {
        let principal = match self.principal {
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        Written::new(&self.kind, principal, self.inside)
    }
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// From an operator: start your successor.
    Upgrade,
    /// From a successor: a request to take over.
    TakeOver(Hello),
    /// A refusal with its reason. The state has not changed.
    Refused(String),
    /// The state of the predecessor. It is valid for use after `go`.
    Passed(Box<PassedState>),
    /// The successor is ready to serve.
    Ready,
    /// The successor cannot serve, and ends.
    Failed(String),
    /// Permission to serve. The sender appends no more records itself.
    Go,
    /// To the operator: this process has taken over.
    Done(Upgraded),
}

/// The process that has taken over.
#[derive(Debug, Serialize, Deserialize)]
pub struct Upgraded {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// The result of a take-over.
#[derive(Clone, Debug)]
pub(in crate::app) struct TakeOverResult {
    /// The process id of the successor.
    pub(super) pid: u32,
    /// The successor's version, or the reason why it has not taken over.
    pub(super) given: Result<String, String>,
}

/// Sends one message. Blocks at most for the time limit of the stream.
///
/// # Errors
/// The operating system's.
pub fn send(stream: &UnixStream, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(word)?;
    let length = match u32::try_from(text.len()) {
        Ok(length) if length <= BYTES_MAX => length.to_be_bytes(),
        Ok(_) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The descriptors travel with the first byte (unix(7)), so they are attached to the length
    // only.
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(stream, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL)
    })?;
    // A stream socket may accept a part of the length.
    let mut stream = stream;
    stream.write_all(length.get(sent..).unwrap_or_default())?;
    stream.write_all(&text)
}

/// Receives one message. Blocks at most for the time limit of the stream.
///
/// # Errors
/// The operating system's. `UnexpectedEof` if the other end has closed, `InvalidData` for a message
/// that is invalid or too long.
pub fn receive(stream: &UnixStream) -> io::Result<(Word, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        // Close-on-exec: a program that this process starts must not inherit the log's lock.
        recvmsg(stream, &mut [IoSliceMut::new(&mut length)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut stream = stream;
    stream.read_exact(length.get_mut(got.bytes..).unwrap_or_default())?;
    let length = u32::from_be_bytes(length);
    if length > BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // The buffer grows with the bytes that arrive. A false length allocates no memory.
    let mut text = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut text)?;
    if text.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&text)?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn descriptors_go_with_what_is_said() {
        let (one, other) = UnixStream::pair().expect("pair");
        let (passed, kept) = UnixStream::pair().expect("pair");
        send(&one, &Word::Refused("x".repeat(100_000)), &[passed.as_fd()]).expect("sent");
        drop(passed);
        let (word, descriptors) = receive(&other).expect("received");
        assert!(matches!(word, Word::Refused(why) if why.len() == 100_000));
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).expect("one");
        UnixStream::from(descriptor).write_all(b"!").expect("it is open");
        let mut byte = [0];
        (&kept).read_exact(&mut byte).expect("and leads there");
        assert_eq!(byte, *b"!");
        drop(one);
        assert_eq!(
            receive(&other).map(|_| ()).map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
    }
}
