//! Lines of JSON (NDJSON). The filters of answers read server-sent events. So each line passes them
//! as the data of one event, and is a line again afterwards.

use memchr::{memchr, memrchr};

use super::sse::{EventLines, Splitter, TooLong};
use crate::model::ranges::part;

/// Splits a stream at line feeds.
#[derive(Debug)]
pub(in crate::model) struct LineSplitter {
    /// The maximum length of one line in bytes.
    limit: usize,
    /// The bytes of an incomplete line.
    held: Vec<u8>,
}

impl LineSplitter {
    /// A splitter for lines of at most `limit` bytes.
    pub(in crate::model) const fn within(limit: usize) -> Self {
        Self { limit, held: Vec::new() }
    }

    /// Takes the next bytes. Returns the complete lines as events.
    ///
    /// # Errors
    /// When a line is too long. The stream must end there.
    pub(in crate::model) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, TooLong> {
        let Some(end) = memrchr(b'\n', bytes) else {
            self.held.extend_from_slice(bytes);
            return if self.held.len() > self.limit {
                Err(self.too_long())
            } else {
                Ok(Vec::new())
            };
        };
        let mut lines = std::mem::take(&mut self.held);
        lines.extend_from_slice(part(bytes, ..end));
        self.held.extend_from_slice(part(bytes, end + 1..));
        if self.held.len() > self.limit {
            return Err(self.too_long());
        }
        Ok(as_events(&lines))
    }

    /// The fault of a line that is too long.
    const fn too_long(&self) -> TooLong {
        TooLong { limit: self.limit }
    }

    /// The last line as an event, if it has no line feed.
    pub(in crate::model) fn rest(&mut self) -> Vec<u8> {
        as_events(&std::mem::take(&mut self.held))
    }
}

/// Writes lines as events. Empty lines are left out. A carriage return inside a line ends a line of
/// the event, so that the event is refused.
pub(in crate::model) fn as_events(lines: &[u8]) -> Vec<u8> {
    let mut events = Vec::with_capacity(lines.len() + 8);
    let mut rest = lines;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = part(rest, ..end).trim_ascii();
        if !line.is_empty() {
            events.extend_from_slice(b"data: ");
            events.extend_from_slice(line);
            events.extend_from_slice(b"\n\n");
        }
        rest = part(rest, end + 1..);
    }
    events
}

/// Appends the data of whole events as lines. Comments and names have no form in lines.
pub(in crate::model) fn append_lines(events: &[u8], out: &mut Vec<u8>) {
    let mut splitter = Splitter::within(usize::MAX);
    // No event is too long: the filters have read each one before.
    let split = splitter.push(events, |event| append_line(event, out));
    if split.is_ok() {
        append_line(&splitter.rest(), out);
    }
}

/// Appends the data of one event as a line.
fn append_line(event: &[u8], out: &mut Vec<u8>) {
    let lines = EventLines::read(event);
    let Some(mut rest) = lines.data() else { return };
    loop {
        // Some clients also end lines at these characters. In JSON they are only inside strings,
        // where an escape has the same meaning.
        rest = match rest {
            [] => break,
            [0xc2, 0x85, after @ ..] => escaped(b"\\u0085", after, out),
            [0xe2, 0x80, 0xa8, after @ ..] => escaped(b"\\u2028", after, out),
            [0xe2, 0x80, 0xa9, after @ ..] => escaped(b"\\u2029", after, out),
            // White space between two values. A text has no raw line feed (RFC 8259, section 7).
            [b'\n', after @ ..] => escaped(b" ", after, out),
            [byte, after @ ..] => {
                out.push(*byte);
                after
            }
        };
    }
    out.push(b'\n');
}

/// Appends an escape. Returns the bytes after it.
fn escaped<'d>(escape: &[u8], after: &'d [u8], out: &mut Vec<u8>) -> &'d [u8] {
    out.extend_from_slice(escape);
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_events_and_lines_again() {
        let stream = "{\"a\":1}\n\n{\"b\":\"\u{2028}\"}\r\n{\"c\":3}";
        for size in 1..=stream.len() {
            let (mut splitter, mut events) = (LineSplitter::within(1 << 20), Vec::new());
            for bytes in stream.as_bytes().chunks(size) {
                events.extend(splitter.push(bytes).expect("short lines"));
            }
            events.extend(splitter.rest());
            let mut lines = Vec::new();
            append_lines(&events, &mut lines);
            let lines = String::from_utf8(lines).expect("UTF-8");
            assert_eq!(lines, "{\"a\":1}\n{\"b\":\"\\u2028\"}\n{\"c\":3}\n", "in pieces of {size}");
        }
    }

    #[test]
    fn a_carriage_return_inside_a_line_gives_no_plain_event() {
        let events = as_events(b"{\"a\":1}\r{\"b\":2}\n");
        assert!(!EventLines::read(&events).is_plain());
    }

    #[test]
    fn comments_are_left_out() {
        let mut lines = Vec::new();
        append_lines(b"data: {}\n\n: note\n\ndata: []\n\n", &mut lines);
        assert_eq!(lines, b"{}\n[]\n");
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let (mut splitter, mut pushed) = (LineSplitter::within(1 << 20), 0);
        while splitter.push(&[b'x'; 1 << 18]).is_ok() {
            pushed += 1;
            assert!(pushed <= 4);
        }
    }
}
