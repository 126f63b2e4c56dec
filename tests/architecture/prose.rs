//! Prose, as it is in Markdown, in comments of Rust and of TOML, and in messages.

use crate::lexer::{Kind, Piece, pieces};

/// What a block of Markdown is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// A paragraph or an item of a list.
    Paragraph,
    /// A heading.
    Heading,
    /// A row of a table.
    Row,
}

/// A block of prose on one line. A code span is the one sign [`CODE`]; of a link the text is left.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// What it is.
    pub(crate) shape: Shape,
    /// Its words.
    pub(crate) text: String,
}

/// The sign that replaces a code span.
pub(crate) const CODE: char = '`';

/// The blocks of a Markdown text, without its blocks of code.
pub(crate) fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut paragraph = String::new();
    let mut fence = false;
    for line in markdown.lines() {
        let line = line.trim_start().trim_start_matches("> ");
        if line.starts_with("```") || line.starts_with("~~~") {
            fence = !fence;
            end(&mut paragraph, &mut found);
            continue;
        }
        if fence {
            continue;
        }
        let shape = if line.starts_with('|') {
            Shape::Row
        } else if line.starts_with('#') {
            Shape::Heading
        } else {
            Shape::Paragraph
        };
        if shape != Shape::Paragraph || line.is_empty() || is_item(line) {
            end(&mut paragraph, &mut found);
        }
        if shape == Shape::Paragraph {
            paragraph.push_str(line.trim_start_matches(['-', '*', ' ']));
            paragraph.push(' ');
        } else {
            found.push(Block { shape, text: plain(line) });
        }
    }
    end(&mut paragraph, &mut found);
    found
}

fn end(paragraph: &mut String, found: &mut Vec<Block>) {
    if !paragraph.trim().is_empty() {
        found.push(Block { shape: Shape::Paragraph, text: plain(paragraph.trim()) });
    }
    paragraph.clear();
}

fn is_item(line: &str) -> bool {
    let number = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
    line.starts_with("- ")
        || line.starts_with("* ")
        || number.len() < line.len() && number.starts_with(". ")
}

/// A text whose code spans are one sign each and whose links are their texts.
fn plain(text: &str) -> String {
    let mut spans = text.split(CODE);
    let mut plain = spans.next().unwrap_or_default().to_owned();
    while let Some(span) = spans.next() {
        // Two or more signs in a row open a span that ends with as many; such spans are rare and
        // short.
        let Some(after) = spans.next() else {
            plain.push_str(span);
            break;
        };
        plain.push(CODE);
        plain.push_str(after);
    }
    without_targets(&plain)
}

fn without_targets(text: &str) -> String {
    let mut parts = text.split("](");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.split_once(')').map_or(part, |target| target.1);
        plain.push_str(after);
    }
    plain.replace(['[', ']', '*'], "")
}

/// Which comments of a Rust source are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Comments {
    /// All of them.
    All,
    /// Doc comments.
    Docs,
    /// Those that are no doc comments.
    Plain,
}

/// The comments of a Rust source as Markdown. Comments with code between them are paragraphs of
/// their own.
pub(crate) fn comments(source: &str, wanted: Comments) -> String {
    let mut text = String::new();
    let mut end = 0;
    for Piece { kind, bytes } in pieces(source).iter() {
        let take = match kind {
            Kind::Doc => wanted != Comments::Plain,
            Kind::Plain => wanted != Comments::Docs,
            Kind::Code | Kind::Literal => false,
        };
        if !take {
            continue;
        }
        if source[end..bytes.start].trim() != ""
            || source[end..bytes.start].matches('\n').count() > 1
        {
            text.push('\n');
        }
        end = bytes.end;
        for line in source[bytes.clone()].lines() {
            let line = line
                .trim()
                .trim_start_matches(['/', '*'])
                .trim_start_matches('!')
                .trim_end_matches("*/");
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The messages of a Rust source: string literals of two or more words, one a paragraph.
pub(crate) fn messages(source: &str) -> String {
    let mut text = String::new();
    for piece in pieces(source).iter() {
        if piece.kind != Kind::Literal {
            continue;
        }
        let Ok(literal) = syn::parse_str::<syn::LitStr>(&source[piece.bytes.clone()]) else {
            continue;
        };
        let value = literal.value();
        if words(&value).len() > 1 && value.contains(' ') {
            text.push_str(&value);
            text.push_str("\n\n");
        }
    }
    text
}

/// The comments of a TOML file. Of a setting that is commented out, what is explained after it.
pub(crate) fn toml_comments(source: &str) -> String {
    let mut text = String::new();
    for line in source.lines() {
        let Some(comment) = toml_comment(line) else {
            text.push('\n');
            continue;
        };
        let comment = toml_comment(comment).unwrap_or(comment);
        text.push_str(comment.trim());
        text.push('\n');
    }
    text
}

/// What follows the first `#` outside of a string.
fn toml_comment(line: &str) -> Option<&str> {
    let mut quoted = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted => return Some(&line[at + 1..]),
            _ => {}
        }
    }
    None
}

/// The words of a text in small letters. A code span is none.
pub(crate) fn words(text: &str) -> Vec<String> {
    let parts =
        text.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '\'' | '’' | '_'));
    parts.filter(|part| part.contains(char::is_alphabetic)).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::{Block, Comments, Shape, blocks, comments, messages, toml_comments, words};

    fn block(shape: Shape, text: &str) -> Block {
        Block { shape, text: text.to_owned() }
    }

    #[test]
    fn markdown_is_taken_apart() {
        let text = "# Head\n\nOne `a.b`\ntwo [link](http://x).\n\
                    - item\n1. next\n| a | b |\n```\ncode\n```\n";
        assert_eq!(
            blocks(text),
            [
                block(Shape::Heading, "# Head"),
                block(Shape::Paragraph, "One ` two link."),
                block(Shape::Paragraph, "item"),
                block(Shape::Paragraph, "1. next"),
                block(Shape::Row, "| a | b |"),
            ]
        );
    }

    #[test]
    fn comments_and_messages_are_taken_out_of_rust() {
        let source = "//! What.\n\n/// Doc\n/// more.\nfn f() {\n    // Why.\n\
                      g(\"not found: {a}\", \"word\"); // after\n}\n";
        assert_eq!(comments(source, Comments::All), " What.\n\n Doc\n more.\n\n Why.\n\n after\n");
        assert_eq!(comments(source, Comments::Plain), "\n Why.\n\n after\n");
        assert_eq!(messages(source), "not found: {a}\n\n");
    }

    #[test]
    fn comments_are_taken_out_of_toml() {
        assert_eq!(toml_comments("a = \"#1\" # first\n# b = 2 # second\n"), "first\nsecond\n");
    }

    #[test]
    fn words_are_small_and_without_code() {
        assert_eq!(words("Who's `, at 2 x-rays?"), ["who's", "at", "x", "rays"]);
    }
}
