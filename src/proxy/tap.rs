//! Watches the bytes of an HTTP/1 connection for `Content-Length` header lines.
//!
//! hyper follows RFC 9112 section 6.3: where `Transfer-Encoding` and `Content-Length` stand in one request it reads by the
//! former and forgets the latter, so that nobody behind it can see the disagreement any more. This gateway wants to refuse
//! such a request. The tap counts the lines that begin with `content-length` as the bytes come in; a request explains one by
//! showing the header, and a chunked request with an unexplained one was ambiguous.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LINE: &[u8; 15] = b"\ncontent-length";

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

/// A stream whose incoming bytes are watched.
pub struct Tap<S> {
    stream: S,
    matched: usize,
    unexplained: Unexplained,
}

impl<S> Tap<S> {
    /// Watches `stream`; the count is shared with the connection's requests.
    pub fn new(stream: S) -> (Self, Unexplained) {
        let unexplained = Unexplained::default();
        (Self { stream, matched: 0, unexplained: unexplained.clone() }, unexplained)
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

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watch(&buffer.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn count(reads: &[&[u8]], expect: u64) {
        let (mut tap, unexplained) = Tap::new(tokio::io::empty());
        for read in reads {
            tap.watch(read);
        }
        assert_eq!(unexplained.0.load(Ordering::Relaxed), expect);
    }

    #[test]
    fn lines_are_counted_however_they_are_split_and_written() {
        count(&[b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"], 1);
        count(&[b"GET / HTTP/1.1\r", b"\nCONTENT-", b"length", b": 3"], 1);
        count(&[b"\n\ncontent-length\ncontent-length"], 2);
        count(&[b"\r\nx-content-length: 3\r\n content-length: 3"], 0);
    }
}
