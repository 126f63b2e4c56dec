//! Checks that a document is strict JSON, as [`json::parse`] requires, so that all clients read it
//! in the same manner. The values were parsed already.

use std::borrow::Cow;

use crate::json::{self, Limits};
use crate::model::ranges::part;
use crate::model::unreadable::{DEPTH_MAX, Unreadable};

use super::{JsonTree, NodeKind, TreeNode, ValueId};

/// A number with this many digits always fits 64 bits.
const DIGITS_SAFE: usize = 18;

impl<'j> JsonTree<'j> {
    /// Checks that the document is strict JSON. It must be complete and in UTF-8. No object may
    /// have a name twice, and no value may be deeper than [`DEPTH_MAX`].
    ///
    /// # Errors
    /// [`Unreadable::Json`].
    pub(in crate::model) fn strict(&self) -> Result<(), Unreadable> {
        if self.text.is_none() || self.end != self.json.len() || !self.is_shallow() {
            return Err(Unreadable::Json);
        }
        let mut names = Vec::new();
        for (place, node) in (0u32..).zip(&self.memory.nodes) {
            if !self.is_sound(ValueId(place), node, &mut names) {
                return Err(Unreadable::Json);
            }
        }
        Ok(())
    }

    /// Whether a member with a wanted name occurs. Members for which `is_closed` is true are not
    /// searched inside.
    pub(in crate::model) fn has_name(
        &self,
        wanted: fn(&str) -> bool,
        is_closed: fn(&str) -> bool,
    ) -> bool {
        let mut place = 0_u32;
        while let Some(node) = self.memory.nodes.get(place as usize) {
            let name = self.name(ValueId(place)).unwrap_or_default();
            if wanted(&name) {
                return true;
            }
            // `next` skips all parts of the value.
            place = if is_closed(&name) { node.next } else { place + 1 };
        }
        false
    }

    /// Whether one value is strict. `names` is memory for the names of an object.
    fn is_sound(&self, at: ValueId, node: &TreeNode, names: &mut Vec<Cow<'j, str>>) -> bool {
        match node.kind {
            NodeKind::Object => !node.broken && self.has_sound_names(at, names),
            NodeKind::Array => !node.broken,
            NodeKind::Plain => !self.has_controls || self.string(at).is_some(),
            NodeKind::Decoded => true,
            NodeKind::Undecodable | NodeKind::Deep => false,
            NodeKind::Scalar => is_scalar(node.value.of(self.json)),
        }
    }

    /// Whether all names of an object can be decoded and are different.
    fn has_sound_names(&self, object: ValueId, names: &mut Vec<Cow<'j, str>>) -> bool {
        names.clear();
        for (at, _) in self.children(object) {
            let Some(name) = self.name(at) else { return false };
            names.push(name);
        }
        // Sorting finds equal names in less than quadratic time.
        names.sort_unstable();
        names.windows(2).all(|pair| pair.first() != pair.last())
    }

    /// Whether the nesting depth is at most [`DEPTH_MAX`].
    fn is_shallow(&self) -> bool {
        let mut open: Vec<u32> = Vec::new();
        for (place, node) in (0u32..).zip(&self.memory.nodes) {
            while matches!(open.last(), Some(end) if *end <= place) {
                open.pop();
            }
            if matches!(node.kind, NodeKind::Object | NodeKind::Array) {
                open.push(node.next);
                if open.len() > DEPTH_MAX {
                    return false;
                }
            }
        }
        true
    }
}

/// Whether the bytes are a number or word of JSON.
fn is_scalar(raw: &[u8]) -> bool {
    let end = raw.iter().rposition(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    match part(raw, ..=end.unwrap_or_default()) {
        b"null" | b"true" | b"false" | b"0" => true,
        // A short integer needs no parser. It is the most frequent case.
        [b'1'..=b'9', rest @ ..]
            if rest.len() < DIGITS_SAFE && rest.iter().all(u8::is_ascii_digit) =>
        {
            true
        }
        other => json::parse(other, &Limits::deep(0)).is_ok(),
    }
}
