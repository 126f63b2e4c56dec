//! Which lines of a text are code, raw HTML or text (CommonMark 0.31, chapters 4 and 5).
//!
//! Renderers differ in the HTML that they know. Each of them has its own [`Blocks`].

use super::cursor::Cursor;
use super::html_blocks::{HtmlEnd, opens};
use super::links::are_definitions;
use super::tags::HtmlRules;

/// The most containers within each other.
const DEPTH_MAX: usize = 64;

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// Code.
    Code,
    /// Text of a paragraph; its first line if it `begins` there.
    Text { begins: bool },
    /// A heading, which has one line.
    Heading,
    /// Raw HTML: the first line of a block if it `begins` there, the last if it `ends`.
    Html { begins: bool, ends: bool },
    /// No text: a blank line, a thematic break, the underline of a heading, an empty item.
    Empty,
}

/// A line as a renderer sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockLine {
    /// The kind of the line.
    pub(super) kind: LineKind,
    /// The offset of its text in bytes, after the marks of its containers.
    pub(super) from: usize,
}

/// A block that contains others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    /// A block quote.
    Quote,
    /// An item of a list. `width` is the number of columns before its content.
    Item { width: usize, is_empty: bool },
}

/// The last open block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    None,
    Paragraph,
    Fence { mark: u8, length: usize },
    Indented,
    Html(HtmlEnd),
}

/// The open blocks of a text, for one renderer.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    rules: HtmlRules,
    containers: Vec<Container>,
    leaf: Leaf,
    /// The open paragraph if it begins like a link reference definition.
    definitions: Option<Vec<u8>>,
}

impl Blocks {
    /// The start of a text.
    pub(super) const fn new(rules: HtmlRules) -> Self {
        Self { rules, containers: Vec::new(), leaf: Leaf::None, definitions: None }
    }

    /// The same blocks for a renderer with other rules.
    pub(super) fn with(&self, rules: HtmlRules) -> Self {
        Self { rules, ..self.clone() }
    }

    /// Whether the same blocks are open, whatever the rules are.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.containers == other.containers
            && self.leaf == other.leaf
            && self.definitions == other.definitions
    }

    /// Takes the next line, without its end.
    pub(super) fn line(&mut self, line: &[u8]) -> BlockLine {
        let mut cursor = Cursor::new(line);
        // Such a text is malicious: each blank line would cost time for each container. From here
        // on, no line of it counts as code.
        if self.containers.len() > DEPTH_MAX {
            return BlockLine { kind: LineKind::Text { begins: true }, from: cursor.text().at };
        }
        let mut count = self.continued(&mut cursor);
        let mut is_inside = count == self.containers.len();
        if is_inside && let Some(line) = self.continued_leaf(cursor) {
            return line;
        }
        loop {
            let text = cursor.text();
            let from = text.at;
            let in_paragraph = self.leaf == Leaf::Paragraph;
            if cursor.indent() >= 4 {
                // Indented text continues a paragraph.
                if in_paragraph || text.peek().is_none() {
                    break;
                }
                self.begin(count, Leaf::Indented);
                return BlockLine { kind: LineKind::Code, from: cursor.at };
            }
            let rest = text.rest();
            match rest.first() {
                Some(b'>') => {
                    self.begin(count, Leaf::None);
                    cursor = text;
                    cursor.skip(1);
                    cursor.columns(1);
                    self.open(Container::Quote);
                }
                Some(b'#') if is_heading(rest) => {
                    self.begin(count, Leaf::None);
                    return BlockLine { kind: LineKind::Heading, from };
                }
                Some(b'`' | b'~') if let Some(fence) = fence(rest) => {
                    self.begin(count, fence);
                    return BlockLine { kind: LineKind::Code, from };
                }
                // Only tags that are alone in their line do not interrupt a paragraph.
                Some(b'<') if let Some(end) = opens(rest, self.rules, in_paragraph) => {
                    self.begin(count, Leaf::None);
                    return self.html(cursor, end, true);
                }
                Some(b'=' | b'-')
                    if is_inside && in_paragraph && is_underline(rest) && !self.defines() =>
                {
                    self.close();
                    return BlockLine { kind: LineKind::Empty, from };
                }
                Some(b'*' | b'_' | b'-') if is_break(rest) => {
                    self.begin(count, Leaf::None);
                    return BlockLine { kind: LineKind::Empty, from };
                }
                Some(_) => {
                    let Some(item) = item(cursor, is_inside && in_paragraph) else { break };
                    self.begin(count, Leaf::None);
                    cursor = item.content;
                    let is_empty = cursor.is_blank();
                    self.open(Container::Item { width: item.width, is_empty });
                    if is_empty {
                        return BlockLine { kind: LineKind::Empty, from };
                    }
                }
                None => break,
            }
            count = self.containers.len();
            is_inside = true;
        }
        self.text(cursor.text(), count)
    }

    /// A line that begins no block other than a paragraph.
    fn text(&mut self, text: Cursor<'_>, count: usize) -> BlockLine {
        let from = text.at;
        if text.peek().is_none() {
            self.containers.truncate(count);
            self.close();
            return BlockLine { kind: LineKind::Empty, from };
        }
        // A paragraph continues also without the marks of its containers.
        if self.leaf == Leaf::Paragraph {
            if let Some(definitions) = &mut self.definitions {
                definitions.push(b'\n');
                definitions.extend_from_slice(text.rest());
            }
            return BlockLine { kind: LineKind::Text { begins: false }, from };
        }
        self.begin(count, Leaf::Paragraph);
        if text.peek() == Some(b'[') {
            self.definitions = Some(text.rest().to_vec());
        }
        BlockLine { kind: LineKind::Text { begins: true }, from }
    }

    /// The number of containers that continue. The cursor moves past their marks.
    fn continued(&self, cursor: &mut Cursor<'_>) -> usize {
        let mut count = 0;
        for container in &self.containers {
            let text = cursor.text();
            match container {
                Container::Quote => {
                    if cursor.indent() > 3 || text.peek() != Some(b'>') {
                        break;
                    }
                    *cursor = text;
                    cursor.skip(1);
                    cursor.columns(1);
                }
                // A blank line belongs to an item, unless the item has had no content.
                Container::Item { is_empty, .. } if text.peek().is_none() => {
                    if *is_empty {
                        break;
                    }
                    *cursor = text;
                }
                Container::Item { width, .. } => {
                    if cursor.indent() < *width {
                        break;
                    }
                    cursor.columns(*width);
                }
            }
            count += 1;
        }
        count
    }

    /// The line, if it continues code or raw HTML. Otherwise such a block ends.
    fn continued_leaf(&mut self, cursor: Cursor<'_>) -> Option<BlockLine> {
        let is_blank = cursor.is_blank();
        match self.leaf {
            Leaf::Fence { mark, length } => {
                let mut text = cursor.text();
                let run = run(text.rest(), mark);
                text.skip(run);
                if cursor.indent() <= 3 && run >= length && text.is_blank() {
                    self.leaf = Leaf::None;
                }
                Some(BlockLine { kind: LineKind::Code, from: cursor.at })
            }
            Leaf::Html(end) if !(is_blank && end == HtmlEnd::Blank) => {
                Some(self.html(cursor, end, false))
            }
            Leaf::Indented if is_blank || cursor.indent() >= 4 => {
                Some(BlockLine { kind: LineKind::Code, from: cursor.at })
            }
            Leaf::Html(_) | Leaf::Indented => {
                self.leaf = Leaf::None;
                None
            }
            Leaf::Paragraph | Leaf::None => None,
        }
    }

    /// A line of an HTML block.
    fn html(&mut self, cursor: Cursor<'_>, end: HtmlEnd, begins: bool) -> BlockLine {
        let ends = end.is_in(cursor.rest());
        self.leaf = if ends { Leaf::None } else { Leaf::Html(end) };
        BlockLine { kind: LineKind::Html { begins, ends }, from: cursor.at }
    }

    /// Begins a block in the first `count` containers.
    fn begin(&mut self, count: usize, leaf: Leaf) {
        self.containers.truncate(count);
        self.close();
        if let Some(Container::Item { is_empty, .. }) = self.containers.last_mut() {
            *is_empty = false;
        }
        self.leaf = leaf;
    }

    fn open(&mut self, container: Container) {
        self.containers.push(container);
    }

    fn close(&mut self) {
        self.leaf = Leaf::None;
        self.definitions = None;
    }

    /// Whether the open paragraph consists of definitions, so that no heading can be made of it.
    fn defines(&self) -> bool {
        match &self.definitions {
            Some(text) => are_definitions(text),
            None => false,
        }
    }
}

