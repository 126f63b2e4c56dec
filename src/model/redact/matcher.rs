//! Finds words in text that comes in parts. It finds them as they are, and also with one more layer
//! of escapes.
//!
//! The automaton is that of Aho and Corasick ("Efficient string matching", 1975). It makes one step
//! for each byte, for any number of words. It is implemented here because a stream must know how
//! many bytes of a word its end could be. The usual libraries do not report that.

use std::collections::VecDeque;
use std::ops::Range;

use crate::model::ranges::part;

/// The minimum number of bytes of a word that are held back. Fewer bytes reveal no secret, and
/// holding them would delay ordinary text.
const HOLD_MIN: usize = 4;
/// Represents every character that no word contains.
const OTHER: u8 = 0xff;

/// One state: the prefix of a word that the last bytes form.
#[derive(Debug, Default)]
struct Node {
    /// The following states, by byte.
    next: Vec<(u8, u32)>,
    /// The state of the longest suffix that is also a prefix of a word.
    fail: u32,
    /// The length of the prefix in bytes.
    depth: usize,
    /// The length of the longest word that ends here; 0 for none.
    longest: usize,
    /// The length of the longest prefix here that more bytes can continue.
    open: usize,
}

/// The automaton for a set of words.
#[derive(Debug)]
pub(super) struct Matcher {
    /// The states. The first one is the root.
    nodes: Vec<Node>,
    /// The state after the root, by byte. It is faster than the list of a node.
    root: Box<[u32; 256]>,
}

impl Matcher {
    /// Builds the automaton for the words.
    pub(super) fn new<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> Self {
        let mut nodes = vec![Node::default()];
        for word in words {
            let mut state = 0;
            for byte in word {
                let known = child(&nodes, state, *byte);
                state = known.unwrap_or_else(|| {
                    let new = nodes.len();
                    let depth = node(&nodes, state).depth + 1;
                    nodes.push(Node { depth, ..Node::default() });
                    if let Some(parent) = nodes.get_mut(state) {
                        parent.next.push((*byte, new as u32));
                    }
                    new
                });
            }
            if let Some(end) = nodes.get_mut(state) {
                end.longest = end.depth;
            }
        }
        link(&mut nodes);
        let mut root = Box::new([0; 256]);
        for (byte, next) in &node(&nodes, 0).next {
            root[usize::from(*byte)] = *next;
        }
        Self { nodes, root }
    }

    /// Whether there are no words.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The state after a byte.
    fn step(&self, mut state: usize, byte: u8) -> usize {
        loop {
            if state == 0 {
                return self.root[usize::from(byte)] as usize;
            }
            if let Some(next) = child(&self.nodes, state, byte) {
                return next;
            }
            // The fail link leads to the longest suffix that is also a prefix of a word.
            state = node(&self.nodes, state).fail as usize;
        }
    }

    /// The offset of the next byte that could begin a word or an escape.
    fn begins(&self, text: &[u8]) -> usize {
        text.iter().position(|byte| self.may_begin(*byte)).unwrap_or(text.len())
    }

    /// Whether a byte could begin a word or an escape.
    fn may_begin(&self, byte: u8) -> bool {
        matches!(byte, b'%' | b'\\') || self.root[usize::from(byte)] != 0
    }
}

/// The state for an index out of range. It avoids a panic; no such index occurs.
static ROOT: Node = Node { next: Vec::new(), fail: 0, depth: 0, longest: 0, open: 0 };

/// The node of a state.
fn node(nodes: &[Node], state: usize) -> &Node {
    nodes.get(state).unwrap_or(&ROOT)
}

/// The state after a byte, without the fail links.
fn child(nodes: &[Node], state: usize, byte: u8) -> Option<usize> {
    for (own, next) in &node(nodes, state).next {
        if *own == byte {
            return Some(*next as usize);
        }
    }
    None
}

/// Sets the fail link of each state, breadth first, and the lengths that depend on it.
fn link(nodes: &mut [Node]) {
    let mut queue: VecDeque<usize> = VecDeque::from([0]);
    while let Some(state) = queue.pop_front() {
        for (byte, next) in node(nodes, state).next.clone() {
            let mut back = node(nodes, state).fail as usize;
            let fail = loop {
                if state == 0 {
                    break 0;
                }
                if let Some(found) = child(nodes, back, byte) {
                    break found;
                }
                if back == 0 {
                    break 0;
                }
                back = node(nodes, back).fail as usize;
            };
            // The fail link is shorter than the state, so its lengths are final already.
            let (longest, open) = (node(nodes, fail).longest, node(nodes, fail).open);
            if let Some(own) = nodes.get_mut(next as usize) {
                own.fail = fail as u32;
                own.longest = own.longest.max(longest);
                own.open = if own.next.is_empty() { open } else { own.depth };
            }
            queue.push_back(next as usize);
        }
    }
}

/// The search in one form of a text: plain or decoded.
#[derive(Clone, Debug, Default)]
struct View {
    /// The current state.
    state: usize,
    /// The offsets of the bytes that form the current prefix.
    starts: VecDeque<u64>,
}

/// Takes the next byte and reports a word that ends with it.
impl View {
    fn take(
        &mut self,
        matcher: &Matcher,
        byte: u8,
        place: &Range<u64>,
        found: &mut impl FnMut(Range<u64>),
    ) {
        self.state = matcher.step(self.state, byte);
        let state = node(&matcher.nodes, self.state);
        self.starts.push_back(place.start);
        // Only the offsets of the current prefix are kept, so the memory is bounded by the words.
        while self.starts.len() > state.depth {
            self.starts.pop_front();
        }
        // Only the longest word is reported. The shorter ones that end here are inside it.
        if state.longest > 0
            && let Some(start) = self.starts.get(state.depth - state.longest)
        {
            found(*start..place.end);
        }
    }

