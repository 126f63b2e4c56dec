//! Finds the heads of an HTTP/1 connection's requests, and the framing that each one shows (RFC
//! 9112 section 6).
//!
//! hyper follows RFC 9112 section 6.3. If a request has both `Transfer-Encoding` and
//! `Content-Length`, hyper uses the former and removes the latter, so no later code can see the
//! conflict. This gateway refuses such a request.
//!
//! The tracker follows the framing of each message: a head, then a body with a length or in chunks,
//! then the next head. It parses only heads, and keeps the framing of each head in order, for the
//! request that hyper makes of it.
//!
//! If the tracker meets input that hyper rejects, it stops following and reports that. A chunked
//! request whose head it did not see is refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::locked;

/// Bytes of a line that are kept: enough for the names that matter, and for a length of any
/// accepted size.
const LINE_MAX: usize = 64;

/// The framing that one head shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// The head had a `Content-Length` line.
    pub length: bool,
    /// The head had a `Transfer-Encoding` line.
    pub chunked: bool,
}

/// The framings of heads whose requests were not served yet, oldest first. The connection and the
/// service share it.
#[derive(Clone, Default)]
pub struct Framings(Arc<Mutex<VecDeque<Framing>>>);

impl Framings {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Framing>> {
        locked(&self.0)
    }

    /// The framing of the next request; none if its head was not seen.
    #[must_use]
    pub fn next(&self) -> Option<Framing> {
        self.lock().pop_front()
    }
}

/// The position of the next byte in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessagePosition {
    /// Before or in a request line. `begun` is true after a byte of it, or of an empty line before
    /// it (section 2.2).
    Start { begun: bool },
    /// In a header line.
    Header,
    /// In a body, with the number of bytes before its end.
    Body(u64),
    /// In a chunked body (section 7.1).
    Chunks(Chunk),
    /// Unknown: the input was one that hyper also rejects.
    Lost,
}

/// The position of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the hexadecimal size; none before its first digit.
    Size(Option<u64>),
    /// After the size: blanks or an extension.
    Extension(u64),
    /// At the line feed after the size.
    SizeEnd(u64),
    /// In the data, with the number of bytes before its end.
    Data(u64),
    /// At the carriage return after the data.
    DataReturn,
    /// At the line feed after the data.
    DataEnd,
    /// At the first byte of a trailer line, or of the last line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// At the line feed of a trailer line.
    TrailerEnd,
    /// At the line feed of the last line.
    Last,
}

/// Follows the messages of one connection, in constant memory.
pub struct Heads {
    at: MessagePosition,
    /// The beginning of the current line.
    line: [u8; LINE_MAX],
    /// Length of the line so far. More than [`LINE_MAX`] if its end was not kept.
    line_len: usize,
    /// The framing of the current head so far.
    head: Framing,
    /// The value of its `Content-Length`.
    length: u64,
    framings: Framings,
}

