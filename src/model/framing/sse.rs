//! Splits a stream of server-sent events into events, byte for byte (WHATWG HTML, section 9.2.6).

use std::borrow::Cow;

use memchr::memchr2;

use crate::model::ranges::part;

/// The default for the maximum length of one event in bytes.
pub const EVENT_BYTES_MAX: usize = 16 << 20;

/// The data of OpenAI's last event. Some servers also send it in other dialects. It is no JSON.
pub(in crate::model) const DONE: &[u8] = b"[DONE]";

/// The error for an event longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes ([limits] answer_event)")]
pub struct TooLong {
    /// The limit in bytes.
    pub(super) limit: usize,
}

/// Splits a stream after each blank line. The events together are exactly the bytes of the stream.
#[derive(Debug)]
pub struct Splitter {
    /// The maximum length of one event in bytes.
    limit: usize,
    /// The bytes of an incomplete event.
    held: Vec<u8>,
    /// The position of the search in these bytes.
    scan: LineScan,
}

/// The position of the search for line ends in the current bytes.
#[derive(Clone, Copy, Debug, Default)]
struct LineScan {
    /// The offset of the current line.
    line_start: usize,
    /// The offset of the next byte to search.
    at: usize,
}

impl LineScan {
    /// The offset after the next blank line. A carriage return at the very end waits for the next
    /// byte, because a line feed may belong to it.
    fn event_end(&mut self, bytes: &[u8]) -> Option<usize> {
        loop {
            let Some(found) = memchr2(b'\n', b'\r', bytes.get(self.at..)?) else {
                self.at = bytes.len();
                return None;
            };
            let place = self.at + found;
            let after = match (bytes.get(place), bytes.get(place + 1)) {
                (Some(b'\r'), Some(b'\n')) => place + 2,
                // The next byte determines whether the line ends with CR or CRLF.
                (Some(b'\r'), None) => {
                    self.at = place;
                    return None;
                }
                _ => place + 1,
            };
            let blank = place == self.line_start;
            (self.line_start, self.at) = (after, after);
            if blank {
                return Some(after);
            }
        }
    }
}

impl Default for Splitter {
    fn default() -> Self {
        Self::within(EVENT_BYTES_MAX)
    }
}

impl Splitter {
    /// A splitter for events of at most `limit` bytes.
    #[must_use]
    pub fn within(limit: usize) -> Self {
        Self { limit, held: Vec::new(), scan: LineScan::default() }
    }

    /// Takes the next bytes and calls `event` for each event that they complete, including its
    /// blank line.
    ///
    /// # Errors
    /// When an event is too long. The stream must end there.
    pub fn push(&mut self, bytes: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), TooLong> {
        // Without held bytes, the new bytes are searched in place and only the rest is copied.
        if self.held.is_empty() {
            let rest = each(&mut self.scan, bytes, self.limit, &mut event)?;
            self.held.extend_from_slice(part(bytes, rest..));
        } else {
            self.held.extend_from_slice(bytes);
            let rest = each(&mut self.scan, &self.held, self.limit, &mut event)?;
            self.held.drain(..rest);
        }
        // An event without an end must not fill the memory.
        if self.held.len() > self.limit { Err(TooLong { limit: self.limit }) } else { Ok(()) }
    }

    /// True if no incomplete event is held.
    #[must_use]
    pub const fn is_between_events(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes the rest at the end of the stream: an event without its blank line, or no bytes.
    #[must_use]
    pub fn rest(&mut self) -> Vec<u8> {
        self.scan = LineScan::default();
        std::mem::take(&mut self.held)
    }
}

/// Calls `event` for the complete events of `bytes`. Returns the offset of the rest, and makes
/// `scan` relative to it.
fn each(
    scan: &mut LineScan,
    bytes: &[u8],
    limit: usize,
    event: &mut impl FnMut(&[u8]),
) -> Result<usize, TooLong> {
    let mut from = 0;
    while let Some(end) = scan.event_end(bytes) {
        let whole = part(bytes, from..end);
        if whole.len() > limit {
            return Err(TooLong { limit });
        }
        event(whole);
        from = end;
    }
    scan.at -= from;
    scan.line_start -= from;
    Ok(from)
}

/// The lines of one event, parsed once.
#[derive(Debug)]
pub(in crate::model) struct EventLines<'e> {
    /// All bytes of the event.
    bytes: &'e [u8],
    /// The joined data lines. They are copied only if there are several.
    data: Option<Cow<'e, [u8]>>,
    /// The name of the event.
    name: Option<&'e str>,
    /// Whether all lines are plain.
    plain: bool,
}