/// The number of equal bytes at the start.
fn run(rest: &[u8], mark: u8) -> usize {
    rest.iter().take_while(|byte| **byte == mark).count()
}

/// The opening fence in a line.
fn fence(rest: &[u8]) -> Option<Leaf> {
    let mark = *rest.first()?;
    let length = run(rest, mark);
    let info = rest.get(length..)?;
    if length < 3 || (mark == b'`' && info.contains(&mark)) {
        return None;
    }
    Some(Leaf::Fence { mark, length })
}

/// Whether a line is a heading with number signs.
fn is_heading(rest: &[u8]) -> bool {
    let level = run(rest, b'#');
    level <= 6 && matches!(rest.get(level), None | Some(b' ' | b'\t'))
}

/// Whether a line is the underline of a heading.
fn is_underline(rest: &[u8]) -> bool {
    let Some(mark) = rest.first() else { return false };
    let end = rest.get(run(rest, *mark)..).unwrap_or_default();
    end.iter().all(|byte| matches!(byte, b' ' | b'\t'))
}

/// Whether a line is a thematic break.
fn is_break(rest: &[u8]) -> bool {
    let Some(mark) = rest.first() else { return false };
    let marks = rest.iter().filter(|byte| *byte == mark).count();
    marks >= 3 && rest.iter().all(|byte| byte == mark || matches!(byte, b' ' | b'\t'))
}

/// The start of a list item.
struct ItemStart<'l> {
    /// Its content in this line.
    content: Cursor<'l>,
    /// The columns before its content.
    width: usize,
}

/// The list item that begins in a line.
fn item(cursor: Cursor<'_>, in_paragraph: bool) -> Option<ItemStart<'_>> {
    let mut content = cursor.text();
    let rest = content.rest();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, after) = rest.split_at_checked(digits)?;
    let length = match (digits, after.first()?) {
        (0, b'*' | b'+' | b'-') => 1,
        (1..=9, b'.' | b')') => digits + 1,
        _ => return None,
    };
    content.skip(length);
    let is_empty = content.is_blank();
    if !is_empty && !content.is_space() {
        return None;
    }
    // Only an item with content, and with the number 1, interrupts a paragraph.
    let is_first = digits == 0 || (number.ends_with(b"1") && run(number, b'0') == digits - 1);
    if in_paragraph && (is_empty || !is_first) {
        return None;
    }
    let spaces = content.indent();
    // More white space belongs to the content, which is indented code.
    let used = if is_empty || spaces > 4 { 1 } else { spaces };
    content.columns(used);
    Some(ItemStart { content, width: cursor.indent() + length + used })
}
