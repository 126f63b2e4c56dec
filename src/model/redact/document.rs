//! Finds the strings of a JSON document, each with its member and container.

use std::ops::Range;

use memchr::memchr2;

use crate::model::ranges::part;

/// One string of a document.
pub(super) struct JsonString<'j> {
    /// The name of the member with this string. If the string is itself a name, it is that name.
    name: &'j [u8],
    /// The index of its container.
    within: usize,
    /// Whether it is a member's name.
    pub(super) is_name: bool,
    /// The offsets of its content, without the quotes.
    pub(super) from: usize,
    /// The offset after its content.
    pub(super) to: usize,
}

/// An object or array.
struct Container<'j> {
    /// The index of the container around it.
    parent: usize,
    /// True for an object, false for an array.
    object: bool,
    /// The name of the member with this container.
    name: &'j [u8],
    /// The value of its member `index` or `output_index`.
    index: Option<u64>,
    /// The value of its member `content_index` or `summary_index`.
    part: Option<u64>,
}

/// The strings of a document. Invalid JSON gives no error here; it is read as far as possible.
pub(super) struct Document<'j> {
    /// The bytes of the document.
    pub(super) json: &'j [u8],
    /// The strings, in order.
    pub(super) texts: Vec<JsonString<'j>>,
    /// The containers. The first one represents the document itself.
    containers: Vec<Container<'j>>,
    /// The ranges of the values of members `logprobs`.
    pub(super) logprobs: Vec<(usize, usize)>,
    /// Whether the document marks itself as an error.
    pub(super) is_error: bool,
    /// The type of an event of the Responses dialect. Clients join the deltas of one type.
    kind: &'j [u8],
}

/// The state of the scan at the current byte.
struct DocumentReader<'j> {
    /// The document so far.
    document: Document<'j>,
    /// The current container, and the current member in it.
    within: usize,
    /// The name of the current member.
    name: &'j [u8],
    /// True if a member's name comes next.
    before_name: bool,
    /// The number of open containers.
    depth: usize,
    /// The open member `logprobs`: the offset of its value, and its depth.
    logprobs: Option<(usize, usize)>,
}

impl<'j> Document<'j> {
    /// Scans a document once, without recursion.
    pub(super) fn read(json: &'j [u8]) -> Self {
        let top = Container { parent: 0, object: false, name: b"", index: None, part: None };
        let document = Self {
            json,
            texts: Vec::new(),
            containers: vec![top],
            logprobs: Vec::new(),
            is_error: false,
            kind: b"",
        };
        let mut reader = DocumentReader {
            document,
            within: 0,
            name: b"",
            before_name: false,
            depth: 0,
            logprobs: None,
        };
        let mut at = 0;
        while let Some(byte) = json.get(at) {
            at = reader.byte(*byte, at);
        }
        reader.document
    }

    /// Calls `visit` for each range of at least `least` consecutive bytes outside of strings:
    /// numbers, words, punctuation.
    pub(super) fn between(&self, least: usize, mut visit: impl FnMut(Range<usize>)) {
        let mut begin = 0;
        for text in &self.texts {
            let range = begin..text.from - 1;
            if range.len() >= least {
                visit(range);
            }
            begin = text.to + 1;
        }
        let rest = begin..self.json.len();
        if rest.len() >= least {
            visit(rest);
        }
    }

    /// The key of the text that a string belongs to. Clients join the parts of one text by the
    /// indexes of choice, call or block, and by the name of the member.
    pub(super) fn channel(&self, text: &JsonString<'_>, into: &mut Vec<u8>) {
        into.clear();
        let mut within = text.within;
        while within > 0
            && let Some(container) = self.containers.get(within)
        {
            for index in [container.index, container.part].into_iter().flatten() {
                into.extend_from_slice(&index.to_be_bytes());
            }
            within = container.parent;
        }
        into.extend_from_slice(self.kind);
        into.extend_from_slice(text.name);
    }
}

