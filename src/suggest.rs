//! Suggestions for misspelled words.

/// The word of `known` with the fewest edits to `word`, at most two.
#[must_use]
pub fn nearest<'k>(known: impl IntoIterator<Item = &'k str>, word: &str) -> Option<&'k str> {
    // More edits than this are not a misspelling.
    let mut least = 3;
    let mut best = None;
    for candidate in known {
        // Lengths that differ by more need more than two edits. This avoids the costly comparison.
        if candidate.len().abs_diff(word.len()) > 2 {
            continue;
        }
        let edits = distance(candidate, word);
        // Of several words with the same number of edits, the first one counts.
        if edits < least {
            least = edits;
            best = Some(candidate);
        }
    }
    best
}

/// The number of edits between two words (Levenshtein distance, in bytes).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let up = row[j + 1];
            // Substitution, deletion or insertion, whichever is cheapest. One row of the matrix is
            // enough.
            row[j + 1] = (diagonal + usize::from(a != b)).min(up + 1).min(row[j] + 1);
            diagonal = up;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["messages", "message", "model"];
        assert_eq!(nearest(known, "mesages"), Some("messages"));
        assert_eq!(nearest(known, "modle"), Some("model"));
        assert_eq!(nearest(known, "temperature"), None);
    }
}
