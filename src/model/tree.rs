//! One JSON document, parsed once and without loss: every value with its range, in the order of the
//! bytes.
//!
//! All parts that inspect an event of a stream use this tree: usage and progress, the text filters,
//! and the joining of tool calls. The parser itself refuses no document, because answers need not
//! be strict (Python writes `NaN` among log probabilities). Of a broken object or array, it keeps
//! the members that it could read, and marks it as broken. [`JsonTree::strict`] returns an error if
//! the document has any such value.

mod strict;
mod view;

use std::borrow::Cow;

use memchr::memchr2;

use crate::json::{self, Limits, Value};

use super::ranges::part;
use super::raw_json;
use super::unreadable::Unreadable;
use super::values::Values;

pub(super) use view::JsonView;

/// The maximum nesting depth that is parsed. A deeper value stays one value. All users of the tree
/// have a lower limit.
const LEVELS_MAX: usize = 80;
/// The maximum numbers of values and of decoded bytes for which an empty tree keeps its memory for
/// the next event.
const KEPT_VALUES: usize = 64;
const KEPT_BYTES: usize = 4_096;

/// A range of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct ByteSpan {
    /// The offset of the first byte.
    from: u32,
    /// The offset after the last byte.
    to: u32,
}

impl ByteSpan {
    /// A range; `None` beyond 4 GiB.
    fn new(from: usize, to: usize) -> Option<Self> {
        Some(Self { from: u32::try_from(from).ok()?, to: u32::try_from(to).ok()? })
    }

    /// The bytes of the range.
    fn of(self, bytes: &[u8]) -> &[u8] {
        part(bytes, self.from as usize..self.to as usize)
    }
}

/// The structure of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    /// An object.
    Object,
    /// An array.
    Array,
    /// A string without escapes.
    Plain,
    /// A string with escapes, decoded.
    Decoded,
    /// A string with an invalid escape.
    Undecodable,
    /// A number, a word, or other bytes.
    Scalar,
    /// An object or array deeper than [`LEVELS_MAX`].
    Deep,
}

/// One value.
#[derive(Clone, Copy, Debug)]
struct TreeNode {
    /// The structure.
    kind: NodeKind,
    /// True if the bytes after the last kept member or item cannot be separated into values.
    broken: bool,
    /// The name as written, without quotes.
    name: ByteSpan,
    /// The bytes of the value.
    value: ByteSpan,
    /// The text of a decoded string, in [`TreeMemory::decoded`].
    text: ByteSpan,
    /// The index of the next value that is no part of this one.
    next: u32,
}

/// The index of a value in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueId(u32);

/// The memory of a tree. The tree of the next event uses it again.
#[derive(Debug, Default)]
pub(super) struct TreeMemory {
    /// The values, in the order of their bytes.
    nodes: Vec<TreeNode>,
    /// The texts of decoded strings, one after the other.
    decoded: String,
}

/// A parsed document.
#[derive(Debug)]
pub(super) struct JsonTree<'j> {
    /// The bytes of the document.
    json: &'j [u8],
    /// The same bytes as text, if they are UTF-8.
    text: Option<&'j str>,
    /// True if any byte is a control character. Such a character in a string is invalid JSON.
    has_controls: bool,
    /// The offset after the outermost value.
    end: usize,
    /// The values.
    memory: TreeMemory,
}

impl<'j> JsonTree<'j> {
    /// Parses a document without white space around it.
    pub(super) fn read(json: &'j [u8], memory: TreeMemory) -> Self {
        let mut reader = TreeReader { json, memory };
        reader.memory.nodes.clear();
        reader.memory.decoded.clear();
        let end = reader.root();
        Self {
            json,
            // UTF-8 and control characters are checked once for all bytes. Most strings then need
            // no check.
            text: std::str::from_utf8(json).ok(),
            has_controls: json.iter().fold(false, |any, byte| any | (*byte < b' ')),
            end,
            memory: reader.memory,
        }
    }

    /// Returns the memory, unless it is large.
    pub(super) fn into_memory(self) -> TreeMemory {
        let TreeMemory { nodes, decoded } = self.memory;
        TreeMemory {
            nodes: if nodes.capacity() <= KEPT_VALUES { nodes } else { Vec::new() },
            decoded: if decoded.capacity() <= KEPT_BYTES { decoded } else { String::new() },
        }
    }