    /// The offset where a word may have begun, if at least `least` bytes of it have come.
    fn open(&self, matcher: &Matcher, least: usize) -> Option<u64> {
        let state = node(&matcher.nodes, self.state);
        if state.open < least { None } else { self.starts.get(state.depth - state.open).copied() }
    }
}

/// The search in one text. Offsets are counted in bytes of the text as written, from its beginning.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    /// The search in the text as written.
    plain: View,
    /// The search in the text with one more layer of escapes decoded.
    escaped: View,
    /// The bytes of an incomplete escape, each with its range.
    escape: Vec<(u8, Range<u64>)>,
    /// The number of bytes so far.
    at: u64,
}

impl Track {
    /// The number of bytes that have come.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// True if no earlier byte can be part of a later word.
    pub(super) fn is_idle(&self) -> bool {
        self.plain.state == 0 && self.escaped.state == 0 && self.escape.is_empty()
    }

    /// The offset where a word may have begun that the next part continues.
    pub(super) fn open(&self, matcher: &Matcher, least: usize) -> Option<u64> {
        let least = least.max(HOLD_MIN);
        self.plain.open(matcher, least).into_iter().chain(self.escaped.open(matcher, least)).min()
    }

    /// Takes the next part and reports the ranges of words. `json` is true if the part is the
    /// content of a JSON string.
    pub(super) fn push(
        &mut self,
        matcher: &Matcher,
        text: &[u8],
        json: bool,
        found: &mut impl FnMut(Range<u64>),
    ) {
        let begin = self.at;
        let mut at = 0;
        while at < text.len() {
            // Most text cannot begin a word, so it is skipped without steps of the automaton.
            if self.is_idle() {
                at += matcher.begins(part(text, at..));
            }
            let Some(byte) = text.get(at).copied() else { break };
            let (read, length) =
                if json && byte == b'\\' { unescaped(part(text, at..)) } else { (byte, 1) };
            let place = begin + at as u64..begin + (at + length) as u64;
            self.plain.take(matcher, read, &place, found);
            self.decoded(matcher, read, place, found);
            at += length;
        }
        self.at = begin + text.len() as u64;
    }

    /// Decodes one more layer: percent-encoding, and backslashes of JSON inside a text.
    fn decoded(
        &mut self,
        matcher: &Matcher,
        byte: u8,
        place: Range<u64>,
        found: &mut impl FnMut(Range<u64>),
    ) {
        if self.escape.is_empty() && !matches!(byte, b'%' | b'\\') {
            return self.escaped.take(matcher, byte, &place, found);
        }
        // JSON may be nested several times in a text. So several backslashes in a row count as one.
        if let ([(b'\\', run)], b'\\') = (self.escape.as_mut_slice(), byte) {
            run.end = place.end;
            return;
        }
        self.escape.push((byte, place));
        let bytes: Vec<u8> = self.escape.iter().map(|(byte, _)| *byte).collect();
        let whole = match bytes.as_slice() {
            [b'%', digits @ ..] | [b'\\', b'u', digits @ ..] if ends_with_no_digit(digits) => None,
            [b'%', digits @ ..] => Some((digits.len() == 2).then(|| code(digits))),
            [b'\\', b'u', digits @ ..] => Some((digits.len() == 4).then(|| code(digits))),
            [b'\\'] => Some(None),
            [b'\\', other, ..] => Some(Some(*other)),
            _ => None,
        };
        match whole {
            Some(None) => {}
            Some(Some(read)) => {
                let escape = std::mem::take(&mut self.escape);
                if let (Some((_, first)), Some((_, last))) = (escape.first(), escape.last()) {
                    self.escaped.take(matcher, read, &(first.start..last.end), found);
                }
            }
            // It was no escape. Its bytes are literal, and the last one may begin another escape.
            None => {
                let mut escape = std::mem::take(&mut self.escape);
                let last = escape.pop();
                for (byte, place) in escape {
                    self.escaped.take(matcher, byte, &place, found);
                }
                if let Some((byte, place)) = last {
                    self.decoded(matcher, byte, place, found);
                }
            }
        }
    }
}

/// Whether the last of the digits of an escape is no hexadecimal digit.
fn ends_with_no_digit(digits: &[u8]) -> bool {
    match digits.last() {
        Some(last) => !last.is_ascii_hexdigit(),
        None => false,
    }
}

/// The character for hexadecimal digits, if it is ASCII.
fn code(digits: &[u8]) -> u8 {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    match u8::from_str_radix(text, 16) {
        Ok(code) if code.is_ascii() => code,
        // It is no ASCII character, or beyond one byte.
        Ok(_) | Err(_) => OTHER,
    }
}

/// The character for a JSON escape (RFC 8259, section 7), if it is ASCII, and the length of the
/// escape.
fn unescaped(text: &[u8]) -> (u8, usize) {
    match text.get(1) {
        // Secrets and addresses are ASCII, so other characters end a match.
        Some(b'u') => match text.get(2..6) {
            Some(digits) => (code(digits), 6),
            None => (OTHER, text.len().min(6)),
        },
        Some(b'n') => (b'\n', 2),
        Some(b'r') => (b'\r', 2),
        Some(b't') => (b'\t', 2),
        Some(b'b') => (0x08, 2),
        Some(b'f') => (0x0c, 2),
        Some(other) => (*other, 2),
        None => (b'\\', 1),
    }
}
