//! Counts the bytes of text in a part of an answer.

use super::{anthropic, openai, responses};
use crate::model::values::Values;

/// The maximum depth of the search for text. The limit prevents a stack overflow by an upstream's
/// answer.
const TEXT_DEPTH_MAX: u32 = 64;

/// Whether a member is metadata, so that its strings are no text of the answer.
fn is_uncounted(name: &[u8]) -> bool {
    openai::texts::UNCOUNTED.contains(&name)
        || anthropic::texts::UNCOUNTED.contains(&name)
        || responses::texts::UNCOUNTED.contains(&name)
}

/// The bytes of text in a value: all strings except those of uncounted members. A value deeper than
/// [`TEXT_DEPTH_MAX`] counts with all its bytes.
pub(super) fn text_length<'j, D: Values<'j>>(document: &D, value: D::Value) -> u64 {
    text_within(document, value, TEXT_DEPTH_MAX)
}

/// As [`text_length`], with the number of levels that remain.
fn text_within<'j, D: Values<'j>>(document: &D, value: D::Value, levels: u32) -> u64 {
    let raw = document.raw(value).trim_ascii();
    // Too much is counted here on purpose: a server must not hide text from the cap by nesting it.
    let Some(levels) = levels.checked_sub(1) else { return raw.len() as u64 };
    let mut sum = 0;
    match raw.first() {
        Some(b'"') => sum = string_length(document, value, raw),
        Some(b'{') => {
            document.members(value, |name, value| {
                if !is_uncounted(name) {
                    sum += text_within(document, value, levels);
                }
            });
        }
        Some(b'[') => {
            document.items(value, |item| sum += text_within(document, item, levels));
        }
        Some(_) | None => {}
    }
    sum
}

/// The length of a JSON string in bytes of UTF-8.
fn string_length<'j, D: Values<'j>>(document: &D, value: D::Value, raw: &[u8]) -> u64 {
    let written = raw.len().saturating_sub(2) as u64;
    // Most strings have no escape. Their length is known without decoding.
    if memchr::memchr(b'\\', raw).is_none() {
        return written;
    }
    match document.text(value) {
        Ok(text) => text.len() as u64,
        // An invalid string still counts, with its written length.
        Err(_) => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tree::{JsonTree, TreeMemory};
    use crate::model::values::InPlace;

    /// Uses the deepest value that fits into one event.
    #[test]
    fn no_nesting_ends_the_process() {
        let levels = 1 << 19;
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(text_length(&InPlace(deep.as_bytes()), deep.as_bytes()) > 0);
        let tree = JsonTree::read(deep.as_bytes(), TreeMemory::default());
        assert!(text_length(&tree, tree.root()) > 0);
        let mut shallow = String::from("\"four\"");
        for _ in 0..60 {
            shallow = format!("[{shallow}]");
        }
        assert_eq!(text_length(&InPlace(shallow.as_bytes()), shallow.as_bytes()), 4);
        let tree = JsonTree::read(shallow.as_bytes(), TreeMemory::default());
        assert_eq!(text_length(&tree, tree.root()), 4);
    }
}