impl<'e> EventLines<'e> {
    /// Parses the lines of an event.
    pub(in crate::model) fn read(bytes: &'e [u8]) -> Self {
        let mut lines = Self { bytes, data: None, name: None, plain: true };
        let mut rest = bytes;
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            // A CRLF gives an additional empty line here. Empty lines are ignored.
            lines.take(part(rest, ..end));
            rest = part(rest, end + 1..);
        }
        lines.take(rest);
        lines
    }

    /// Parses one line.
    fn take(&mut self, line: &'e [u8]) {
        if let Some(data) = line.strip_prefix(b"data:") {
            // One space after the colon is not part of the data (section 9.2.6).
            let data = data.strip_prefix(b" ").unwrap_or(data);
            match &mut self.data {
                None => self.data = Some(Cow::Borrowed(data)),
                Some(joined) => {
                    joined.to_mut().push(b'\n');
                    joined.to_mut().extend_from_slice(data);
                }
            }
            return;
        }
        if line.is_empty() {
            return;
        }
        if let Some(name) = line.strip_prefix(b"event:") {
            self.name = match std::str::from_utf8(name) {
                // One space after the colon is not part of the name (section 9.2.6). A second one
                // is, and then SDKs do not know the event.
                Ok(name) => Some(name.strip_prefix(' ').unwrap_or(name)),
                Err(_) => None,
            };
        }
        self.plain &= is_plain(line) || self.is_marked(line);
    }

    /// Whether it is the first line, with a byte order mark and a plain rest.
    fn is_marked(&self, line: &[u8]) -> bool {
        let Some(rest) = line.strip_prefix(b"\xef\xbb\xbf") else { return false };
        // The standard allows the mark only at the start of a stream, and some clients strip it
        // there.
        std::ptr::eq(line.as_ptr(), self.bytes.as_ptr())
            && (rest.is_empty() || rest.starts_with(b"data:") || is_plain(rest))
    }

    /// The bytes of the event.
    pub(in crate::model) const fn bytes(&self) -> &'e [u8] {
        self.bytes
    }

    /// The data of the event: its `data:` lines, joined by line feeds; `None` if it has none.
    pub(in crate::model) fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }

    /// The name of the event, from the last of its `event:` lines.
    pub(in crate::model) const fn name(&self) -> Option<&'e str> {
        self.name
    }

    /// Whether all clients interpret the lines of the event in the same manner. Such lines are
    /// fields of the standard and comments. All of them except the data are visible ASCII, because
    /// some clients also end lines at other characters.
    pub(in crate::model) const fn is_plain(&self) -> bool {
        self.plain
    }
}

/// The length of the first line, with its end. A CRLF is one end: half of it would be an empty line
/// of its own, which ends an event.
pub(in crate::model) fn line_length(bytes: &[u8]) -> usize {
    match memchr2(b'\n', b'\r', bytes) {
        Some(end) if part(bytes, end..).starts_with(b"\r\n") => end + 2,
        Some(end) => end + 1,
        None => bytes.len(),
    }
}

