//! Finds words in text that comes in pieces, as they are and behind one more layer of escapes.
//!
//! The automaton is that of Aho and Corasick ("Efficient string matching", 1975): one step for each byte, whatever the words are. It is
//! written here because a stream needs to know how much of a word its end could be, which the usual libraries do not tell.

use std::collections::VecDeque;
use std::ops::Range;

/// How much of a word must have come before it is held back. Fewer bytes are no secret, and hold up no ordinary text.
const HOLD_MIN: usize = 4;
/// Stands for every character that no word has.
const OTHER: u8 = 0xff;

/// One state: what the last bytes could become.
#[derive(Debug, Default)]
struct Node {
    next: Vec<(u8, u32)>,
    fail: u32,
    /// Bytes of words that stand for this state.
    depth: usize,
    /// The longest word that ends here; 0 for none.
    longest: usize,
    /// Bytes of the longest word that can still go on from here.
    open: usize,
}

/// Words that are looked for.
#[derive(Debug)]
pub(super) struct Matcher {
    nodes: Vec<Node>,
    root: Box<[u32; 256]>,
}

impl Matcher {
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
        for (byte, next) in &nodes.first().map_or_else(Vec::new, |root| root.next.clone()) {
            root[usize::from(*byte)] = *next;
        }
        Self { nodes, root }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    fn step(&self, mut state: usize, byte: u8) -> usize {
        loop {
            if state == 0 {
                return self.root[usize::from(byte)] as usize;
            }
            if let Some(next) = child(&self.nodes, state, byte) {
                return next;
            }
            state = node(&self.nodes, state).fail as usize;
        }
    }

    /// Where the next byte stands that a word could begin with, or an escape.
    fn begins(&self, text: &[u8]) -> usize {
        let begins =
            |byte: &u8| matches!(*byte, b'%' | b'\\') || self.root[usize::from(*byte)] != 0;
        text.iter().position(begins).unwrap_or(text.len())
    }
}

static ROOT: Node = Node { next: Vec::new(), fail: 0, depth: 0, longest: 0, open: 0 };

fn node(nodes: &[Node], state: usize) -> &Node {
    nodes.get(state).unwrap_or(&ROOT)
}

fn child(nodes: &[Node], state: usize, byte: u8) -> Option<usize> {
    node(nodes, state).next.iter().find(|(own, _)| *own == byte).map(|(_, next)| *next as usize)
}

/// Sets where each state goes on when a byte does not fit, breadth first, and what follows from that.
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

/// One reading of a text.
#[derive(Clone, Debug, Default)]
struct View {
    state: usize,
    /// Where each byte begins that the state stands for.
    starts: VecDeque<u64>,
}

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
        while self.starts.len() > state.depth {
            self.starts.pop_front();
        }
        if state.longest > 0
            && let Some(start) = self.starts.get(state.depth - state.longest)
        {
            found(*start..place.end);
        }
    }

    /// Where a word may have begun, of which at least `least` bytes have come.
    fn open(&self, matcher: &Matcher, least: usize) -> Option<u64> {
        let state = node(&matcher.nodes, self.state);
        if state.open < least { None } else { self.starts.get(state.depth - state.open).copied() }
    }
}

/// The search through one text. Places are counted in bytes of the text as it is written, from its beginning.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    plain: View,
    escaped: View,
    /// The bytes of an escape that is not whole, and where each stands.
    escape: Vec<(u8, Range<u64>)>,
    at: u64,
}

impl Track {
    /// How much has come.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// True when nothing that has come matters for what follows.
    pub(super) fn is_idle(&self) -> bool {
        self.plain.state == 0 && self.escaped.state == 0 && self.escape.is_empty()
    }

    /// Where a word may have begun that goes on in the next piece.
    pub(super) fn open(&self, matcher: &Matcher, least: usize) -> Option<u64> {
        let least = least.max(HOLD_MIN);
        self.plain.open(matcher, least).into_iter().chain(self.escaped.open(matcher, least)).min()
    }

    /// Takes the next piece and says where words were found. `json` says that the piece is the inside of a JSON string.
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
            if self.is_idle() {
                at += matcher.begins(text.get(at..).unwrap_or_default());
            }
            let Some(byte) = text.get(at).copied() else { break };
            let (read, length) = if json && byte == b'\\' {
                unescaped(text.get(at..).unwrap_or_default())
            } else {
                (byte, 1)
            };
            let place = begin + at as u64..begin + (at + length) as u64;
            self.plain.take(matcher, read, &place, found);
            self.decoded(matcher, read, place, found);
            at += length;
        }
        self.at = begin + text.len() as u64;
    }

    /// One more layer: percent-encoding, and backslashes within JSON that is text itself.
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
        // JSON within JSON within a text: a run of backslashes is one.
        if let ([(b'\\', run)], b'\\') = (self.escape.as_mut_slice(), byte) {
            run.end = place.end;
            return;
        }
        self.escape.push((byte, place));
        let bytes: Vec<u8> = self.escape.iter().map(|(byte, _)| *byte).collect();
        let whole = match bytes.as_slice() {
            [b'%', rest @ ..] | [b'\\', b'u', rest @ ..]
                if rest.last().is_some_and(|last| !last.is_ascii_hexdigit()) =>
            {
                None
            }
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
                if let Some(((_, first), (_, last))) = escape.first().zip(escape.last()) {
                    self.escaped.take(matcher, read, &(first.start..last.end), found);
                }
            }
            // It was none: what has come is what it is, and its last byte may begin another.
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

/// What hexadecimal digits stand for, where that is ASCII.
fn code(digits: &[u8]) -> u8 {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u32::from_str_radix(text, 16)
        .ok()
        .and_then(|code| u8::try_from(code).ok())
        .filter(u8::is_ascii)
        .unwrap_or(OTHER)
}

/// The character that an escape of JSON stands for (RFC 8259 section 7), where that is ASCII, and the escape's length.
fn unescaped(text: &[u8]) -> (u8, usize) {
    match text.get(1) {
        Some(b'u') => (text.get(2..6).map_or(OTHER, code), text.len().min(6)),
        Some(b'n') => (b'\n', 2),
        Some(b'r') => (b'\r', 2),
        Some(b't') => (b'\t', 2),
        Some(b'b') => (0x08, 2),
        Some(b'f') => (0x0c, 2),
        Some(other) => (*other, 2),
        None => (b'\\', 1),
    }
}
