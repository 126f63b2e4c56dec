//! Watches a caller's connection below hyper: it detects the HTTP version within a time, inspects
//! incoming bytes, and can return the stream.
//!
//! The first bytes show the version (RFC 9113 section 3.4). Bytes over HTTP/1 are followed from
//! head to head ([`Heads`]), and bytes over HTTP/2 from frame to frame ([`Frames`]).
//!
//! A caller that closes its sending side after a request may still read the answer (RFC 9112
//! section 9.6). Only a write can show whether it still reads or has left. The tap therefore hides
//! the end of the stream from hyper while a request is open. From time to time it writes an interim
//! answer (`100 Continue`, which every HTTP/1.1 client must be able to skip, RFC 9110 section
//! 15.2). A caller that has left replies with a reset, and the next write fails.
//!
//! hyper answers an invalid request with only a status. The tap drops that answer. If a request has
//! begun without an answer, the connection returns as [`ReclaimedStream`], so that the caller gets
//! the reason.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::lock::locked;
use crate::proxy::activity::Activity;
use crate::proxy::frames::Frames;
use crate::proxy::heads::{Framings, Heads};
use crate::proxy::respond::REQUEST;

/// The beginning of hyper's own answers to requests that it cannot parse.
const BARE: &[u8] = b"HTTP/1.1 4";
/// The beginning of an HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An interim answer. The caller has to do no action for it.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The delay before the first check whether a half-closed caller still reads. Each next delay is
/// twice as long.
pub const HALF_CLOSED_FIRST: Duration = Duration::from_millis(250);
/// The longest delay between two checks.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);

/// A stream that the tap returned, and the frame that may still be sent on it.
pub struct Returned<S> {
    /// The stream.
    pub stream: S,
    /// True if an HTTP/2 connection ends because of a flood.
    pub is_flooded: bool,
    /// The GOAWAY for a flooding peer, if a frame may begin now.
    pub goaway: Option<[u8; 17]>,
}

/// The slot for the stream, filled when its tap is dropped while a request waits for an answer.
pub struct ReclaimedStream<S>(Arc<Mutex<Option<Returned<S>>>>);

impl<S> ReclaimedStream<S> {
    /// The stream, if it was returned.
    #[must_use]
    pub fn take(&self) -> Option<Returned<S>> {
        locked(&self.0).take()
    }
}

/// The HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Time limits for the peer.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For a begun head: of a request, or a header block of HTTP/2.
    pub head: Duration,
    /// For a write without progress.
    pub write: Duration,
}

/// The tracker of incoming bytes, by version.
enum Watched {
    Http1(Heads),
    Http2(Box<Frames>),
}

/// The timer of a caller that has closed its sending side during its request.
struct HalfClosed {
    next: Pin<Box<Sleep>>,
    wait: Duration,
}

/// A stream with inspected bytes. This is the tap.
pub struct SniffedStream<S> {
    /// None after the drop returned it.
    stream: Option<S>,
    /// Bytes that were read to detect the version. hyper reads them first.
    first: BytesMut,
    watched: Watched,
    activity: Arc<Activity>,
    /// True if bytes have arrived since the last write.
    waiting: bool,
    /// True if all written bytes are flushed, so that the next write begins a new message.
    flushed: bool,
    /// True if an answer of hyper was dropped. Then the shutdown of the stream is dropped too.
    kept: bool,
    /// Shared with [`ReclaimedStream`].
    home: Arc<Mutex<Option<Returned<S>>>>,
    patience: Patience,
    /// Runs while the socket accepts no bytes.
    stall: Option<Pin<Box<Sleep>>>,
    /// Runs while a head has begun and not ended.
    head: Option<Pin<Box<Sleep>>>,
    /// Set after the caller closed its sending side while a request was open.
    half_closed: Option<HalfClosed>,
    is_flooded: bool,
}

/// A head has begun and did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head did not end in time")]
pub struct HeadSlow;

