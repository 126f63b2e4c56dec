//! Words and JSON text. For `echo`, one word between white space is one token.

use crate::json::{self, Value, write_string};

/// The first words of a text.
pub(super) struct Beginning<'t> {
    pub(super) text: &'t str,
    /// Whether the text has more words.
    pub(super) cut: bool,
}

/// The number of words of a text.
pub(super) fn count(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX)
}

/// The first `cap` words of a text.
pub(super) fn first(text: &str, cap: u64) -> Beginning<'_> {
    let (mut left, mut end) = (cap, 0);
    for piece in pieces(text) {
        let is_word = !piece.trim().is_empty();
        // White space before the first word costs no token, so the check is only at words.
        if is_word && left == 0 {
            let kept = text.get(..end).unwrap_or_default();
            return Beginning { text: kept.trim_end(), cut: true };
        }
        left -= u64::from(is_word);
        end += piece.len();
    }
    Beginning { text, cut: false }
}

/// The text word by word, each with the white space after it.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut after_space) = (0, false);
    for (place, character) in text.char_indices() {
        let is_space = character.is_whitespace();
        if after_space && !is_space {
            pieces.extend(text.get(start..place));
            start = place;
        }
        after_space = is_space;
    }
    if start < text.len() {
        pieces.extend(text.get(start..));
    }
    pieces
}

/// The text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(text, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// A JSON value as compact text.
pub(super) fn printed(value: &Value<'_>) -> String {
    let mut out = Vec::new();
    json::write(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        for text in ["", " ", "a", " a", "a b", "a  b ", "\u{a0}łódź\n\nx\t"] {
            assert_eq!(pieces(text).concat(), text);
        }
        assert_eq!(pieces("one  two"), ["one  ", "two"]);
        assert_eq!(pieces("  one"), ["  ", "one"]);
    }

    #[test]
    fn a_cap_counts_words() {
        for (cap, text, cut) in [
            (0, "", true),
            (1, "  one", true),
            (2, "  one  two", true),
            (3, "  one  two three ", false),
        ] {
            let beginning = first("  one  two three ", cap);
            assert_eq!((beginning.text, beginning.cut), (text, cut), "{cap}");
        }
    }
}
