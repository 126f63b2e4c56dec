//! One JSON document, read once and without loss: every value with its place, in the order of the bytes.
//!
//! All who look into an event of a stream share this reading: usage and progress, the filter of texts, the assembly of tool calls. The
//! reading itself refuses nothing, because answers need not be strict (Python prints `NaN` among log probabilities). It keeps what
//! could be read of an object or array that is broken, and says that it is; [`JsonTree::strict`] asks for a document without any such
//! place.

mod strict;
mod view;

use std::borrow::Cow;

use memchr::memchr2;

use crate::json::{self, Limits, Value};

use super::raw_json;
use super::unreadable::Unreadable;
use super::values::Values;

pub(super) use view::JsonView;

/// Levels of nesting that are read. What is nested deeper stays one value. All who look into a document look less deep.
const LEVELS_MAX: usize = 80;
/// Values and bytes of decoded text for which an empty tree keeps its memory between two events.
const KEPT_VALUES: usize = 64;
const KEPT_BYTES: usize = 4_096;

/// A range of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct ByteSpan {
    from: u32,
    to: u32,
}

impl ByteSpan {
    /// A range; `None` beyond 4 GiB.
    fn new(from: usize, to: usize) -> Option<Self> {
        Some(Self { from: u32::try_from(from).ok()?, to: u32::try_from(to).ok()? })
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// What a value is, as far as its structure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    Object,
    Array,
    /// A string without escapes.
    Plain,
    /// A string with escapes, decoded.
    Decoded,
    /// A string with an escape that is none.
    Undecodable,
    /// A number, a word, or anything else.
    Scalar,
    /// An object or array deeper than [`LEVELS_MAX`].
    Deep,
}

/// One value.
#[derive(Clone, Copy, Debug)]
struct TreeNode {
    kind: NodeKind,
    /// The members or items after the last one that was kept cannot be told apart.
    broken: bool,
    /// The name as it is written, without quotes.
    name: ByteSpan,
    value: ByteSpan,
    /// The text of a decoded string, in [`TreeMemory::decoded`].
    text: ByteSpan,
    /// The place of the next value that is no part of this one.
    next: u32,
}

/// A value of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueId(u32);

/// The memory of a tree, which the next event's tree uses again.
#[derive(Debug, Default)]
pub(super) struct TreeMemory {
    nodes: Vec<TreeNode>,
    decoded: String,
}

/// A document that was read.
#[derive(Debug)]
pub(super) struct JsonTree<'j> {
    json: &'j [u8],
    /// The same bytes, where they are UTF-8.
    text: Option<&'j str>,
    /// Some byte is a control character: one in a string is not JSON.
    has_controls: bool,
    /// Where the outermost value ends.
    end: usize,
    memory: TreeMemory,
}

impl<'j> JsonTree<'j> {
    /// Reads a document, without white space around it.
    pub(super) fn read(json: &'j [u8], memory: TreeMemory) -> Self {
        let mut reader = TreeReader { json, memory };
        reader.memory.nodes.clear();
        reader.memory.decoded.clear();
        let end = reader.root();
        Self {
            json,
            text: std::str::from_utf8(json).ok(),
            has_controls: json.iter().fold(false, |any, byte| any | (*byte < b' ')),
            end,
            memory: reader.memory,
        }
    }

    /// Gives the memory back, where it is not large.
    pub(super) fn into_memory(self) -> TreeMemory {
        let TreeMemory { nodes, decoded } = self.memory;
        TreeMemory {
            nodes: if nodes.capacity() <= KEPT_VALUES { nodes } else { Vec::new() },
            decoded: if decoded.capacity() <= KEPT_BYTES { decoded } else { String::new() },
        }
    }

