//! One event of a stream, parsed once: its lines and its data.

use super::framing::sse::{DONE, EventLines};
use super::tree::{JsonTree, TreeMemory};

/// An event with its parsed data.
pub(super) struct StreamEvent<'e> {
    /// The lines of the event.
    lines: &'e EventLines<'e>,
    /// The parsed data.
    tree: Option<JsonTree<'e>>,
    /// Whether the data are `[DONE]`.
    done: bool,
}

impl<'e> StreamEvent<'e> {
    /// Parses the data of an event from its lines. Uses the given memory for the tree.
    pub(super) fn read(lines: &'e EventLines<'e>, memory: TreeMemory) -> Self {
        let Some(data) = lines.data() else { return Self { lines, tree: None, done: false } };
        match data.trim_ascii() {
            b"" => Self { lines, tree: None, done: false },
            DONE => Self { lines, tree: None, done: true },
            json => Self { lines, tree: Some(JsonTree::read(json, memory)), done: false },
        }
    }

    /// The bytes of the event.
    pub(super) const fn bytes(&self) -> &'e [u8] {
        self.lines.bytes()
    }

    /// The name of the event; `None` if it is empty.
    pub(super) fn name(&self) -> Option<&'e str> {
        match self.lines.name() {
            Some("") => None,
            name => name,
        }
    }

    /// Whether the data are `[DONE]`.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// The parsed data; `None` if there are none or they are `[DONE]`.
    pub(super) const fn tree(&self) -> Option<&JsonTree<'e>> {
        self.tree.as_ref()
    }

    /// All data of the event.
    pub(super) fn data(&self) -> &'e [u8] {
        self.lines.data().unwrap_or_default()
    }

    /// Returns the memory of the tree for the next event.
    pub(super) fn into_memory(self) -> TreeMemory {
        self.tree.map_or_else(TreeMemory::default, JsonTree::into_memory)
    }
}
