//! Rust source as tokens with their places: code, literals, doc comments and plain comments.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use proc_macro2::extra::invalidate_current_thread_spans;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// What a token is, for those who count lines and words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Anything that compiles to something.
    Code,
    /// A literal: a string, a number, a character.
    Literal,
    /// A `///` or `//!` comment.
    Doc,
    /// A `//` or `/* */` comment.
    Plain,
}

/// One token or comment and the bytes that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its bytes in the source.
    pub(crate) bytes: Range<usize>,
}

/// The syntax tree of a source. The spans of trees that this thread parsed before are lost.
pub(crate) fn parsed(text: &str) -> syn::File {
    invalidate_current_thread_spans();
    syn::parse_file(text).expect("a source that compiles")
}

/// All tokens of a source. As with [`parsed`], the spans of others are lost.
pub(crate) fn tokens(text: &str) -> TokenStream {
    invalidate_current_thread_spans();
    TokenStream::from_str(text).expect("a source that compiles")
}

/// The pieces of a source in their order, plain comments included. Several measures read the same
/// sources, so the pieces of each are kept.
pub(crate) fn pieces(text: &str) -> Arc<Vec<Piece>> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Vec<Piece>>>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().expect("no test fails in here").get(text) {
        return Arc::clone(known);
    }
    let found = Arc::new(lex(text));
    KNOWN.lock().expect("no test fails in here").insert(text.to_owned(), Arc::clone(&found));
    found
}

fn lex(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    flatten(text, tokens(text), &mut found);
    let mut all = Vec::with_capacity(found.len());
    let mut end = 0;
    for piece in found {
        comments(text, end..piece.bytes.start, &mut all);
        end = piece.bytes.end;
        all.push(piece);
    }
    comments(text, end..text.len(), &mut all);
    all
}

fn flatten(text: &str, stream: TokenStream, found: &mut Vec<Piece>) {
    let mut doc = None;
    for token in stream {
        let bytes = token.span().byte_range();
        // A doc comment arrives as `#[doc = "…"]`, all of whose tokens have the comment's
        // place.
        if doc.as_ref() == Some(&bytes) {
            continue;
        }
        let kind = match &token {
            TokenTree::Group(group) => {
                enter(text, group, found);
                continue;
            }
            TokenTree::Punct(punct)
                if punct.as_char() == '#' && text[bytes.clone()].starts_with('/') =>
            {
                doc = Some(bytes.clone());
                Kind::Doc
            }
            TokenTree::Literal(_) => Kind::Literal,
            TokenTree::Punct(_) | TokenTree::Ident(_) => Kind::Code,
        };
        found.push(Piece { kind, bytes });
    }
}

fn enter(text: &str, group: &Group, found: &mut Vec<Piece>) {
    let delimited = group.delimiter() != Delimiter::None;
    if delimited {
        found.push(Piece { kind: Kind::Code, bytes: group.span_open().byte_range() });
    }
    flatten(text, group.stream(), found);
    if delimited {
        found.push(Piece { kind: Kind::Code, bytes: group.span_close().byte_range() });
    }
}

/// The comments between two tokens; all else there is white space.
fn comments(text: &str, gap: Range<usize>, found: &mut Vec<Piece>) {
    let mut at = gap.start;
    while let Some(next) = text[at..gap.end].find('/') {
        let start = at + next;
        let rest = &text[start..gap.end];
        let length = if rest.starts_with("/*") {
            block(rest)
        } else {
            rest.find('\n').unwrap_or(rest.len())
        };
        found.push(Piece { kind: Kind::Plain, bytes: start..start + length });
        at = start + length;
    }
}

/// The length of a block comment, which may have others inside.
fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// How many lines of a source carry code, doc comments and plain comments. A line with code counts
/// as code alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    /// Lines with code, attributes and literals included.
    pub(crate) code: usize,
    /// Lines of doc comments.
    pub(crate) doc: usize,
    /// Lines of plain comments.
    pub(crate) plain: usize,
}

/// The lines of a source by what they carry.
pub(crate) fn lines(text: &str) -> Lines {
    let mut carried = vec![Carried::None; text.matches('\n').count() + 1];
    let mut line = 0;
    let mut counted = 0;
    for Piece { kind, bytes } in pieces(text).iter() {
        let carries = match kind {
            Kind::Code | Kind::Literal => Carried::Code,
            Kind::Doc => Carried::Doc,
            Kind::Plain => Carried::Plain,
        };
        line += breaks(&text[counted..bytes.start]);
        let first = line;
        line += breaks(&text[bytes.clone()]);
        counted = bytes.end;
        for one in &mut carried[first..=line] {
            *one = carries.max(*one);
        }
    }
    Lines {
        code: carried.iter().filter(|line| **line == Carried::Code).count(),
        doc: carried.iter().filter(|line| **line == Carried::Doc).count(),
        plain: carried.iter().filter(|line| **line == Carried::Plain).count(),
    }
}

fn breaks(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// What a line carries. The later counts where it carries several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carried {
    None,
    Plain,
    Doc,
    Code,
}

#[cfg(test)]
mod tests {
    use super::{Kind, Lines, lines, pieces};

    const SAMPLE: &str = "//! What.

/// Doc.
/// More.
fn f() {
    // Why.
    let a = \"// no é
  comment\"; // after
    /* a /* b */
 c */
}
";

    #[test]
    fn lines_are_counted_by_what_they_carry() {
        assert_eq!(lines(SAMPLE), Lines { code: 4, doc: 3, plain: 3 });
    }

    #[test]
    fn comments_are_found_with_their_text() {
        let mut plain = Vec::new();
        for piece in pieces(SAMPLE).iter() {
            if piece.kind == Kind::Plain {
                plain.push(&SAMPLE[piece.bytes.clone()]);
            }
        }
        assert_eq!(plain, ["// Why.", "// after", "/* a /* b */\n c */"]);
    }
}