/// The stream of a tap.
///
/// # Errors
/// `NotConnected` if the tap has returned it.
fn connected<S>(stream: &mut Option<S>) -> io::Result<&mut S> {
    match stream {
        Some(stream) => Ok(stream),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

impl<S> SniffedStream<S> {
    /// A tap in its initial state.
    fn new(
        stream: S,
        watched: Watched,
        first: BytesMut,
        patience: Patience,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            stream: Some(stream),
            first,
            watched,
            activity,
            waiting: false,
            flushed: true,
            kept: false,
            home: Arc::default(),
            patience,
            stall: None,
            head: None,
            half_closed: None,
            is_flooded: false,
        }
    }

    const fn is_http1(&self) -> bool {
        matches!(self.watched, Watched::Http1(_))
    }

    /// Whether `bytes` are hyper's own answer to an invalid request. Such an answer is dropped. The
    /// gateway's answers contain the request's id and have a body.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        self.kept |= self.is_http1()
            && self.waiting
            && self.flushed
            && bytes.starts_with(BARE)
            && bytes.ends_with(b"\r\n\r\n")
            && memchr::memmem::find(bytes, b"\r\ncontent-length: 0\r\n").is_some()
            && memchr::memmem::find(bytes, REQUEST.as_str().as_bytes()).is_none();
        self.kept
    }

    /// Records that an answer begins: the request is no longer unanswered.
    fn begins_to_write(&mut self) {
        (self.waiting, self.flushed) = (false, false);
    }

    /// Returns the result of a write, or an error if the write has had no progress for too long.
    fn moves<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stall.take().is_some() {
                self.activity.blocked(false);
            }
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| {
            self.activity.blocked(true);
            Box::pin(tokio::time::sleep(self.patience.write))
        });
        std::task::ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }

    /// The HTTP version of the connection.
    #[must_use]
    pub const fn version(&self) -> HttpVersion {
        match self.watched {
            Watched::Http1(_) => HttpVersion::Http1,
            Watched::Http2(_) => HttpVersion::Http2,
        }
    }

    /// The framings in the heads of an HTTP/1 connection; none over HTTP/2.
    #[must_use]
    pub fn framings(&self) -> Option<Framings> {
        match &self.watched {
            Watched::Http1(heads) => Some(heads.framings()),
            Watched::Http2(_) => None,
        }
    }

    /// The slot that the stream may be returned to.
    #[must_use]
    pub fn home(&self) -> ReclaimedStream<S> {
        ReclaimedStream(Arc::clone(&self.home))
    }

    /// The stream.
    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        Ok(Pin::new(connected(&mut self.stream)?))
    }

    /// Inspects incoming bytes.
    ///
    /// # Errors
    /// A flood. The connection then returns as [`ReclaimedStream`], so that a GOAWAY can be sent.
    fn watch(&mut self, came: &[u8]) -> io::Result<()> {
        self.waiting |= !came.is_empty();
        let (watched, in_head) = match &mut self.watched {
            Watched::Http1(heads) => {
                heads.came(came);
                (Ok(()), heads.is_in_head())
            }
            Watched::Http2(frames) => (frames.came(came), frames.is_in_head()),
        };
        // While a request is open, hyper does not read the next head. The client is not slow in
        // that case.
        let in_head = in_head && (!self.is_http1() || self.activity.quiet_for().is_some());
        if !in_head {
            self.head = None;
        } else if self.head.is_none() {
            self.head = Some(Box::pin(tokio::time::sleep(self.patience.head)));
        }
        self.is_flooded |= watched.is_err();
        watched.map_err(io::Error::other)
    }

    /// Fails if a head has taken too long, whether bytes arrive or not.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(head) = &mut self.head
            && head.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, HeadSlow));
        }
        Ok(())
    }

    /// Counts written bytes.
    fn wrote(&mut self, bytes: &[u8]) {
        self.activity.wrote(bytes.len());
        if let Watched::Http2(frames) = &mut self.watched {
            frames.went(bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> SniffedStream<S> {
    /// Starts to watch `stream`, after its first bytes show the version.
    ///
    /// # Errors
    /// The error of reading. An end before the version is known is `UnexpectedEof`.
    pub async fn open(
        mut stream: S,
        patience: Patience,
        activity: Arc<Activity>,
    ) -> io::Result<Self> {
        let mut first = BytesMut::with_capacity(PREFACE.len());
        loop {
            // The first byte that differs from the preface decides for HTTP/1.
            if !PREFACE.starts_with(&first) {
                return Ok(Self::new(
                    stream,
                    Watched::Http1(Heads::new()),
                    first,
                    patience,
                    activity,
                ));
            }
            if first.len() == PREFACE.len() {
                let frames = Watched::Http2(Box::new(Frames::new(PREFACE.len())));
                return Ok(Self::new(stream, frames, first, patience, activity));
            }
            if stream.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> SniffedStream<S> {
    /// Ready when hyper may see the end of the stream: when no complete request is open any more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Watched::Http1(heads) = &self.watched else { return Poll::Ready(Ok(())) };
        // An end inside a request leaves that request incomplete. hyper has to see it at once.
        if !heads.is_between_requests() || !self.activity.is_busy(cx) {
            return Poll::Ready(Ok(()));
        }
        if self.half_closed.is_none() {
            self.activity.half_close();
            // A streamed answer makes its own checks, in this same task. The wake lets it notice
            // the half-close.
            cx.waker().wake_by_ref();
        }
        let half = self.half_closed.get_or_insert_with(|| HalfClosed {
            next: Box::pin(tokio::time::sleep(HALF_CLOSED_FIRST)),
            wait: HALF_CLOSED_FIRST,
        });
        while half.next.as_mut().poll(cx).is_ready() {
            half.wait = (half.wait * 2).min(HALF_CLOSED_MAX);
            half.next.as_mut().reset(tokio::time::Instant::now() + half.wait);
            // Only between messages: no byte of the answer is written, and no other answer is being
            // written.
            if self.waiting && self.flushed && self.activity.takes_interim() {
                let stream = connected(&mut self.stream)?;
                match Pin::new(&mut *stream).poll_write(cx, INTERIM) {
                    Poll::Ready(Ok(count)) if count == INTERIM.len() => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    // An unused socket has room for these few bytes if its peer reads.
                    Poll::Ready(Ok(_)) | Poll::Pending => {
                        return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                }
                if let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }
}

impl<S> Drop for SniffedStream<S> {
    fn drop(&mut self) {
        // Returned only if a request is unanswered; otherwise the stream is simply closed.
        let Some(stream) = self.stream.take() else { return };
        if !self.waiting {
            return;
        }
        let goaway = match &self.watched {
            Watched::Http2(frames) if self.is_flooded => frames.farewell(),
            Watched::Http1(_) | Watched::Http2(_) => None,
        };
        let is_flooded = self.is_flooded;
        *locked(&self.home) = Some(Returned { stream, is_flooded, goaway });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for SniffedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        tap.poll_head(cx)?;
        let before = buffer.filled().len();
        let polled = if tap.first.is_empty() {
            tap.stream()?.poll_read(cx, buffer)
        } else {
            let count = tap.first.len().min(buffer.remaining());
            buffer.put_slice(&tap.first[..count]);
            tap.first.advance(count);
            Poll::Ready(Ok(()))
        };
        tap.watch(&buffer.filled()[before..])?;
        // The timer of a head that has just begun must be polled once, so that it can wake this
        // task.
        tap.poll_head(cx)?;
        if matches!(polled, Poll::Ready(Ok(())))
            // No new byte although there was room: the caller has closed its sending side.
            && buffer.filled().len() == before
            && buffer.remaining() > 0
        {
            return tap.poll_end(cx);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SniffedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        if tap.keeps(bytes) {
            // hyper continues as if its answer was sent.
            return Poll::Ready(Ok(bytes.len()));
        }
        tap.begins_to_write();
        let written = tap.stream()?.poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            tap.wrote(&bytes[..count]);
        }
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
        // After a dropped answer the stream is still needed, for the real one.
        if tap.kept { Poll::Ready(Ok(())) } else { tap.stream()?.poll_shutdown(cx) }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        if let [only] = bytes
            && tap.keeps(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        tap.begins_to_write();
        let written = tap.stream()?.poll_write_vectored(cx, bytes);
        if let Poll::Ready(Ok(mut count)) = written {
            for piece in bytes {
                let part = count.min(piece.len());
                tap.wrote(&piece[..part]);
                count -= part;
            }
        }
        tap.moves(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Some(stream) => stream.is_write_vectored(),
            None => false,
        }
    }
}
