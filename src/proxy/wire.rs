//! A connection to an upstream below the HTTP client. It records whether the last byte of a request
//! was sent, and whether bytes arrived without a request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::lock::locked;
use crate::proxy::connect::{UpstreamStream, acknowledged};

/// Bytes of a body that every receive buffer has room for, after a head.
const BODY_SMALL: u64 = 32 << 10;

/// The end of a request's head (RFC 9112 section 2.1).
const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// The progress of writing the current request of a connection.
#[derive(Default)]
pub struct RequestProgress(Mutex<WireState>);

/// The part of [`RequestProgress`] under its lock.
#[derive(Default)]
struct WireState {
    /// The number of consecutive bytes of [`HEAD_END`] that were written last.
    head_end: usize,
    /// Bytes of the body that are not written yet.
    body_left: u64,
    /// True after the first byte of the request was written.
    began: bool,
    /// True if an earlier request was written on this connection.
    kept: bool,
    /// True if no byte may be written any more.
    closed: bool,
    /// True if the limit on unacknowledged bytes is off.
    patient: bool,
}

impl WireState {
    /// Whether the whole request was written.
    const fn whole(&self) -> bool {
        self.head_end == HEAD_END.len() && self.body_left == 0
    }

    /// Follows written bytes: first the head up to its end, then the body.
    fn wrote(&mut self, bytes: &[u8]) {
        self.began |= !bytes.is_empty();
        let mut rest = bytes;
        while self.head_end < HEAD_END.len()
            && let Some((&byte, after)) = rest.split_first()
        {
            self.head_end = match byte {
                byte if HEAD_END.get(self.head_end) == Some(&byte) => self.head_end + 1,
                // A carriage return after a partial match can begin the real end of the head.
                b'\r' => 1,
                _ => 0,
            };
            rest = after;
        }
        self.body_left = self.body_left.saturating_sub(rest.len() as u64);
    }
}

impl RequestProgress {
    fn lock(&self) -> MutexGuard<'_, WireState> {
        locked(&self.0)
    }

    /// Starts a request with a body of `body` bytes.
    pub fn begin(&self, body: u64) {
        let mut state = self.lock();
        let (kept, closed, patient) = (state.kept || state.began, state.closed, state.patient);
        *state = WireState { body_left: body, kept, closed, patient, ..WireState::default() };
    }

    /// Prevents further writes. True if the last byte of the request may have been sent: the server
    /// may have run it.
    pub fn abandon(&self) -> bool {
        let mut state = self.lock();
        state.closed = true;
        state.whole()
    }
}

/// A connection whose written bytes are followed.
pub struct Wire {
    stream: UpstreamStream,
    line: Arc<RequestProgress>,
}

impl Wire {
    /// Wraps `stream`.
    #[must_use]
    pub fn new(stream: UpstreamStream) -> (Self, Arc<RequestProgress>) {
        let line = Arc::<RequestProgress>::default();
        (Self { stream, line: Arc::clone(&line) }, line)
    }

    /// Sets the limit on unacknowledged bytes for the current request.
    ///
    /// Linux ends a connection after TCP_USER_TIMEOUT also if the peer is alive and announces a
    /// full buffer (tcp(7)). A busy server that reads a large body late is such a peer. A small
    /// body fits into every receive buffer. So only a vanished peer leaves it unacknowledged.
    fn limit(&self, state: &mut WireState) {
        let patient = state.body_left > BODY_SMALL;
        if patient == state.patient {
            return;
        }
        let set = match &self.stream {
            UpstreamStream::Tcp(stream) => acknowledged(stream, !patient),
            UpstreamStream::Tls(stream) => acknowledged(stream.get_ref().0, !patient),
            UpstreamStream::Unix(_) | UpstreamStream::InProcess(_) => Ok(()),
        };
        match set {
            Ok(()) => state.patient = patient,
            Err(error) => tracing::debug!(%error, "a TCP option could not be set"),
        }
    }

