//! Measure 2: the length of files, and what each opens with.

use crate::figure::{Figure, hold, whole};
use crate::tree::{Text, root, sources, texts};

/// The longest file, in lines.
const LONGEST: usize = 500;

/// The folders with Rust sources.
pub(crate) const RUST: [&str; 5] = ["src", "tests", "benches", "loadtest", "fuzz"];

/// The figures of the product's sources (their lengths with and without tests) and of all Rust
/// sources.
pub(crate) fn figures_of(product: &[Text], sources: &[Text], all: &[Text]) -> Vec<Figure> {
    let mut lengths: Vec<usize> = product.iter().map(code_end).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    let longest: Vec<&Text> = sources.iter().max_by_key(|file| count(file)).into_iter().collect();
    let most = whole(longest.iter().map(|file| count(file)).sum());
    let mut long: Vec<&Text> = all.iter().collect();
    long.retain(|file| count(file) > LONGEST);
    vec![
        Figure::count("files over 500 lines", places(&long)),
        Figure::new("lines of the longest file", most, places(&longest)),
        Figure::new("lines of the median file", whole(median), Vec::new()),
    ]
}

fn count(file: &Text) -> usize {
    file.text.lines().count()
}

fn places(files: &[&Text]) -> Vec<String> {
    files.iter().map(|file| format!("{}: {} lines", file.path, count(file))).collect()
}

/// The lines of a file up to its last one that is not blank, so that tests at its end do not count.
fn code_end(file: &Text) -> usize {
    file.text.trim_end().lines().count()
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    let root = root();
    let all: Vec<Text> = RUST.iter().flat_map(|folder| texts(&root, folder, ".rs")).collect();
    figures_of(sources(), &texts(&root, "src", ".rs"), &all)
}

#[test]
fn files_stay_within_their_limits() {
    hold(&figures());
}

/// The files that do not say in their first line what they are.
fn without_opening(files: &[Text]) -> Vec<&str> {
    files
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.as_str())
        .collect()
}

#[test]
fn files_say_what_they_are() {
    let root = root();
    for folder in ["src", "tests/architecture"] {
        assert_eq!(without_opening(&texts(&root, folder, ".rs")), [""; 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::{figures_of, without_opening};
    use crate::tree::Text;

    fn sample(lines: usize) -> Vec<Text> {
        vec![Text { path: "src/a.rs".to_owned(), text: "a\n".repeat(lines) }]
    }

    #[test]
    fn a_long_file_is_noticed() {
        assert_eq!(figures_of(&[], &[], &sample(500))[0].places.len(), 0);
        assert_eq!(figures_of(&[], &[], &sample(501))[0].places, ["src/a.rs: 501 lines"]);
        let figures = figures_of(&sample(7), &sample(9), &sample(9));
        assert_eq!([figures[1].today, figures[2].today], [9.0, 7.0]);
    }

    #[test]
    fn a_file_without_a_first_line_is_noticed() {
        assert_eq!(without_opening(&sample(1)), ["src/a.rs"]);
    }
}
