//! Measure 7: lines over 100 and over 120 characters, in code, documents and config files.
//!
//! Rows of Markdown tables and lines that are one link are exempt: neither can be broken.

use crate::figure::{Figure, hold, whole};
use crate::sizes::RUST;
use crate::tree::{Text, root, texts};

/// The widths that are measured.
const WIDTHS: [usize; 2] = [100, 120];

/// A kind of files.
struct Group {
    name: &'static str,
    files: Vec<Text>,
}

fn is_exempt(path: &str, line: &str) -> bool {
    let row = path.ends_with(".md") && line.trim_start().starts_with('|');
    row || is_link(line)
}

/// Whether a line has a link and at most one word before it, such as the sign of a comment or of a
/// list.
fn is_link(line: &str) -> bool {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let [.., last] = parts.as_slice() else { return false };
    parts.len() <= 2 && last.trim_start_matches(['<', '"']).starts_with("https://")
}

fn wide_lines(file: &Text, width: usize) -> usize {
    let mut count = 0;
    for line in file.text.lines() {
        if line.chars().count() > width && !is_exempt(&file.path, line) {
            count += 1;
        }
    }
    count
}

fn figures_of(groups: &[Group]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for width in WIDTHS {
        for group in groups {
            let mut sum = 0;
            let mut places = Vec::new();
            for file in &group.files {
                let lines = wide_lines(file, width);
                if lines > 0 {
                    sum += lines;
                    places.push(format!("{}: {lines}", file.path));
                }
            }
            figures.push(Figure::new(
                &format!("lines over {width} characters: {}", group.name),
                whole(sum),
                places,
            ));
        }
    }
    figures
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    let root = root();
    let mut groups = Vec::new();
    for name in RUST {
        groups.push(Group { name, files: texts(&root, name, ".rs") });
    }
    groups.push(Group { name: "documents", files: texts(&root, "", ".md") });
    groups.push(Group { name: "configs", files: texts(&root, "", ".toml") });
    groups.push(Group { name: "Python", files: texts(&root, "", ".py") });
    figures_of(&groups)
}

#[test]
fn widths_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::{Group, figures_of};
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    fn sample(path: &str, line: &str) -> Vec<f64> {
        let files = vec![Text { path: path.to_owned(), text: format!("short\n{line}\n") }];
        figures_of(&[Group { name: "new folder", files }])
            .iter()
            .map(|figure| figure.today)
            .collect()
    }

    #[test]
    fn wide_lines_are_noticed() {
        assert_eq!(sample("a.rs", &"é".repeat(100)), [0.0, 0.0]);
        assert_eq!(sample("a.rs", &"é".repeat(101)), [1.0, 0.0]);
        assert_eq!(sample("a.rs", &"é".repeat(121)), [1.0, 1.0]);
        let files = vec![Text { path: "a.rs".to_owned(), text: "a".repeat(121) }];
        let figures = figures_of(&[Group { name: "new folder", files }]);
        assert!(figures.iter().all(|figure| fault(&LIMITS, figure).is_some()));
    }

    #[test]
    fn table_rows_and_links_are_exempt() {
        let long = "a".repeat(121);
        assert_eq!(sample("a.md", &format!("| {long} |")), [0.0, 0.0]);
        assert_eq!(sample("a.rs", &format!("| {long} |")), [1.0, 1.0]);
        assert_eq!(sample("a.md", &format!("[a]: https://{long}")), [0.0, 0.0]);
        assert_eq!(sample("a.rs", &format!("    // https://{long}")), [0.0, 0.0]);
        assert_eq!(sample("a.rs", &format!("// see https://{long}")), [1.0, 1.0]);
    }
}