impl Heads {
    /// The state at the beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        let (head, framings) = (Framing::default(), Framings::default());
        Self {
            at: MessagePosition::Start { begun: false },
            line: [0; LINE_MAX],
            line_len: 0,
            head,
            length: 0,
            framings,
        }
    }

    /// The framings of the heads, for the service of the connection.
    #[must_use]
    pub fn framings(&self) -> Framings {
        self.framings.clone()
    }

    /// True while a head has begun and not ended.
    #[must_use]
    pub const fn is_in_head(&self) -> bool {
        matches!(self.at, MessagePosition::Start { begun: true } | MessagePosition::Header)
    }

    /// True if all bytes so far were complete requests.
    #[must_use]
    pub const fn is_between_requests(&self) -> bool {
        matches!(self.at, MessagePosition::Start { begun: false })
    }

    /// Follows `bytes`, the next bytes of the connection.
    pub fn came(&mut self, mut bytes: &[u8]) {
        while let [first, after @ ..] = bytes {
            bytes = match self.at {
                MessagePosition::Lost => return,
                MessagePosition::Start { .. } | MessagePosition::Header => self.in_head(bytes),
                MessagePosition::Body(left) => {
                    let taken = shorter(left, bytes.len());
                    self.at = message(left - taken as u64, MessagePosition::Body);
                    &bytes[taken..]
                }
                MessagePosition::Chunks(Chunk::Data(left)) => {
                    let taken = shorter(left, bytes.len());
                    let left = left - taken as u64;
                    self.at = MessagePosition::Chunks(if left == 0 {
                        Chunk::DataReturn
                    } else {
                        Chunk::Data(left)
                    });
                    &bytes[taken..]
                }
                MessagePosition::Chunks(chunk) => {
                    self.at = chunked(chunk, *first);
                    after
                }
            };
        }
    }

    /// Takes the bytes up to the end of the line. Returns the rest.
    fn in_head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        // A lone line feed ends a line for hyper, so it does here (RFC 9112 section 2.2).
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if let Some(room) = self.line.get_mut(self.line_len..) {
            let kept = room.len().min(part.len());
            room[..kept].copy_from_slice(&part[..kept]);
        }
        // The full length counts, also when only a part is kept: a cut length must not be parsed.
        self.line_len = self.line_len.saturating_add(part.len());
        if self.at == (MessagePosition::Start { begun: false }) {
            self.at = MessagePosition::Start { begun: true };
        }
        if end.is_some() {
            self.ends_line();
            return &rest[1..];
        }
        rest
    }

    /// Evaluates a complete line of a head.
    fn ends_line(&mut self) {
        let kept = &self.line[..self.line_len.min(LINE_MAX)];
        let whole = self.line_len <= LINE_MAX;
        let empty = kept.is_empty() || kept == b"\r";
        self.line_len = 0;
        match self.at {
            // Empty lines before a request line are ignored (RFC 9112 section 2.2).
            MessagePosition::Start { .. } if empty => {}
            MessagePosition::Start { .. } => {
                (self.head, self.length) = (Framing::default(), 0);
                self.at = MessagePosition::Header;
            }
            MessagePosition::Header if empty => {
                self.framings.lock().push_back(self.head);
                // As hyper does: with both headers, the chunks decide the end of the body.
                self.at = if self.head.chunked {
                    MessagePosition::Chunks(Chunk::Size(None))
                } else {
                    message(self.length, MessagePosition::Body)
                };
            }
            MessagePosition::Header => {
                let Some(colon) = memchr::memchr(b':', kept) else { return };
                let (name, value) = (&kept[..colon], &kept[colon + 1..]);
                if name.eq_ignore_ascii_case(b"transfer-encoding") {
                    self.head.chunked = true;
                } else if name.eq_ignore_ascii_case(b"content-length") {
                    // Two lengths are accepted only if they are equal (RFC 9112 section 6.3). Any
                    // other value is an error in hyper too.
                    let length = if whole { number(value.trim_ascii()) } else { None };
                    match length.filter(|length| !self.head.length || self.length == *length) {
                        Some(length) => self.length = length,
                        None => self.at = MessagePosition::Lost,
                    }
                    self.head.length = true;
                }
            }
            MessagePosition::Body(_) | MessagePosition::Chunks(_) | MessagePosition::Lost => {}
        }
    }
}

impl Default for Heads {
    fn default() -> Self {
        Self::new()
    }
}

/// The position in a message with `left` more bytes, or after its end.
fn message(left: u64, within: fn(u64) -> MessagePosition) -> MessagePosition {
    if left == 0 { MessagePosition::Start { begun: false } } else { within(left) }
}

/// The smaller one of the bytes that are left of a message and of the bytes that are here.
fn shorter(left: u64, here: usize) -> usize {
    match usize::try_from(left) {
        Ok(left) => left.min(here),
        Err(_) => here,
    }
}

/// Parses a decimal number that has only digits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The size of a chunk after one more hexadecimal digit; none if it overflows.
fn with_digit(size: Option<u64>, digit: u32) -> Option<u64> {
    let size = size.unwrap_or(0);
    size.checked_mul(16)?.checked_add(u64::from(digit))
}

