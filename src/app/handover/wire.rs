//! What is said over `handover.sock`: a length of four bytes, big-endian, with descriptors beside it, then so many bytes of JSON.

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

/// Descriptors of one message at the most.
const DESCRIPTORS_MAX: usize = 16;
/// Bytes of one message at the most: the tallies of two million subjects.
const BYTES_MAX: u32 = 512 << 20;

/// A successor says what it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) policy: String,
    /// The gateway's name: the log's origin.
    pub(super) name: String,
    pub(super) api: SocketAddr,
    pub(super) metrics: SocketAddr,
    /// Absolute, as all paths are here: the two may have been started in different folders.
    pub(super) admin: PathBuf,
    pub(in crate::app) auditors: Option<PathBuf>,
    /// The config's file.
    pub(super) source: Option<PathBuf>,
}

/// What a predecessor passes on beside the descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct PassedState {
    pub(in crate::app) tallies: Tallies,
    /// What the predecessor still works at.
    pub(in crate::app) in_flight: InFlight,
    /// Bytes fetched, by agent and by how many minutes ago.
    pub(in crate::app) fetched: Vec<(Key, Vec<(u64, u64)>)>,
    /// The key of the salts of prompt caches, in base64url.
    pub(in crate::app) cache_salt: String,
    /// The JWK Sets that were fetched last, by `iss`.
    #[serde(default)]
    pub(in crate::app) published: Vec<Published>,
    pub(in crate::app) weights: crate::weights::passed::Passed,
    /// What is open, as the outcomes that are recorded should the predecessor say nothing of it.
    pub(in crate::app) open: Vec<PassedRecord>,
    /// Whether the last descriptor is the auditors' socket.
    pub(in crate::app) auditors: bool,
    /// Files of sockets that go when the gateway stops.
    pub(in crate::app) own: Vec<PathBuf>,
    /// How long the predecessor drains at the most, in seconds.
    pub(in crate::app) drain_s: u64,
}

/// A JWK Set that was fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::app) struct Published {
    pub(in crate::app) iss: String,
    pub(in crate::app) url: String,
    pub(in crate::app) set: String,
}

/// A record's inside, to be recorded by another process.
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
    /// What it says, where that is something that may be passed on.
    pub(super) fn read(self) -> Option<Written> {
        let principal = self.principal.map(|name| name.parse()).transpose().ok()?;
        Written::new(&self.kind, principal, self.inside)
    }
}

/// What is said.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// An operator: start your successor.
    Upgrade,
    /// A successor: let me take over.
    TakeOver(Hello),
    /// No, and why. Nothing has changed.
    Refused(String),
    /// Everything is yours, once I say `go`.
    Passed(Box<PassedState>),
    /// I could serve now.
    Ready,
    /// I cannot, and end.
    Failed(String),
    /// Serve: I record nothing myself any more.
    Go,
    /// To the operator: that process has taken over.
    Done(Upgraded),
}

/// Who has taken over.
#[derive(Debug, Serialize, Deserialize)]
pub struct Upgraded {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// Sends one message. Blocks, for as long as the stream's time limit allows.
///
/// # Errors
/// The operating system's.
pub fn send(stream: &UnixStream, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(word)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= BYTES_MAX);
    let length = length.ok_or(io::ErrorKind::InvalidData)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(stream, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL)
    })?;
    let mut stream = stream;
    stream.write_all(length.get(sent..).unwrap_or_default())?;
    stream.write_all(&text)
}

/// Receives one message. Blocks, for as long as the stream's time limit allows.
///
/// # Errors
/// The operating system's; `UnexpectedEof` where the other end has closed, `InvalidData` where it says something else.
pub fn receive(stream: &UnixStream) -> io::Result<(Word, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
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
