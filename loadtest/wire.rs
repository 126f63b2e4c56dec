//! A small HTTP/1.1 for the load test. Its two ends must cost less than the proxies between them.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// The maximum of bytes of one read.
const CAPACITY: usize = 64 * 1024;

/// The form in which the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// A fixed number of bytes.
    Length(usize),
    /// Chunks. The last one is empty.
    Chunked,
}

/// The head of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The first line, such as `POST /v1/chat/completions HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(crate) first_line: String,
    framing: Framing,
}

/// One connection. It reads whole messages and writes bytes.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    /// A new connection.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; CAPACITY], start: 0, end: 0 })
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The head of the next message. `None` if the peer closed the connection between two messages.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let waiting = self.waiting();
            if let Some(length) = memchr::memmem::find(waiting, b"\r\n\r\n") {
                let head = read_head(&waiting[..length])?;
                self.start += length + 4;
                return Ok(Some(head));
            }
            let idle = waiting.is_empty();
            if self.fill().await? == 0 {
                return if idle { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// Reads the body that `head` announced, in pieces as they arrive.
    pub(crate) async fn body(
        &mut self,
        head: &Head,
        mut on_piece: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        match head.framing {
            Framing::Length(length) => self.pieces(length, &mut on_piece).await,
            Framing::Chunked => loop {
                let line = self.line().await?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let length =
                    usize::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a size"))?;
                if length == 0 {
                    while !self.line().await?.is_empty() {}
                    return Ok(());
                }
                self.pieces(length, &mut on_piece).await?;
                if !self.line().await?.is_empty() {
                    return Err(bad("a chunk longer than it said"));
                }
            },
        }
    }

    fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    async fn pieces(
        &mut self,
        mut left: usize,
        on_piece: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        while left > 0 {
            let here = left.min(self.waiting().len());
            if here == 0 {
                if self.fill().await? == 0 {
                    return Err(cut());
                }
                continue;
            }
            on_piece(&self.waiting()[..here]);
            self.start += here;
            left -= here;
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(length) = memchr::memmem::find(self.waiting(), b"\r\n") {
                let line = String::from_utf8_lossy(&self.waiting()[..length]).into_owned();
                self.start += length + 2;
                return Ok(line);
            }
            if self.fill().await? == 0 {
                return Err(cut());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            return Err(bad("a head or line of more than 64 KiB"));
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        Ok(count)
    }
}

fn read_head(bytes: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("a head that is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let mut framing = Framing::Length(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(bad("a header line without a colon"));
        };
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(
                value.trim().parse().map_err(|_| bad("a content-length that is no number"))?,
            );
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunked;
        }
    }
    Ok(Head { first_line, framing })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the middle of a message")
}
