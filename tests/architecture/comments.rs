//! Measure 3: lines of doc comments and of plain comments per 100 lines of code.

use crate::figure::{Figure, hold, rate};
use crate::lexer::{Lines, lines};
use crate::tree::{Text, sources};

/// All lines of some sources.
pub(crate) fn all_lines(files: &[Text]) -> Lines {
    let mut sum = Lines::default();
    for file in files {
        let own = lines(&file.text);
        sum.code += own.code;
        sum.doc += own.doc;
        sum.plain += own.plain;
    }
    sum
}

/// The figures of some sources. Too many lines of docs are a fault too, so that measure has two
/// limits.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let lines = all_lines(files);
    let doc = rate(lines.doc, 100.0, lines.code);
    vec![
        Figure::new("doc lines per 100 code lines, at least", doc, Vec::new()),
        Figure::new("doc lines per 100 code lines, at most", doc, Vec::new()),
        Figure::new(
            "// lines per 100 code lines",
            rate(lines.plain, 100.0, lines.code),
            Vec::new(),
        ),
    ]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn comments_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    #[test]
    fn sources_without_comments_are_noticed() {
        let bare = Text { path: "src/a.rs".to_owned(), text: "fn f() {\n}\n".repeat(50) };
        let faults: Vec<bool> =
            figures_of(&[bare]).iter().map(|figure| fault(&LIMITS, figure).is_some()).collect();
        assert_eq!(faults, [true, false, true]);
    }

    #[test]
    fn sources_with_more_comments_than_code_are_noticed() {
        let wordy =
            Text { path: "src/a.rs".to_owned(), text: "/// F.\n// Why.\nfn f() {}\n".repeat(50) };
        let faults: Vec<bool> =
            figures_of(&[wordy]).iter().map(|figure| fault(&LIMITS, figure).is_some()).collect();
        assert_eq!(faults, [false, true, false]);
    }
}