/// The position after `byte`. It follows the state machine of hyper's decoder.
fn chunked(chunk: Chunk, byte: u8) -> MessagePosition {
    let digit = char::from(byte).to_digit(16);
    MessagePosition::Chunks(match (chunk, byte) {
        (Chunk::Size(size), _) if let Some(digit) = digit => {
            let Some(size) = with_digit(size, digit) else {
                // An overflowing size must not wrap: the tracker and hyper would disagree about the
                // end.
                return MessagePosition::Lost;
            };
            Chunk::Size(Some(size))
        }
        (Chunk::Size(Some(size)), b' ' | b'\t' | b';') => Chunk::Extension(size),
        (Chunk::Size(Some(size)) | Chunk::Extension(size), b'\r') => Chunk::SizeEnd(size),
        (Chunk::Extension(size), byte) if byte != b'\n' => Chunk::Extension(size),
        (Chunk::SizeEnd(0), b'\n') => Chunk::TrailerStart,
        (Chunk::SizeEnd(size), b'\n') => Chunk::Data(size),
        (Chunk::DataReturn, b'\r') => Chunk::DataEnd,
        (Chunk::DataEnd, b'\n') => Chunk::Size(None),
        (Chunk::TrailerStart, b'\r') => Chunk::Last,
        (Chunk::TrailerStart, _) => Chunk::Trailer,
        (Chunk::Trailer, b'\r') => Chunk::TrailerEnd,
        (Chunk::Trailer, _) => Chunk::Trailer,
        (Chunk::TrailerEnd, b'\n') => Chunk::TrailerStart,
        (Chunk::Last, b'\n') => return MessagePosition::Start { begun: false },
        _ => return MessagePosition::Lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Framing = Framing { length: true, chunked: false };
    const CHUNKED: Framing = Framing { length: false, chunked: true };
    const BOTH: Framing = Framing { length: true, chunked: true };
    const NEITHER: Framing = Framing { length: false, chunked: false };

    /// Compares the framings of `stream`, sent in pieces of every size.
    #[track_caller]
    fn check(stream: &str, expect: &[Framing]) -> Heads {
        let mut last = Heads::new();
        for piece in 1..=stream.len() {
            let mut heads = Heads::new();
            for bytes in stream.as_bytes().chunks(piece) {
                heads.came(bytes);
            }
            let framings = heads.framings();
            let found: Vec<Framing> = std::iter::from_fn(|| framings.next()).collect();
            assert_eq!(found, expect, "in pieces of {piece}: {stream:?}");
            last = heads;
        }
        last
    }

    #[test]
    fn heads_show_their_framing() {
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", &[LENGTH]);
        check("POST / HTTP/1.1\nCONTENT-LENGTH:3\n\nabc", &[LENGTH]);
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            &[BOTH],
        );
        check("GET / HTTP/1.1\r\nx-content-length: 3\r\n\r\n", &[NEITHER]);
        check("\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", &[NEITHER, NEITHER]);
    }

    #[test]
    fn bodies_are_no_heads() {
        let body = "\r\ncontent-length: 1\r\n\r\n";
        let first = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let second = format!(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x};a=b\r\n{body}\r\n0\r\nx: \
                y\r\n\r\n",
            body.len()
        );
        let third = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n11\r\nContent-Length: \
            1\r\n0\r\n\r\n";
        let heads =
            check(&format!("{first}{second}{third}{first}"), &[LENGTH, CHUNKED, CHUNKED, LENGTH]);
        assert!(heads.is_between_requests());
    }

    #[test]
    fn what_hyper_does_not_read_is_not_followed() {
        let next = "GET / HTTP/1.1\r\n\r\n";
        for (head, body) in [
            ("transfer-encoding: chunked", "x\r\n\r\n"),
            ("transfer-encoding: chunked", "1\nx\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked", "1\r\nxy\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked", "fffffffffffffffff\r\n"),
        ] {
            check(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n{body}{next}"), &[CHUNKED]);
        }
        for length in ["-1", "+1", "1, 1", "", "99999999999999999999", &format!("{:0>80}", 1)] {
            check(&format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{next}"), &[]);
        }
        check(
            &format!("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{next}"),
            &[],
        );
    }

    #[test]
    fn a_head_begins_with_its_first_byte() {
        let mut heads = Heads::new();
        for (bytes, begun) in [
            ("", false),
            ("\r", true),
            ("\nG", true),
            ("ET / HTTP/1.1\r\nhost: x\r\n", true),
            ("\r\n", false),
        ] {
            heads.came(bytes.as_bytes());
            assert_eq!(heads.is_in_head(), begun, "{bytes:?}");
        }
    }
}