/// Whether a line without data is a field of the standard or a comment, in visible ASCII.
fn is_plain(line: &[u8]) -> bool {
    let fields: [&[u8]; 4] = [b"event:", b"id:", b"retry:", b":"];
    fields.iter().any(|field| line.starts_with(field))
        && line.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Appends an event whose data is replaced by `data`. Its other lines stay.
pub(in crate::model) fn with_data(event: &[u8], data: &[u8], out: &mut Vec<u8>) {
    let mut lines = data.split(|byte| matches!(byte, b'\n' | b'\r'));
    // Lines end at LF, CR or CRLF (section 9.2.6). The written lines end with LF only.
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if line.is_empty() {
            continue;
        }
        if !line.starts_with(b"data:") {
            out.extend_from_slice(line);
            out.push(b'\n');
            continue;
        }
        // The first data line is replaced by all new lines. Later data lines write none.
        for line in lines.by_ref() {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &str, expect: &[&str], rest: &str) {
        for size in [1, 2, 3, 7, stream.len().max(1)] {
            let (mut splitter, mut events) = (Splitter::default(), Vec::new());
            for bytes in stream.as_bytes().chunks(size) {
                splitter
                    .push(bytes, |event| events.push(String::from_utf8_lossy(event).into_owned()))
                    .expect("short events");
            }
            assert_eq!(events, expect, "in pieces of {size}");
            assert_eq!(splitter.rest(), rest.as_bytes(), "in pieces of {size}");
        }
    }

    #[test]
    fn cuts_behind_blank_lines() {
        check("data: 1\n\ndata: 2\n\n", &["data: 1\n\n", "data: 2\n\n"], "");
        check("a: 1\r\nb: 2\r\n\r\nc", &["a: 1\r\nb: 2\r\n\r\n"], "c");
        check("a\r\rb\n\n", &["a\r\r", "b\n\n"], "");
        check("data: 1\n", &[], "data: 1\n");
        check("\n: ping\n\n", &["\n", ": ping\n\n"], "");
    }

    #[test]
    fn events_are_bounded() {
        let limit = 1 << 20;
        let mut splitter = Splitter::within(limit);
        let piece = vec![b'x'; 1 << 18];
        let mut pushed = 0;
        while splitter.push(&piece, |_| ()).is_ok() {
            pushed += 1;
            assert!(pushed <= 4);
        }
        let mut whole = vec![b'x'; limit];
        whole.extend_from_slice(b"\n\n");
        assert_eq!(Splitter::within(limit).push(&whole, |_| ()), Err(TooLong { limit }));
        assert_eq!(Splitter::default().push(&whole, |_| ()), Ok(()));
    }

    #[test]
    fn lines_that_some_readers_take_for_others_are_not_plain() {
        for fine in [
            "data: {\"a\":\"\u{2028}\"}\n\n",
            "event: x\nid: 1\nretry: 5\r\ndata:1\r\n\r\n",
            ": ping\n\n",
            "\n",
        ] {
            assert!(EventLines::read(fine.as_bytes()).is_plain(), "{fine:?}");
        }
        for odd in [
            ": x\u{2028}data: 1\n\n",
            ": x\u{b}data: 1\n\n",
            " data: 1\n\n",
            "x: 1\n\n",
            "event: \u{85}data: 1\n\n",
            "data\n\n",
        ] {
            assert!(!EventLines::read(odd.as_bytes()).is_plain(), "{odd:?}");
        }
    }

    #[test]
    fn one_space_before_a_name_is_no_part_of_it() {
        let name = |event| EventLines::read(event).name();
        assert_eq!(name(b"event: a\nevent:b\ndata: 1\n\n"), Some("b"));
        assert_eq!(name(b"event: b\r\ndata: 1\r\n\r\n"), Some("b"));
        // SDKs compare the whole name, so they ignore these events.
        assert_eq!(name(b"event:  b\ndata: 1\n\n"), Some(" b"));
        assert_eq!(name(b"event: b \ndata: 1\n\n"), Some("b "));
        assert_eq!(name(b"event: \ndata: 1\n\n"), Some(""));
        assert_eq!(name(b"data: 1\n\n"), None);
    }

    #[test]
    fn data_lines_are_joined() {
        assert_eq!(EventLines::read(b"event: x\ndata: 1\n\n").data(), Some(&b"1"[..]));
        assert_eq!(EventLines::read(b"data:1\r\ndata:  2\r\n\r\n").data(), Some(&b"1\n 2"[..]));
        assert_eq!(EventLines::read(b": ping\n\n").data(), None);
    }
}