    /// Writes bytes, unless the connection is closed or stale.
    ///
    /// # Errors
    /// `ConnectionAborted` if the server has already ended the connection.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
        write: impl FnOnce(Pin<&mut UpstreamStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.line.lock();
        // Checked directly before the first byte. The server may have closed an idle connection
        // just now.
        if !state.began && !state.closed {
            state.closed = stale(&self.stream, state.kept);
            self.limit(&mut state);
        }
        if state.closed {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server had ended the connection",
            )));
        }
        let written = ready!(write(Pin::new(&mut self.stream), cx));
        let mut left = match &written {
            Ok(count) => *count,
            // A TLS client may have sent a part even if the write failed. Then all bytes count as
            // sent, so that the request is not repeated.
            Err(_) if matches!(self.stream, UpstreamStream::Tls(_)) => usize::MAX,
            Err(_) => 0,
        };
        for slice in slices {
            let count = slice.len().min(left);
            let (sent, _) = slice.split_at(count);
            state.wrote(sent);
            left -= count;
        }
        Poll::Ready(written)
    }
}

/// True if a request must not be written: the server has ended the connection, or has sent bytes
/// without a request. Such bytes could be taken for the answer. Over TLS, bytes before the first
/// request are permitted (session tickets).
fn stale(stream: &UpstreamStream, kept: bool) -> bool {
    let (fd, tls): (BorrowedFd<'_>, bool) = match stream {
        UpstreamStream::Tcp(stream) => (stream.as_fd(), false),
        UpstreamStream::Tls(stream) => (stream.get_ref().0.as_fd(), true),
        UpstreamStream::Unix(stream) => (stream.as_fd(), false),
        // The server is this process. It sends only answers, and does not close a connection first.
        UpstreamStream::InProcess(_) => return false,
    };
    // Peeked without waiting: the bytes stay for the HTTP client.
    match recv(fd, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => true,
        Ok(_) => kept || !tls,
        Err(error) => error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR,
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send(cx, &[io::IoSlice::new(bytes)], |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(cx, slices, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Checks whether the request may have run after these pieces were written, with a body of
    /// `body` bytes.
    #[track_caller]
    fn check(body: u64, pieces: &[&[u8]], whole: bool) {
        let line = RequestProgress::default();
        line.begin(body);
        pieces.iter().for_each(|piece| line.lock().wrote(piece));
        assert_eq!(line.abandon(), whole, "{pieces:?}");
    }

    #[test]
    fn the_last_byte_of_a_request_is_known() {
        let head: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\n\r\n";
        check(0, &[], false);
        check(0, &[b"GET / HTTP/1.1\r\nhost: a\r\n"], false);
        check(0, &[b"GET / HTTP/1.1\r\nhost: a\r\n", b"\r", b"\n"], true);
        check(4, &[head], false);
        check(4, &[head, b"bod"], false);
        check(4, &[head, b"bod", b"y"], true);
        check(4, &[b"POST / HTTP/1.1\r\nhost: a\r\n\r\nbody"], true);
        check(8, &[head, b"\r\n\r\n\r\n"], false);
        check(4, &[b"a\r\r\n\r\n\r\nbod"], true);
    }

    /// A connection to a server, and the server's side of it.
    async fn connected() -> (Wire, Arc<RequestProgress>, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().expect("address"))
            .await
            .expect("connects");
        let (wire, line) = Wire::new(UpstreamStream::Tcp(dialled));
        (wire, line, listener.accept().await.expect("accepts").0)
    }

    #[tokio::test]
    async fn what_came_unasked_or_the_end_keeps_a_request_from_being_written() {
        for stray in [&b"HTTP/1.1 200 OK\r\n"[..], b""] {
            let (mut wire, line, mut server) = connected().await;
            line.begin(0);
            wire.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("the first request is written");
            server.read_exact(&mut [0; 18]).await.expect("it comes");
            server.write_all(stray).await.expect("bytes");
            if stray.is_empty() {
                drop(server);
            }
            // The test does not read: the bytes stay in the kernel, as when they arrive between two
            // requests.
            let UpstreamStream::Tcp(stream) = &wire.stream else { unreachable!("a TCP stream") };
            stream.readable().await.expect("readable");
            line.begin(0);
            let written = wire.write(b"GET / HTTP/1.1\r\n\r\n").await;
            assert_eq!(
                written.map_err(|error| error.kind()),
                Err(io::ErrorKind::ConnectionAborted)
            );
            assert!(!line.abandon(), "it surely did not run");
        }
    }

    #[test]
    fn nothing_is_written_after_a_request_was_given_up() {
        let line = RequestProgress::default();
        line.begin(1);
        assert!(!line.abandon());
        line.begin(1);
        assert!(line.lock().closed);
    }
}
