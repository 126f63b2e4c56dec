//! The positions of the parts of a stream's texts, and the numbers of its events.

use std::collections::BTreeMap;

/// The choice of texts that belong to no choice.
pub(super) const NO_CHOICE: u64 = u64::MAX;
/// The maximum number of types of events whose texts are separate. The others share one choice.
const KINDS_MAX: usize = 64;
/// The maximum number of texts in one stream for which the last position is kept.
const SOURCES_MAX: usize = 4_096;

/// The last positions of a stream's texts.
#[derive(Default)]
pub(super) struct Sources {
    /// By choice and member: the position of the last part.
    last: BTreeMap<u64, BTreeMap<String, TextPlace>>,
    /// The number of entries in `last`.
    count: usize,
    /// The highest index of Anthropic's blocks so far.
    pub(super) block: u64,
    /// The types of the events of a response that had texts.
    kinds: Vec<String>,
}

/// The position of a part of a text.
pub(super) struct TextPlace {
    /// The names and types from the root to the part.
    pub(super) path: String,
    /// The index of the block that the event belongs to.
    pub(super) block: Option<u64>,
}

impl Sources {
    /// The choice of the texts in events of that type. The events of a response repeat its texts,
    /// so the texts of each type are separate.
    pub(super) fn choice_of(&mut self, kind: &str) -> u64 {
        let known = self.kinds.iter().position(|known| known == kind);
        let place = known.unwrap_or(self.kinds.len()).min(KINDS_MAX);
        if known.is_none() && place < KINDS_MAX {
            self.kinds.push(kind.to_owned());
        }
        NO_CHOICE - 1 - place as u64
    }

    /// The position of the last part of a text.
    pub(super) fn last_place(&self, choice: u64, key: &str) -> Option<&TextPlace> {
        self.last.get(&choice)?.get(key)
    }

    /// The highest index of a block before this part of a text. The texts of a response are
    /// separate, so that each has its own.
    pub(super) fn block_before(&self, choice: u64, key: &str, response: bool) -> u64 {
        if !response {
            return self.block;
        }
        match self.last_place(choice, key) {
            Some(last) => last.block.unwrap_or(0),
            None => 0,
        }
    }

    /// Stores the position of a part of a text. Returns true if it is the first part.
    pub(super) fn place(&mut self, choice: u64, key: &str, path: &str, block: Option<u64>) -> bool {
        if let Some(last) = self.last.get_mut(&choice).and_then(|texts| texts.get_mut(key)) {
            last.path.replace_range(.., path);
            last.block = block;
            return false;
        }
        // Beyond the limit, every part counts as moved. This is stricter, and needs no memory.
        if self.count >= SOURCES_MAX {
            return false;
        }
        self.count += 1;
        let place = TextPlace { path: path.to_owned(), block };
        self.last.entry(choice).or_default().insert(key.to_owned(), place);
        true
    }
}

/// The number of an event in its stream (`sequence_number`).
#[derive(Clone, Copy, Debug)]
pub(super) struct EventNumber {
    /// The offset of its first digit.
    pub(super) from: usize,
    /// The offset after its last digit.
    pub(super) to: usize,
    /// The number that is written.
    pub(super) value: u64,
    /// Whether it differs from the server's.
    pub(super) changed: bool,
}
