//! One event of a stream, read once: its lines, and its data.

use super::framing::sse::{DONE, EventLines};
use super::tree::{JsonTree, TreeMemory};

/// An event and what its data say.
pub(super) struct StreamEvent<'e> {
    lines: &'e EventLines<'e>,
    tree: Option<JsonTree<'e>>,
    done: bool,
}

impl<'e> StreamEvent<'e> {
    /// Reads the data of an event whose lines are read.
    pub(super) fn read(lines: &'e EventLines<'e>, memory: TreeMemory) -> Self {
        match lines.data().map(<[u8]>::trim_ascii) {
            None | Some(b"") => Self { lines, tree: None, done: false },
            Some(DONE) => Self { lines, tree: None, done: true },
            Some(json) => Self { lines, tree: Some(JsonTree::read(json, memory)), done: false },
        }
    }

    /// Its bytes.
    pub(super) const fn bytes(&self) -> &'e [u8] {
        self.lines.bytes()
    }

    /// Its name; `None` where that is empty.
    pub(super) fn name(&self) -> Option<&'e str> {
        self.lines.name().filter(|name| !name.is_empty())
    }

    /// Whether its data are `[DONE]`.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Its data, where they should be JSON.
    pub(super) const fn tree(&self) -> Option<&JsonTree<'e>> {
        self.tree.as_ref()
    }

    /// All of its data.
    pub(super) fn data(&self) -> &'e [u8] {
        self.lines.data().unwrap_or_default()
    }

    /// Gives back the memory of the tree.
    pub(super) fn into_memory(self) -> TreeMemory {
        self.tree.map_or_else(TreeMemory::default, JsonTree::into_memory)
    }
}
