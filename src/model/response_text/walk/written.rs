//! The document with the changes that a walk has made.

use super::Walk;
use crate::json;
use crate::model::ranges::part;
use crate::model::values::Values;

impl<'j, D: Values<'j>> Walk<'j, '_, D> {
    /// The document with all changes; `None` if there are none.
    pub(in crate::model::response_text) fn written(self) -> Option<Vec<u8>> {
        let mut edits: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        for piece in &self.pieces {
            if piece.changed {
                let mut text = Vec::with_capacity(piece.text.len() + 2);
                json::write_string(&piece.text, &mut text);
                edits.push((piece.from, piece.to, text));
            }
        }
        for (from, to) in &self.dropped {
            edits.push((*from, *to, b"null".to_vec()));
        }
        // The tokens would tell the text that was changed.
        if self.changed > 0 {
            for (from, to) in &self.logprobs {
                if !self.dropped.contains(&(*from, *to)) {
                    edits.push((*from, *to, b"[]".to_vec()));
                }
            }
        }
        if let Some(number) = self.number.filter(|number| number.changed) {
            edits.push((number.from, number.to, number.value.to_string().into_bytes()));
        }
        if edits.is_empty() {
            return None;
        }
        // Dropped ranges are between the texts, so all edits are sorted by offset.
        edits.sort_by_key(|(from, ..)| *from);
        let (mut out, mut at) = (Vec::with_capacity(self.json.len() + 64), 0);
        for (from, to, text) in &edits {
            out.extend_from_slice(part(self.json, at..*from));
            out.extend_from_slice(text);
            at = *to;
        }
        out.extend_from_slice(part(self.json, at..));
        Some(out)
    }
}
