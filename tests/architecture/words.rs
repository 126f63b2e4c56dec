//! Measure 8: how often words that hide the meaning occur in prose, per 10,000 words.
//!
//! Prose is what people read: comments, the help of the command line (the doc comments of
//! `src/cli`), the documents, comments of config files, and messages (string literals of two or
//! more words in `src`). Tests, code spans and blocks of code are left out. The anchors are crates
//! that many read: hyper, tower, rustls, tokio and axum, their comments and their README files,
//! counted by the same functions.

use std::path::Path;

use crate::figure::{Figure, hold, row, whole};
use crate::limits::{LIMITS, RARE};
use crate::prose::{Comments, blocks, comments, messages, toml_comments, words};
use crate::tree::{Text, product, root, sources, texts, top};

/// A word and how it is spelled, which may take several words.
pub(crate) struct Word {
    /// Its name in the table of limits.
    name: &'static str,
    /// Its spellings.
    spellings: &'static [&'static str],
}

/// The words that are counted.
const WORDS: [Word; 12] = [
    Word { name: "stand", spellings: &["stand", "stands"] },
    Word { name: "behind", spellings: &["behind"] },
    Word { name: "nobody", spellings: &["nobody"] },
    Word { name: "nothing", spellings: &["nothing"] },
    Word { name: "whoever", spellings: &["whoever"] },
    Word { name: "go on", spellings: &["go on", "goes on"] },
    Word { name: "give way", spellings: &["give way", "gives way"] },
    Word { name: "is said", spellings: &["is said", "are said"] },
    Word { name: "door", spellings: &["door", "doors"] },
    Word { name: "of its own", spellings: &["of its own"] },
    Word { name: "lie", spellings: &["lie", "lies"] },
    Word { name: "at all", spellings: &["at all"] },
];

/// A kind of prose, and the text of each file.
struct Group {
    name: &'static str,
    files: Vec<Text>,
}

/// Occurrences in one file.
struct Found {
    path: String,
    group: &'static str,
    word: &'static str,
    count: usize,
}

/// What a tree says.
struct Counts {
    words: Vec<GroupWords>,
    found: Vec<Found>,
}

/// The words of one group.
struct GroupWords {
    group: &'static str,
    count: usize,
}

fn with(files: &[Text], prose: impl Fn(&str) -> String) -> Vec<Text> {
    files.iter().map(|file| Text { path: file.path.clone(), text: prose(&file.text) }).collect()
}

/// The prose of this tree.
fn tree() -> Vec<Group> {
    let root = root();
    let sources = sources();
    let (cli, rest): (Vec<Text>, Vec<Text>) =
        sources.iter().cloned().partition(|file| file.path.starts_with("src/cli"));
    let mut notes = with(&rest, |text| comments(text, Comments::All));
    notes.extend(with(&cli, |text| comments(text, Comments::Plain)));
    let mut docs = texts(&root, "docs", ".md");
    docs.extend(top(&root, "README.md"));
    vec![
        Group { name: "comments", files: notes },
        Group { name: "CLI help", files: with(&cli, |text| comments(text, Comments::Docs)) },
        Group { name: "docs", files: docs },
        Group { name: "config", files: with(&texts(&root, "config", ".toml"), toml_comments) },
        Group { name: "messages", files: with(sources, messages) },
    ]
}

/// How often a word occurs in a block's words, in any spelling.
fn occurrences(block: &[String], word: &Word) -> usize {
    let mut count = 0;
    for spelling in word.spellings {
        let parts: Vec<&str> = spelling.split(' ').collect();
        count += block.windows(parts.len()).filter(|window| window.iter().eq(&parts)).count();
    }
    count
}