    /// All bytes of the document.
    pub(super) const fn json(&self) -> &'j [u8] {
        self.json
    }

    /// The outermost value.
    pub(super) const fn root(&self) -> ValueId {
        ValueId(0)
    }

    /// The member with that name as written, in an object that is not broken. If there are several,
    /// it is the last one, as in most parsers.
    pub(super) fn member(&self, object: ValueId, name: &[u8]) -> Option<ValueId> {
        let mut found = None;
        self.members(object, |own, value| {
            if own == name {
                found = Some(value);
            }
        })?;
        found
    }

    /// The node of a value.
    fn node(&self, at: ValueId) -> Option<&TreeNode> {
        self.memory.nodes.get(at.0 as usize)
    }

    /// The members or items of a value.
    fn children(&self, at: ValueId) -> Children<'_> {
        let end = match self.node(at) {
            Some(node) => node.next,
            None => 0,
        };
        Children { nodes: &self.memory.nodes, at: at.0 + 1, end }
    }

    /// The text of a string; `None` for other values and for invalid strings.
    fn string(&self, at: ValueId) -> Option<&str> {
        let node = self.node(at)?;
        match node.kind {
            NodeKind::Plain => {
                let text =
                    self.text?.get(node.value.from as usize + 1..node.value.to as usize - 1)?;
                let sound = !self.has_controls || text.bytes().all(|byte| byte >= b' ');
                sound.then_some(text)
            }
            NodeKind::Decoded => {
                self.memory.decoded.get(node.text.from as usize..node.text.to as usize)
            }
            NodeKind::Object
            | NodeKind::Array
            | NodeKind::Undecodable
            | NodeKind::Scalar
            | NodeKind::Deep => None,
        }
    }
}

/// An iterator over the members or items of a value.
struct Children<'t> {
    /// The values of the tree.
    nodes: &'t [TreeNode],
    /// The index of the next value.
    at: u32,
    /// The index after the last value.
    end: u32,
}

impl<'t> Iterator for Children<'t> {
    type Item = (ValueId, &'t TreeNode);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let node = self.nodes.get(self.at as usize)?;
        let at = ValueId(self.at);
        // The nodes are in the order of the bytes. So the next sibling comes after all parts of
        // this value.
        self.at = node.next;
        Some((at, node))
    }
}

impl<'j> Values<'j> for JsonTree<'j> {
    type Value = ValueId;

    fn raw(&self, value: ValueId) -> &'j [u8] {
        match self.node(value) {
            Some(node) => node.value.of(self.json),
            None => &[],
        }
    }

    fn members(&self, object: ValueId, mut visit: impl FnMut(&'j [u8], ValueId)) -> Option<usize> {
        let node = self.node(object)?;
        if node.kind != NodeKind::Object {
            return None;
        }
        for (at, child) in self.children(object) {
            visit(child.name.of(self.json), at);
        }
        match (node.broken, object) {
            (true, _) => None,
            // The range of the outermost value is the whole document, also with bytes after its
            // end.
            (false, ValueId(0)) => Some(self.end),
            (false, ValueId(_)) => Some(node.value.of(self.json).len()),
        }
    }

    fn items(&self, array: ValueId, mut visit: impl FnMut(ValueId)) -> Option<()> {
        let node = self.node(array)?;
        if node.kind != NodeKind::Array {
            return None;
        }
        for (at, _) in self.children(array) {
            visit(at);
        }
        if node.broken { None } else { Some(()) }
    }

    fn text(&self, string: ValueId) -> Result<Cow<'_, str>, Unreadable> {
        match self.string(string) {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => Err(Unreadable::Json),
        }
    }

    fn is_utf8(&self) -> bool {
        self.text.is_some()
    }
}

/// Parses a document into nodes.
struct TreeReader<'j> {
    /// The bytes of the document.
    json: &'j [u8],
    /// The values so far.
    memory: TreeMemory,
}

