//! Measure 9: the length of sentences in the documents.
//!
//! Headings, tables and blocks of code are left out. A code span and a link's text count as words
//! of the sentence. A sentence ends at `.`, `!` or `?` before a space and a word that does not
//! begin with a small letter, and at the end of its paragraph or list item. What has fewer than two
//! words is no sentence.

use crate::figure::{Figure, hold, rate, whole};
use crate::prose::{CODE, Shape, blocks};
use crate::tree::{Text, root, texts, top};

/// A sentence with more words is long.
const LONG: usize = 25;

/// A sentence and its words.
struct Sentence {
    text: String,
    words: usize,
}

fn sentences(markdown: &str) -> Vec<Sentence> {
    let mut found = Vec::new();
    for block in blocks(markdown).iter().filter(|block| block.shape == Shape::Paragraph) {
        let mut words = Vec::new();
        let mut parts = block.text.split_whitespace().peekable();
        while let Some(part) = parts.next() {
            words.push(part);
            let next_is_small =
                parts.peek().is_some_and(|next| next.starts_with(char::is_lowercase));
            if part.trim_end_matches(['"', ')', '”', '\'']).ends_with(['.', '!', '?'])
                && !next_is_small
            {
                end(&mut words, &mut found);
            }
        }
        end(&mut words, &mut found);
    }
    found
}

fn end(parts: &mut Vec<&str>, found: &mut Vec<Sentence>) {
    let is_word =
        |part: &&&str| part.contains(|letter: char| letter.is_alphanumeric() || letter == CODE);
    let words = parts.iter().filter(is_word).count();
    if words > 1 {
        found.push(Sentence { text: parts.join(" "), words });
    }
    parts.clear();
}

/// The figures of some documents.
fn figures_of(documents: &[Text]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for document in documents {
        let all = sentences(&document.text);
        let words: usize = all.iter().map(|sentence| sentence.words).sum();
        let mut long: Vec<&Sentence> =
            all.iter().filter(|sentence| sentence.words > LONG).collect();
        long.sort_by_key(|sentence| std::cmp::Reverse(sentence.words));
        let share = rate(long.len(), 100.0, all.len());
        let places = long
            .iter()
            .map(|sentence| format!("{} words: {}", sentence.words, sentence.text))
            .collect();
        let average = whole(words) / whole(all.len().max(1));
        figures.push(Figure::new(
            &format!("words per sentence: {}", document.path),
            average,
            Vec::new(),
        ));
        figures.push(Figure::new(
            &format!("sentences over 25 words, percent: {}", document.path),
            share,
            places,
        ));
    }
    figures
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    let root = root();
    let mut documents = texts(&root, "docs", ".md");
    documents.extend(top(&root, "README.md"));
    figures_of(&documents)
}

#[test]
fn sentences_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::{figures_of, sentences};
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    #[test]
    fn sentences_are_taken_apart() {
        let text = "# A heading of words\n\nOne two `a b. c`. Three four (e.g. five)! Six\n\
                    seven:\n- eight nine\n- ten\n\n| a b c |\n";
        let found: Vec<usize> = sentences(text).iter().map(|sentence| sentence.words).collect();
        assert_eq!(found, [3, 4, 2, 2]);
    }

    fn faults(words: usize, sentences: usize) -> Vec<bool> {
        let text = format!("One {}end. ", "word ".repeat(words - 2)).repeat(sentences);
        let figures = figures_of(&[Text { path: "docs/NEW.md".to_owned(), text }]);
        figures.iter().map(|figure| fault(&LIMITS, figure).is_some()).collect()
    }

    #[test]
    fn long_sentences_are_noticed() {
        assert_eq!(faults(16, 3), [false, false]);
        assert_eq!(faults(17, 3), [true, false]);
        assert_eq!(faults(26, 1), [true, true]);
    }
}
