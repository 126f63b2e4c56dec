//! What hyper does not do with a connection: learn its version within a time, notice both framings, and give it back.
//!
//! The version is told from the first bytes (RFC 9113 section 3.4).
//!
//! hyper follows RFC 9112 section 6.3: where `Transfer-Encoding` and `Content-Length` stand in one request it reads by the
//! former and forgets the latter, so that nobody behind it can see the disagreement any more. This gateway wants to refuse
//! such a request. The tap counts the lines that begin with `content-length` as the bytes come in; a request explains one by
//! showing the header, and a chunked request with an unexplained one was ambiguous.
//!
//! What hyper cannot read it answers with a bare status. The tap keeps that answer to itself: a connection on which a
//! request has begun that nobody answered goes back [`Home`], so that its caller can be told why.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::proxy::respond::REQUEST;

const LINE: &[u8; 15] = b"\ncontent-length";
/// What hyper's own answers to requests that it cannot read begin with.
const BARE: &[u8] = b"HTTP/1.1 4";
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many `Content-Length` lines of a connection no request has explained yet.
#[derive(Clone, Default)]
pub struct Unexplained(Arc<AtomicU64>);

impl Unexplained {
    /// Takes one line as explained.
    pub fn explain(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// True where a line was seen that no request showed.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Where a stream goes when the tap on it is dropped while a request waits for an answer.
pub struct Home<S>(Arc<Mutex<Option<S>>>);

impl<S> Home<S> {
    /// The stream, if it came back.
    #[must_use]
    pub fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A stream whose incoming bytes are watched.
pub struct Tap<S> {
    stream: Option<S>,
    /// Bytes that were read to learn the version.
    first: BytesMut,
    matched: usize,
    unexplained: Unexplained,
    /// True when bytes came in since something was last written.
    waiting: bool,
    /// True when all that was written was flushed, so that the next write begins something new.
    flushed: bool,
    /// True when an answer was kept: the end of the stream is kept with it.
    kept: bool,
    version: Version,
    home: Arc<Mutex<Option<S>>>,
    /// Runs while nothing can be written.
    stall: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
}

impl<S> Tap<S> {
    fn new(stream: S, version: Version, first: BytesMut, stall_max: Duration) -> Self {
        let (unexplained, home, flushed) = (Unexplained::default(), Arc::default(), true);
        let (stream, stall) = (Some(stream), None);
        Self { stream, first, matched: 0, unexplained, waiting: false, flushed, kept: false, version, home, stall, stall_max }
    }

    /// Keeps `bytes` where they are hyper's own answer to what it could not read. Ours name the request and have a body.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        self.kept |= self.version == Version::Http1
            && self.waiting
            && self.flushed
            && bytes.starts_with(BARE)
            && bytes.ends_with(b"\r\n\r\n")
            && memchr::memmem::find(bytes, b"\r\ncontent-length: 0\r\n").is_some()
            && memchr::memmem::find(bytes, REQUEST.as_str().as_bytes()).is_none();
        self.kept
    }

    fn begins_to_write(&mut self) {
        (self.waiting, self.flushed) = (false, false);
    }

    /// Passes on what became of a write, and turns one that takes too long into a fault.
    fn moves<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.stall_max)));
        std::task::ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }

    /// The version that the connection speaks.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The count of unexplained lines, which the connection's requests share.
    #[must_use]
    pub fn unexplained(&self) -> Unexplained {
        self.unexplained.clone()
    }

    /// Where the stream may come back.
    #[must_use]
    pub fn home(&self) -> Home<S> {
        Home(Arc::clone(&self.home))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.matched == 0 {
                let Some(place) = memchr::memchr(b'\n', bytes) else { return };
                bytes = &bytes[place + 1..];
                self.matched = 1;
                continue;
            }
            let byte = bytes[0];
            if byte.to_ascii_lowercase() == LINE[self.matched] {
                self.matched += 1;
                bytes = &bytes[1..];
                if self.matched == LINE.len() {
                    self.unexplained.0.fetch_add(1, Ordering::Relaxed);
                    self.matched = 0;
                }
            } else {
                // The byte is looked at again: it may be the next line's feed.
                self.matched = 0;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Tap<S> {
    /// Watches `stream` once its first bytes told the version. A write that moves nothing for `stall_max` fails.
    ///
    /// # Errors
    /// What reading said; an end before the version is known is `UnexpectedEof`.
    pub async fn open(mut stream: S, stall_max: Duration) -> io::Result<Self> {
        let mut first = BytesMut::with_capacity(PREFACE.len());
        loop {
            let known = first.iter().zip(PREFACE).take_while(|(byte, preface)| byte == preface).count();
            if known < first.len() {
                return Ok(Self::new(stream, Version::Http1, first, stall_max));
            }
            if known == PREFACE.len() {
                return Ok(Self::new(stream, Version::Http2, first, stall_max));
            }
            if stream.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<S> Drop for Tap<S> {
    fn drop(&mut self) {
        if self.waiting {
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        let before = buffer.filled().len();
        let polled = if tap.first.is_empty() {
            tap.stream()?.poll_read(cx, buffer)
        } else {
            let count = tap.first.len().min(buffer.remaining());
            buffer.put_slice(&tap.first[..count]);
            tap.first.advance(count);
            Poll::Ready(Ok(()))
        };
        let came = &buffer.filled()[before..];
        tap.waiting |= !came.is_empty();
        tap.watch(came);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        if tap.keeps(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        tap.begins_to_write();
        let written = tap.stream()?.poll_write(cx, bytes);
        tap.moves(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        let flushed = tap.stream()?.poll_flush(cx);
        tap.flushed |= flushed.is_ready();
        tap.moves(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        if tap.kept { Poll::Ready(Ok(())) } else { tap.stream()?.poll_shutdown(cx) }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        if let [only] = bytes
            && tap.keeps(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        tap.begins_to_write();
        let written = tap.stream()?.poll_write_vectored(cx, bytes);
        tap.moves(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn count(reads: &[&[u8]], expect: u64) {
        let mut tap = Tap::new(tokio::io::empty(), Version::Http1, BytesMut::new(), Duration::MAX);
        for read in reads {
            tap.watch(read);
        }
        assert_eq!(tap.unexplained().0.load(Ordering::Relaxed), expect);
    }

    #[test]
    fn lines_are_counted_however_they_are_split_and_written() {
        count(&[b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"], 1);
        count(&[b"GET / HTTP/1.1\r", b"\nCONTENT-", b"length", b": 3"], 1);
        count(&[b"\n\ncontent-length\ncontent-length"], 2);
        count(&[b"\r\nx-content-length: 3\r\n content-length: 3"], 0);
    }
}
