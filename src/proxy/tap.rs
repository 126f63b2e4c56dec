//! What hyper does not do with a connection: learn its version within a time, watch what comes in, and give it back.
//!
//! The version is told from the first bytes (RFC 9113 section 3.4). What comes in over HTTP/1 is followed from head to head
//! ([`Heads`]), and over HTTP/2 from frame to frame ([`Frames`]).
//!
//! A caller that closes its side after a request may still read the answer (RFC 9112 section 9.6), and nothing tells it from
//! one that has left until something is written. The tap keeps the end of the stream to itself while a request is at work,
//! and writes an interim answer (`100 Continue`, which every HTTP/1.1 client must be able to skip, RFC 9110 section 15.2)
//! from time to time: who has left answers with a reset, and the next one fails.
//!
//! What hyper cannot read it answers with a bare status. The tap keeps that answer to itself: a connection on which a
//! request has begun that nobody answered goes back [`ReclaimedStream`], so that its caller can be told why.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::proxy::activity::Activity;
use crate::proxy::frames::Frames;
use crate::proxy::heads::{Framings, Heads};
use crate::proxy::respond::REQUEST;

/// What hyper's own answers to requests that it cannot read begin with.
const BARE: &[u8] = b"HTTP/1.1 4";
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An interim answer, which asks nothing of the caller.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// When a caller that has closed its side is first asked whether it still reads; the next times are twice as far apart each.
pub const HALF_CLOSED_FIRST: Duration = Duration::from_millis(250);
/// The longest time between two of them.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);

/// A stream that came back, and what may still be said on it.
pub struct Returned<S> {
    /// The stream.
    pub stream: S,
    /// True where an HTTP/2 connection ends for a flood.
    pub is_flooded: bool,
    /// What a flooder is told, where a frame may stand.
    pub goaway: Option<[u8; 17]>,
}

/// Where a stream goes when the tap on it is dropped while a request waits for an answer.
pub struct ReclaimedStream<S>(Arc<Mutex<Option<Returned<S>>>>);

impl<S> ReclaimedStream<S> {
    /// The stream, if it came back.
    #[must_use]
    pub fn take(&self) -> Option<Returned<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How long a peer may take.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For a head that has begun: of a request, or a header block of HTTP/2.
    pub head: Duration,
    /// Until a write moves anything.
    pub write: Duration,
}

/// What follows the bytes that come in.
enum Watched {
    Http1(Heads),
    Http2(Box<Frames>),
}

/// A caller that has closed its side while its request is at work.
struct HalfClosed {
    next: Pin<Box<Sleep>>,
    wait: Duration,
}

/// A stream whose incoming bytes are watched.
pub struct SniffedStream<S> {
    stream: Option<S>,
    /// Bytes that were read to learn the version.
    first: BytesMut,
    watched: Watched,
    activity: Arc<Activity>,
    /// True when bytes came in since something was last written.
    waiting: bool,
    /// True when all that was written was flushed, so that the next write begins something new.
    flushed: bool,
    /// True when an answer was kept: the end of the stream is kept with it.
    kept: bool,
    home: Arc<Mutex<Option<Returned<S>>>>,
    patience: Patience,
    /// Runs while nothing can be written.
    stall: Option<Pin<Box<Sleep>>>,
    /// Runs while a head has begun and not ended.
    head: Option<Pin<Box<Sleep>>>,
    half_closed: Option<HalfClosed>,
    is_flooded: bool,
}

/// That a head has begun and did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head did not end in time")]
pub struct HeadSlow;

impl<S> SniffedStream<S> {
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

    /// Keeps `bytes` where they are hyper's own answer to what it could not read. Ours name the request and have a body.
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

    fn begins_to_write(&mut self) {
        (self.waiting, self.flushed) = (false, false);
    }

