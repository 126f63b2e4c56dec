//! The parts of links, images and definitions: destinations, titles and labels (CommonMark 0.31,
//! sections 4.7 and 6.3).

use std::ops::Range;

/// The longest label in bytes. CommonMark allows 999 characters.
const LABEL_MAX: usize = 999 * 4;

/// The result of a search for a part of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookahead<T> {
    /// The part.
    Found(T),
    /// The part is not there.
    Absent,
    /// The text ends too early for an answer.
    Ended,
}

/// The destination of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkDestination {
    /// Its bytes, without angle brackets.
    pub(super) range: Range<usize>,
    /// The position after it.
    pub(super) end: usize,
}

/// The position after the white space at `at`.
pub(super) fn after_spaces(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// Whether a backslash may escape a byte.
pub(super) fn is_escapable(byte: Option<&u8>) -> bool {
    matches!(byte, Some(byte) if byte.is_ascii_punctuation())
}

/// The destination at `at`. At the end of the text, more of it may follow.
pub(super) fn destination(text: &[u8], at: usize) -> Lookahead<LinkDestination> {
    if text.get(at) == Some(&b'<') {
        return bracketed(text, at);
    }
    let (mut end, mut depth) = (at, 0_usize);
    loop {
        match text.get(end) {
            None => return Lookahead::Ended,
            Some(b'\\') if is_escapable(text.get(end + 1)) => end += 1,
            Some(b'(') => depth += 1,
            Some(b')') if depth > 0 => depth -= 1,
            Some(b')') => break,
            Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) if end == at || depth > 0 => {
                return Lookahead::Absent;
            }
            Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => break,
            Some(_) => {}
        }
        end += 1;
    }
    Lookahead::Found(LinkDestination { range: at..end, end })
}

/// A destination in angle brackets.
fn bracketed(text: &[u8], at: usize) -> Lookahead<LinkDestination> {
    let mut end = at + 1;
    loop {
        match text.get(end) {
            None => return Lookahead::Ended,
            Some(b'>') => {
                let found = LinkDestination { range: at + 1..end, end: end + 1 };
                return Lookahead::Found(found);
            }
            Some(b'<' | b'\n') => return Lookahead::Absent,
            Some(b'\\') if is_escapable(text.get(end + 1)) => end += 2,
            Some(_) => end += 1,
        }
    }
}

/// The position after the title at `at`.
pub(super) fn title(text: &[u8], at: usize) -> Lookahead<usize> {
    let close = match text.get(at) {
        None => return Lookahead::Ended,
        Some(quote @ (b'"' | b'\'')) => *quote,
        Some(b'(') => b')',
        Some(_) => return Lookahead::Absent,
    };
    let mut end = at + 1;
    loop {
        match text.get(end) {
            None => return Lookahead::Ended,
            Some(b'\\') if is_escapable(text.get(end + 1)) => end += 1,
            Some(byte) if *byte == close => return Lookahead::Found(end + 1),
            Some(b'(') if close == b')' => return Lookahead::Absent,
            Some(_) => {}
        }
        end += 1;
    }
}

/// The position after the label at `at`, which has brackets.
pub(super) fn label(text: &[u8], at: usize) -> Lookahead<usize> {
    match text.get(at) {
        None => return Lookahead::Ended,
        Some(b'[') => {}
        Some(_) => return Lookahead::Absent,
    }
    let mut end = at + 1;
    // A longer label has no effect in any renderer.
    while end - at <= LABEL_MAX {
        match text.get(end) {
            None => return Lookahead::Ended,
            Some(b'\\') if is_escapable(text.get(end + 1)) => end += 1,
            Some(b'[') => return Lookahead::Absent,
            Some(b']') => return Lookahead::Found(end + 1),
            Some(_) => {}
        }
        end += 1;
    }
    Lookahead::Absent
}

/// A label in the form in which labels are compared.
pub(super) fn normalized(label: &str) -> String {
    let words: Vec<&str> = label.split_whitespace().collect();
    words.join(" ").to_lowercase().to_uppercase()
}

/// A link reference definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkDefinition {
    /// The label, without its brackets.
    pub(super) label: Range<usize>,
    /// The destination.
    pub(super) destination: Range<usize>,
    /// The position after its last line.
    pub(super) end: usize,
}

/// The definition at `at`. The end of the text is the end of its paragraph.
pub(super) fn definition(text: &[u8], at: usize) -> Lookahead<LinkDefinition> {
    let close = match label(text, at) {
        Lookahead::Found(close) => close,
        Lookahead::Absent => return Lookahead::Absent,
        Lookahead::Ended => return Lookahead::Ended,
    };
    match text.get(close) {
        None => return Lookahead::Ended,
        Some(b':') => {}
        Some(_) => return Lookahead::Absent,
    }
    let start = after_spaces(text, close + 1);
    let found = match destination(text, start) {
        Lookahead::Found(found) => found,
        Lookahead::Absent => return Lookahead::Absent,
        Lookahead::Ended if matches!(text.get(start), None | Some(b'<')) => {
            return Lookahead::Ended;
        }
        Lookahead::Ended => LinkDestination { range: start..text.len(), end: text.len() },
    };
    // White space must separate a title from the destination.
    let titled = after_spaces(text, found.end);
    let mut end = None;
    if titled > found.end
        && let Lookahead::Found(after) = title(text, titled)
    {
        end = line_end(text, after);
    }
    // A title that is not valid is text of the next line.
    match end.or(line_end(text, found.end)) {
        Some(end) => {
            let label = at + 1..close - 1;
            Lookahead::Found(LinkDefinition { label, destination: found.range, end })
        }
        None => Lookahead::Absent,
    }
}

/// The position after the line, if only white space follows in it.
fn line_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(spaces) {
        None => Some(at + spaces),
        Some(b'\n') => Some(at + spaces + 1),
        Some(_) => None,
    }
}

/// Whether a paragraph consists of definitions.
pub(super) fn are_definitions(text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        let Lookahead::Found(found) = definition(text, at) else { return false };
        at = found.end;
    }
    true
}