    /// All of the document.
    pub(super) const fn json(&self) -> &'j [u8] {
        self.json
    }

    /// The outermost value.
    pub(super) const fn root(&self) -> ValueId {
        ValueId(0)
    }

    /// The member of that name, as it is written, of an object that is not broken; of several the last, as most readers have it.
    pub(super) fn member(&self, object: ValueId, name: &[u8]) -> Option<ValueId> {
        let mut found = None;
        self.members(object, |own, value| {
            if own == name {
                found = Some(value);
            }
        })?;
        found
    }

    fn node(&self, at: ValueId) -> Option<&TreeNode> {
        self.memory.nodes.get(at.0 as usize)
    }

    /// The members or items of a value.
    fn children(&self, at: ValueId) -> Children<'_> {
        let end = self.node(at).map_or(0, |node| node.next);
        Children { nodes: &self.memory.nodes, at: at.0 + 1, end }
    }

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

/// The members or items of a value.
struct Children<'t> {
    nodes: &'t [TreeNode],
    at: u32,
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
        self.at = node.next;
        Some((at, node))
    }
}

impl<'j> Values<'j> for JsonTree<'j> {
    type Value = ValueId;

    fn raw(&self, value: ValueId) -> &'j [u8] {
        self.node(value).map_or(&[], |node| node.value.of(self.json))
    }

    fn members(&self, object: ValueId, mut visit: impl FnMut(&'j [u8], ValueId)) -> Option<usize> {
        let node = self.node(object).filter(|node| node.kind == NodeKind::Object)?;
        for (at, child) in self.children(object) {
            visit(child.name.of(self.json), at);
        }
        match (node.broken, object) {
            (true, _) => None,
            (false, ValueId(0)) => Some(self.end),
            (false, ValueId(_)) => Some(node.value.of(self.json).len()),
        }
    }

    fn items(&self, array: ValueId, mut visit: impl FnMut(ValueId)) -> Option<()> {
        let node = self.node(array).filter(|node| node.kind == NodeKind::Array)?;
        for (at, _) in self.children(array) {
            visit(at);
        }
        if node.broken { None } else { Some(()) }
    }

    fn text(&self, string: ValueId) -> Result<Cow<'_, str>, Unreadable> {
        self.string(string).map(Cow::Borrowed).ok_or(Unreadable::Json)
    }

    fn is_utf8(&self) -> bool {
        self.text.is_some()
    }
}

/// Reads a document into nodes.
struct TreeReader<'j> {
    json: &'j [u8],
    memory: TreeMemory,
}

impl TreeReader<'_> {
    /// Reads the outermost value; gives the place after it.
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

    /// The value at that place of the list has got all its parts.
    fn close(&mut self, place: usize, broken: bool) {
        let next = self.memory.nodes.len() as u32;
        if let Some(node) = self.memory.nodes.get_mut(place) {
            (node.next, node.broken) = (next, broken);
        }
    }

    /// Reads the value at `at`; gives the place after it. `None` where it has no end: nothing of it is kept then.
    fn value(&mut self, at: usize, name: ByteSpan, level: usize) -> Option<usize> {
        match *self.json.get(at)? {
            b'"' => self.string(at, name),
            b'{' if level < LEVELS_MAX => self.nested(at, name, level, NodeKind::Object),
            b'[' if level < LEVELS_MAX => self.nested(at, name, level, NodeKind::Array),
            first => {
                let end = raw_json::value(self.json, at)?;
                let kind =
                    if matches!(first, b'{' | b'[') { NodeKind::Deep } else { NodeKind::Scalar };
                self.push(kind, name, ByteSpan::new(at, end)?);
                Some(end)
            }
        }
    }

    fn nested(&mut self, at: usize, name: ByteSpan, level: usize, kind: NodeKind) -> Option<usize> {
        let place = self.memory.nodes.len();
        self.push(kind, name, ByteSpan::default());
        let read =
            if kind == NodeKind::Object { self.members(at, level) } else { self.items(at, level) };
        // Where brackets alone tell the end, what was read so far stays.
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

    fn string(&mut self, at: usize, name: ByteSpan) -> Option<usize> {
        let first = at + 1 + memchr2(b'"', b'\\', self.json.get(at + 1..)?)?;
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

    /// Reads the members of the object that opens at `at`; gives the place after it.
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

    /// Reads the items of the array that opens at `at`; gives the place after it.
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