impl TreeReader<'_> {
    /// Parses the outermost value. Returns the offset after it.
    fn root(&mut self) -> usize {
        let length = self.json.len();
        let kind = match self.json.first() {
            Some(b'{') => NodeKind::Object,
            Some(b'[') => NodeKind::Array,
            Some(b'"') => {
                if self.value(0, ByteSpan::default(), 0) == Some(length) {
                    return length;
                }
                self.memory.nodes.clear();
                NodeKind::Scalar
            }
            Some(_) | None => NodeKind::Scalar,
        };
        // The outermost value keeps its node even if it is broken, so that its members can be read.
        let whole = ByteSpan::new(0, length).unwrap_or_default();
        self.push(kind, ByteSpan::default(), whole);
        let end = match kind {
            NodeKind::Object => self.members(0, 0),
            NodeKind::Array => self.items(0, 0),
            NodeKind::Plain
            | NodeKind::Decoded
            | NodeKind::Undecodable
            | NodeKind::Scalar
            | NodeKind::Deep => Some(length),
        };
        self.close(0, end.is_none());
        end.unwrap_or(length)
    }

    /// Adds a node without parts.
    fn push(&mut self, kind: NodeKind, name: ByteSpan, value: ByteSpan) {
        let next = self.memory.nodes.len() as u32 + 1;
        self.memory.nodes.push(TreeNode {
            kind,
            broken: false,
            name,
            value,
            text: ByteSpan::default(),
            next,
        });
    }

    /// Ends the value at that index. All its parts have been added.
    fn close(&mut self, place: usize, broken: bool) {
        let next = self.memory.nodes.len() as u32;
        if let Some(node) = self.memory.nodes.get_mut(place) {
            (node.next, node.broken) = (next, broken);
        }
    }

    /// Parses the value at `at`. Returns the offset after it; `None` if it has no end. Then no node
    /// of it is kept.
    fn value(&mut self, at: usize, name: ByteSpan, level: usize) -> Option<usize> {
        match *self.json.get(at)? {
            b'"' => self.string(at, name),
            b'{' if level < LEVELS_MAX => self.nested(at, name, level, NodeKind::Object),
            b'[' if level < LEVELS_MAX => self.nested(at, name, level, NodeKind::Array),
            // Numbers, words, and values that are too deep are kept as raw bytes.
            first => {
                let end = raw_json::value(self.json, at)?;
                let kind =
                    if matches!(first, b'{' | b'[') { NodeKind::Deep } else { NodeKind::Scalar };
                self.push(kind, name, ByteSpan::new(at, end)?);
                Some(end)
            }
        }
    }

    /// Parses an object or array inside another one.
    fn nested(&mut self, at: usize, name: ByteSpan, level: usize, kind: NodeKind) -> Option<usize> {
        let place = self.memory.nodes.len();
        self.push(kind, name, ByteSpan::default());
        let read =
            if kind == NodeKind::Object { self.members(at, level) } else { self.items(at, level) };
        // If only the brackets determine the end, the members read so far are kept.
        let end = read.or_else(|| raw_json::value(self.json, at));
        let Some(value) = end.and_then(|end| ByteSpan::new(at, end)) else {
            self.memory.nodes.truncate(place);
            return None;
        };
        if let Some(node) = self.memory.nodes.get_mut(place) {
            node.value = value;
        }
        self.close(place, read.is_none());
        end
    }

    /// Parses a string. Escapes are decoded into [`TreeMemory::decoded`].
    fn string(&mut self, at: usize, name: ByteSpan) -> Option<usize> {
        let first = at + 1 + memchr2(b'"', b'\\', self.json.get(at + 1..)?)?;
        // Most strings have no escape. Their text is not copied.
        if *self.json.get(first)? == b'"' {
            self.push(NodeKind::Plain, name, ByteSpan::new(at, first + 1)?);
            return Some(first + 1);
        }
        let end = raw_json::string(self.json, at)?;
        let value = ByteSpan::new(at, end)?;
        let from = self.memory.decoded.len();
        let kind = match json::parse(value.of(self.json), &Limits::deep(1)) {
            Ok(Value::String(text)) => {
                self.memory.decoded.push_str(&text);
                NodeKind::Decoded
            }
            Ok(_) | Err(_) => NodeKind::Undecodable,
        };
        let text = ByteSpan::new(from, self.memory.decoded.len())?;
        self.push(kind, name, value);
        if let Some(node) = self.memory.nodes.last_mut() {
            node.text = text;
        }
        Some(end)
    }

    /// Parses the members of the object that opens at `at`. Returns the offset after it.
    fn members(&mut self, at: usize, level: usize) -> Option<usize> {
        let mut at = raw_json::space(self.json, at + 1);
        if *self.json.get(at)? == b'}' {
            return Some(at + 1);
        }
        loop {
            if *self.json.get(at)? != b'"' {
                return None;
            }
            let name_end = raw_json::string(self.json, at)?;
            let name = ByteSpan::new(at + 1, name_end - 1)?;
            at = raw_json::space(self.json, name_end);
            if *self.json.get(at)? != b':' {
                return None;
            }
            at = raw_json::space(self.json, at + 1);
            at = self.value(at, name, level + 1)?;
            at = raw_json::space(self.json, at);
            match *self.json.get(at)? {
                b',' => at = raw_json::space(self.json, at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// Parses the items of the array that opens at `at`. Returns the offset after it.
    fn items(&mut self, at: usize, level: usize) -> Option<usize> {
        let mut at = raw_json::space(self.json, at + 1);
        if *self.json.get(at)? == b']' {
            return Some(at + 1);
        }
        loop {
            at = self.value(at, ByteSpan::default(), level + 1)?;
            at = raw_json::space(self.json, at);
            match *self.json.get(at)? {
                b',' => at = raw_json::space(self.json, at + 1),
                b']' => return Some(at + 1),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