    /// Passes on what became of a write, and turns one that takes too long into a fault.
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
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }

    /// The version that the connection speaks.
    #[must_use]
    pub const fn version(&self) -> HttpVersion {
        match self.watched {
            Watched::Http1(_) => HttpVersion::Http1,
            Watched::Http2(_) => HttpVersion::Http2,
        }
    }

    /// The framings that the heads of an HTTP/1 connection showed.
    #[must_use]
    pub fn framings(&self) -> Option<Framings> {
        match &self.watched {
            Watched::Http1(heads) => Some(heads.framings()),
            Watched::Http2(_) => None,
        }
    }

    /// Where the stream may come back.
    #[must_use]
    pub fn home(&self) -> ReclaimedStream<S> {
        ReclaimedStream(Arc::clone(&self.home))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Follows what came in.
    ///
    /// A flood makes the connection go back [`ReclaimedStream`]: whoever takes it can say a last word.
    fn watch(&mut self, came: &[u8]) -> io::Result<()> {
        self.waiting |= !came.is_empty();
        let (watched, in_head) = match &mut self.watched {
            Watched::Http1(heads) => {
                heads.came(came);
                (Ok(()), heads.is_in_head())
            }
            Watched::Http2(frames) => (frames.came(came), frames.is_in_head()),
        };
        // While a request is at work hyper does not read the next one's head.
        let in_head = in_head && (!self.is_http1() || self.activity.quiet_for().is_some());
        if !in_head {
            self.head = None;
        } else if self.head.is_none() {
            self.head = Some(Box::pin(tokio::time::sleep(self.patience.head)));
        }
        self.is_flooded |= watched.is_err();
        watched.map_err(io::Error::other)
    }

    /// Fails once a head has taken too long, whether bytes come or not.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let late = self.head.as_mut().is_some_and(|head| head.as_mut().poll(cx).is_ready());
        if late { Err(io::Error::new(io::ErrorKind::TimedOut, HeadSlow)) } else { Ok(()) }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.activity.wrote(bytes.len());
        if let Watched::Http2(frames) = &mut self.watched {
            frames.went(bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> SniffedStream<S> {
    /// Watches `stream` once its first bytes told the version.
    ///
    /// # Errors
    /// What reading said; an end before the version is known is `UnexpectedEof`.
    pub async fn open(
        mut stream: S,
        patience: Patience,
        activity: Arc<Activity>,
    ) -> io::Result<Self> {
        let mut first = BytesMut::with_capacity(PREFACE.len());
        loop {
            let known =
                first.iter().zip(PREFACE).take_while(|(byte, preface)| byte == preface).count();
            if known < first.len() {
                return Ok(Self::new(
                    stream,
                    Watched::Http1(Heads::new()),
                    first,
                    patience,
                    activity,
                ));
            }
            if known == PREFACE.len() {
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
    /// Ready once the end of the stream may be seen: when no whole request is at work any more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Watched::Http1(heads) = &self.watched else { return Poll::Ready(Ok(())) };
        if !heads.is_between_requests() || !self.activity.is_busy(cx) {
            return Poll::Ready(Ok(()));
        }
        if self.half_closed.is_none() {
            self.activity.half_close();
            // What streams an answer asks by itself, in this task: it hears of it.
            cx.waker().wake_by_ref();
        }
        let half = self.half_closed.get_or_insert_with(|| HalfClosed {
            next: Box::pin(tokio::time::sleep(HALF_CLOSED_FIRST)),
            wait: HALF_CLOSED_FIRST,
        });
        while half.next.as_mut().poll(cx).is_ready() {
            half.wait = (half.wait * 2).min(HALF_CLOSED_MAX);
            half.next.as_mut().reset(tokio::time::Instant::now() + half.wait);
            // Nothing of the answer was written yet, and nothing of another one is on its way.
            if self.waiting && self.flushed && self.activity.takes_interim() {
                let stream =
                    self.stream.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
                match stream.poll_write(cx, INTERIM) {
                    Poll::Ready(Ok(count)) if count == INTERIM.len() => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    // A socket that nobody wrote to takes these few bytes from anybody who reads.
                    Poll::Ready(Ok(_)) | Poll::Pending => {
                        return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                }
                if let Poll::Ready(Err(error)) =
                    Pin::new(self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?)
                        .poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }
}

impl<S> Drop for SniffedStream<S> {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take().filter(|_| self.waiting) else { return };
        let goaway = match &self.watched {
            Watched::Http2(frames) if self.is_flooded => frames.farewell(),
            Watched::Http1(_) | Watched::Http2(_) => None,
        };
        let is_flooded = self.is_flooded;
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Returned { stream, is_flooded, goaway });
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
        // A head that has just begun is waited for from now on.
        tap.poll_head(cx)?;
        if matches!(polled, Poll::Ready(Ok(())))
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
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