impl<'j> DocumentReader<'j> {
    /// Handles a byte, or the string or number that begins with it. Returns the offset after it.
    fn byte(&mut self, byte: u8, at: usize) -> usize {
        match byte {
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(at),
            b',' => {
                self.end_of_value(at);
                self.before_name = self.is_object();
            }
            b':' if self.before_name => {
                self.before_name = false;
                if self.name == b"logprobs" && self.logprobs.is_none() {
                    self.logprobs = Some((at + 1, self.depth));
                }
                // A null member reports no error.
                let value = part(self.document.json, at + 1..).trim_ascii_start();
                self.document.is_error |=
                    self.depth == 1 && self.name == b"error" && !value.starts_with(b"null");
            }
            b'"' => return self.string(at),
            b'0'..=b'9' if is_index(self.name) && !self.before_name && self.is_object() => {
                return self.number(at);
            }
            _ => {}
        }
        at + 1
    }

    /// Whether the current container is an object.
    fn is_object(&self) -> bool {
        match self.document.containers.get(self.within) {
            Some(container) => container.object,
            None => false,
        }
    }

    /// Opens an object or array.
    fn open(&mut self, object: bool) {
        let container =
            Container { parent: self.within, object, name: self.name, index: None, part: None };
        self.within = self.document.containers.len();
        self.document.containers.push(container);
        self.before_name = object;
        self.depth += 1;
    }

    /// Closes the current object or array.
    fn close(&mut self, at: usize) {
        self.end_of_value(at);
        if let Some(container) = self.document.containers.get(self.within) {
            // The next items of an array belong to the array's own member.
            self.name = container.name;
            self.within = container.parent;
        }
        self.before_name = false;
        self.depth = self.depth.saturating_sub(1);
    }

    /// Ends the open member `logprobs` if the current value is its value.
    fn end_of_value(&mut self, at: usize) {
        if let Some((from, _)) = self.logprobs.filter(|(_, depth)| *depth == self.depth) {
            self.document.logprobs.push((from, at));
            self.logprobs = None;
        }
    }

    /// Records the string at `at`. Returns the offset after it.
    fn string(&mut self, at: usize) -> usize {
        let json = self.document.json;
        let (from, to) = (at + 1, end(json, at + 1));
        let inside = part(json, from..to);
        let is_name = self.before_name;
        if is_name {
            self.name = inside;
        }
        let says_error = matches!(self.name, b"type" | b"object") && inside == b"error";
        self.document.is_error |= self.depth == 1 && says_error && !is_name;
        if self.depth == 1 && self.name == b"type" && !is_name && inside.starts_with(b"response.") {
            self.document.kind = inside;
        }
        self.document.texts.push(JsonString {
            name: self.name,
            within: self.within,
            is_name,
            from,
            to,
        });
        to + 1
    }

    /// Records the number at `at` as the container's index. Returns the offset after it.
    fn number(&mut self, at: usize) -> usize {
        let rest = part(self.document.json, at..);
        let index = number_of(part(rest, ..count_while(rest, u8::is_ascii_digit)));
        if let Some(container) = self.document.containers.get_mut(self.within) {
            // Only the first index counts, so that a second one cannot move a text to another
            // channel.
            let known = match is_part_index(self.name) {
                true => &mut container.part,
                false => &mut container.index,
            };
            *known = known.or(index);
        }
        // Skips the fraction too. Otherwise each of its digits would start a scan of the rest.
        at + count_while(rest, is_in_number)
    }
}

/// Whether a member has the index of its object. In the Responses dialect it is that of the item.
fn is_index(name: &[u8]) -> bool {
    matches!(name, b"index" | b"output_index") || is_part_index(name)
}

/// Whether a member has the index of a part of an item in the Responses dialect.
fn is_part_index(name: &[u8]) -> bool {
    matches!(name, b"content_index" | b"summary_index")
}

/// The number of bytes at the beginning for which `holds` is true.
fn count_while(bytes: &[u8], holds: fn(&u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| holds(byte)).count()
}

/// Whether a byte may occur in a JSON number (RFC 8259, section 6).
fn is_in_number(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')
}

/// The number that digits form; `None` beyond 64 bits.
fn number_of(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The offset of the quote that ends the string whose content begins at `from`.
fn end(json: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = part(json, at..);
        match memchr2(b'"', b'\\', rest) {
            Some(found) if rest.get(found) == Some(&b'"') => return at + found,
            Some(found) => at += found + 2,
            None => return json.len(),
        }
    }
}