fn count(groups: &[Group]) -> Counts {
    let mut counts = Counts { words: Vec::new(), found: Vec::new() };
    for group in groups {
        let mut sum = 0;
        for file in &group.files {
            let blocks: Vec<Vec<String>> =
                blocks(&file.text).iter().map(|block| words(&block.text)).collect();
            sum += blocks.iter().map(Vec::len).sum::<usize>();
            for word in &WORDS {
                let count = blocks.iter().map(|block| occurrences(block, word)).sum();
                if count > 0 {
                    let path = file.path.clone();
                    let found = Found { path, group: group.name, word: word.name, count };
                    counts.found.push(found);
                }
            }
        }
        counts.words.push(GroupWords { group: group.name, count: sum });
    }
    counts.found.sort_by_key(|found| std::cmp::Reverse(found.count));
    counts
}

/// A figure of what was found: the rate, and how often in which file.
fn figure(measure: &str, found: &[&Found], of: usize) -> Figure {
    let sum: usize = found.iter().map(|one| one.count).sum();
    let places =
        found.iter().map(|one| format!("{} {}: {}", one.path, one.word, one.count)).collect();
    Figure::new(measure, whole(sum) * 10_000.0 / whole(of.max(1)), places)
}

fn figures_of(groups: &[Group]) -> Vec<Figure> {
    let counts = count(groups);
    let all = counts.words.iter().map(|group| group.count).sum();
    let mut figures = Vec::new();
    for GroupWords { group, count } in &counts.words {
        let found: Vec<&Found> =
            counts.found.iter().filter(|found| found.group == *group).collect();
        figures.push(figure(&format!("listed words per 10,000: {group}"), &found, *count));
    }
    for word in &WORDS {
        let found: Vec<&Found> =
            counts.found.iter().filter(|found| found.word == word.name).collect();
        figures.push(figure(&format!("word per 10,000: {}", word.name), &found, all));
    }
    figures
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(&tree())
}

#[test]
fn words_stay_within_their_limits() {
    hold(&figures());
}

/// The prose of crates, all as one group.
fn anchors(folders: &str) -> Vec<Group> {
    let mut files = Vec::new();
    for folder in folders.split(':').map(Path::new) {
        files.extend(with(&product(folder, "src"), |text| comments(text, Comments::All)));
        files.extend(top(folder, "README.md"));
    }
    vec![Group { name: "anchors", files }]
}

/// The limits that are not twice the rates of the anchors, whose folders are joined by ':'.
pub(crate) fn anchor_faults(folders: &str) -> Vec<String> {
    let anchors = anchors(folders);
    println!("anchors: {} words", count(&anchors).words[0].count);
    let mut faults = Vec::new();
    for Figure { measure, today, .. } in figures_of(&anchors) {
        println!("{measure}: {today:.2}");
        let name = measure.replace("anchors", "docs");
        let limit = row(&LIMITS, &name).expect("every word has a limit").limit;
        if (limit - 2.0 * today.max(RARE)).abs() > 0.011 {
            faults.push(format!("{measure}: the limit {limit:.2} is not twice {today:.2}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{Group, WORDS, figures_of};
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    fn sample(name: &'static str, text: &str) -> [Group; 1] {
        [Group { name, files: vec![Text { path: "docs/A.md".to_owned(), text: text.to_owned() }] }]
    }

    #[test]
    fn each_word_is_noticed_in_each_kind_of_prose() {
        for group in ["comments", "CLI help", "docs", "config", "messages"] {
            for spelling in WORDS.iter().flat_map(|word| word.spellings) {
                let text = format!("It is {spelling}\nwith the gateway.");
                let figures = figures_of(&sample(group, &text));
                let faults = figures.iter().filter_map(|figure| fault(&LIMITS, figure)).count();
                assert_eq!(faults, 2, "{group}: {spelling}");
            }
        }
    }

    #[test]
    fn code_and_other_words_are_not_counted() {
        let text =
            "The `door` understands all.\n\n```\nnobody\n```\nLook at it. All lied, outdoors.";
        assert!(figures_of(&sample("docs", text)).iter().all(|figure| figure.today == 0.0));
    }
}
