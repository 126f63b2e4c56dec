//! The text of one paragraph, heading or HTML block, and the addresses that it loads.

use std::ops::Range;

use super::Scope;
use super::address::markdown_hosts;
use super::elements::{Load, loads};
use super::inline::{InlineParts, Reading, scan};
use super::links::{Lookahead, are_definitions, definition, label, normalized};
use crate::guard::egress::authority::{HostUrl, Mention, mentions};

/// The form of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Markdown.
    Markdown,
    /// Raw HTML.
    Html,
}

/// The end of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitEnd {
    /// More of it may follow.
    Open,
    /// It is complete.
    Complete,
    /// The text is cut there, and other text may be shown directly after it.
    Cut,
}

/// A part of a unit that may load something, by positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// An address that is loaded.
    Address(Range<usize>, HostUrl),
    /// The scheme of an address that is loaded.
    Replaced(Range<usize>, HostUrl),
    /// An attribute that loads something.
    Attribute(usize, HostUrl),
    /// The scheme of an address that a click opens, or the place before it.
    Link(Range<usize>, HostUrl),
    /// The `<` of a tag that must not be one, and what replaces it.
    Tag(usize, &'static str, HostUrl),
    /// The label of an image.
    Label(Range<usize>, String),
    /// The destination of a definition with that label.
    Definition(Range<usize>, String, HostUrl),
}

impl Item {
    const fn start(&self) -> usize {
        match self {
            Self::Address(range, _)
            | Self::Replaced(range, _)
            | Self::Link(range, _)
            | Self::Label(range, _)
            | Self::Definition(range, ..) => range.start,
            Self::Tag(at, ..) | Self::Attribute(at, _) => *at,
        }
    }
}

/// A line of a unit.
#[derive(Clone, Copy, Debug)]
struct UnitLine {
    /// Its position in the unit.
    at: usize,
    /// Its position in the answer's text.
    position: usize,
}

/// The part of a unit on which the rest may depend.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    scope: Scope,
    text: String,
    lines: Vec<UnitLine>,
    /// Whether the text may load something.
    is_candidate: bool,
    /// Whether a line can be the delimiter row of a table.
    is_table: bool,
    /// Whether the next line begins the unit, or follows definitions that begin it.
    is_front_next: bool,
    /// The same for the first line of the text.
    is_front: bool,
}

impl Unit {
    /// A unit without text.
    pub(super) const fn new(scope: Scope) -> Self {
        Self {
            scope,
            text: String::new(),
            lines: Vec::new(),
            is_candidate: false,
            is_table: false,
            is_front_next: true,
            is_front: true,
        }
    }

    /// Appends a line. `position` is its position in the answer's text.
    pub(super) fn push(&mut self, line: &str, position: usize) {
        self.is_table |= is_delimiter_row(line);
        if self.text.is_empty() {
            self.is_front = std::mem::take(&mut self.is_front_next);
            // Most lines have no effect on the following ones.
            let special = memchr::memchr3(b'`', b'<', b'[', line.as_bytes());
            let is_plain = special.is_none() && !line.ends_with('!');
            if is_plain && self.scope != Scope::Links {
                return;
            }
        } else {
            self.text.push('\n');
        }
        self.lines.push(UnitLine { at: self.text.len(), position });
        self.text.push_str(line);
        self.is_candidate |=
            self.scope == Scope::Links || candidate(line.as_bytes(), true).is_some();
    }

    /// Whether the text may load something.
    pub(super) const fn is_candidate(&self) -> bool {
        self.is_candidate
    }

    /// The length of the text in bytes.
    pub(super) const fn len(&self) -> usize {
        self.text.len()
    }

    /// Removes the text. The unit continues.
    pub(super) fn clear(&mut self) {
        self.is_front_next = self.is_front && are_definitions(self.text.as_bytes());
        self.text.clear();
        self.lines.clear();
        self.is_candidate = false;
    }

    /// Begins another unit.
    pub(super) fn reset(&mut self) {
        self.clear();
        (self.is_table, self.is_front_next) = (false, true);
    }

    /// The position in the answer's text.
    fn position(&self, at: usize) -> usize {
        match self.lines.iter().rev().find(|line| line.at <= at) {
            Some(line) => line.position + (at - line.at),
            None => 0,
        }
    }

    /// A range in the answer's text.
    pub(super) fn place(&self, range: &Range<usize>) -> Range<usize> {
        self.position(range.start)..self.position(range.end)
    }

    /// The position of the first part that may have to be changed. With `labels`, definitions are
    /// such parts.
    pub(super) fn candidate(&self, labels: bool) -> Option<usize> {
        if self.scope == Scope::Links {
            return Some(self.position(0));
        }
        Some(self.position(candidate(self.text.as_bytes(), labels)?))
    }

    /// The items of the unit, in their order. `None` if more text could change them.
    pub(super) fn items(
        &self,
        form: Form,
        readings: &[Reading],
        end: UnitEnd,
    ) -> Option<Vec<Item>> {
        let mut items = Vec::new();
        match form {
            Form::Html => {
                self.html(0..self.text.len(), form, true, &mut items);
                self.mentions(0..self.text.len(), &[], &mut items);
                // An open tag or style sheet may still end in the next lines.
                let is_open = items.iter().any(|item| matches!(item, Item::Tag(..)));
                if end == UnitEnd::Open && (is_open || self.text.ends_with('<')) {
                    return None;
                }
            }
            Form::Markdown => {
                for reading in readings {
                    self.markdown(0..self.text.len(), *reading, end, &mut items)?;
                }
                let definitions = self.definitions(end, &mut items)?;
                // Backticks in a definition open no code span.
                if definitions > 0 {
                    for reading in readings {
                        self.markdown(definitions..self.text.len(), *reading, end, &mut items)?;
                    }
                }
                self.cells(readings, end, &mut items)?;
            }
        }
        items.sort_by_key(|item| (item.start(), matches!(item, Item::Link(..))));
        Some(if self.scope == Scope::Links { without_inner_links(items) } else { items })
    }

    /// Adds the items of a range for one renderer.
    fn markdown(
        &self,
        range: Range<usize>,
        reading: Reading,
        end: UnitEnd,
        items: &mut Vec<Item>,
    ) -> Option<()> {
        let base = range.start;
        let text = self.text.get(range)?;
        let InlineParts { destinations, links, code, labels, html, is_open } =
            scan(text.as_bytes(), reading);
        if is_open && end == UnitEnd::Open {
            return None;
        }
        for range in destinations {
            for host in markdown_hosts(text.get(range.clone())?) {
                items.push(Item::Address(base + range.start..base + range.end, host));
            }
        }
        if self.scope == Scope::Links {
            for range in links {
                for host in markdown_hosts(text.get(range.clone())?) {
                    items.push(Item::Link(base + range.start..base + range.start, host));
                }
            }
            self.mentions(base..base + text.len(), &code, items);
        }
        for range in labels {
            let label = normalized(text.get(range.clone())?);
            if !label.is_empty() {
                items.push(Item::Label(base + range.start..base + range.end, label));
            }
        }
        for range in html {
            let range = base + range.start..base + range.end;
            self.html(range, Form::Markdown, end == UnitEnd::Cut, items);
        }
        Some(())
    }

    /// Adds the URLs in a range that are outside of code. The positions of code begin at the range.
    fn mentions(&self, range: Range<usize>, code: &[Range<usize>], items: &mut Vec<Item>) {
        if self.scope != Scope::Links {
            return;
        }
        for mention in mentions(self.text.get(range.clone()).unwrap_or_default()) {
            let Mention { range: Range { start, end }, authority, is_web, url } = mention;
            // A span that ends before the URL does is not all of it.
            let is_code = code.iter().any(|code| code.start <= start && end <= code.end);
            if !is_web || is_code {
                continue;
            }
            // A backslash could escape what follows it.
            let front = self.text.get(range.start + start..range.start + authority);
            let front = front.unwrap_or_default();
            let end = if front.contains('\\') { start } else { authority };
            items.push(Item::Link(range.start + start..range.start + end, url));
        }
    }

    /// Adds the items of raw HTML. In an HTML block, a change must not end the block.
    fn html(&self, range: Range<usize>, form: Form, continues: bool, items: &mut Vec<Item>) {
        for load in loads(&self.text, range, continues) {
            items.push(match load {
                Load::Link(..) if self.scope != Scope::Links => continue,
                Load::Link(at, host) => Item::Link(at..at, host),
                Load::Attribute(at, host) => Item::Attribute(at, host),
                Load::Style(at, host) if form == Form::Html && self.is_first(at) => {
                    Item::Tag(at, "<pre><removed-", host)
                }
                Load::Style(at, host) => Item::Tag(at, "<removed-", host),
                Load::Unclosed(at, host) if form == Form::Html && self.is_first(at) => {
                    Item::Tag(at, "<div>&lt;", host)
                }
                // A bare URL would continue over a reference, but not over a space.
                Load::Unclosed(at, host) if form == Form::Markdown => Item::Tag(at, " &lt;", host),
                Load::Unclosed(at, host) => Item::Tag(at, "&lt;", host),
            });
        }
    }

    /// Whether a byte is the first of the unit, after white space.
    fn is_first(&self, at: usize) -> bool {
        match self.text.get(..at) {
            Some(front) => self.is_front && front.trim_start().is_empty(),
            None => false,
        }
    }

    /// Adds the definitions, and returns the position after them. Only the start of a paragraph has
    /// some.
    fn definitions(&self, end: UnitEnd, items: &mut Vec<Item>) -> Option<usize> {
        let mut at = 0;
        while self.is_front && at < self.text.len() {
            match definition(self.text.as_bytes(), at) {
                Lookahead::Found(found) => {
                    let label = normalized(self.text.get(found.label)?);
                    let written = self.text.get(found.destination.clone())?;
                    for host in markdown_hosts(written) {
                        let range = found.destination.clone();
                        if self.scope == Scope::Links {
                            items.push(Item::Link(range.start..range.start, host.clone()));
                        }
                        items.push(Item::Definition(range, label.clone(), host));
                    }
                    at = found.end;
                }
                Lookahead::Ended if end == UnitEnd::Open => return None,
                Lookahead::Ended | Lookahead::Absent => break,
            }
        }
        Some(at)
    }

    /// Adds the items of each cell, if the unit may be a table (GFM section 4.10). A cell ends also
    /// within a code span.
    fn cells(&self, readings: &[Reading], end: UnitEnd, items: &mut Vec<Item>) -> Option<()> {
        if !self.is_table {
            // A delimiter row after the last line would make it the head of a table, in which a
            // code span is not one any more.
            let last = self.lines.last()?.at;
            let line = self.text.get(last..)?;
            let may_be_split = self.text.contains('`') && (last > 0 || line.contains('|'));
            let is_candidate = candidate(line.as_bytes(), false).is_some();
            let is_open = end == UnitEnd::Open && may_be_split && is_candidate;
            return if is_open { None } else { Some(()) };
        }
        let mut from = 0;
        let mut is_escaped = false;
        for (at, byte) in self.text.bytes().chain([b'\n']).enumerate() {
            // A row is one line, so that a span does not continue in the next one.
            if byte == b'\n' || (byte == b'|' && !is_escaped) {
                for reading in readings {
                    self.markdown(from..at, *reading, UnitEnd::Complete, items)?;
                }
                from = at + 1;
            }
            is_escaped = byte == b'\\' && !is_escaped;
        }
        Some(())
    }
}

/// The items without links in an address that is loaded. Where links are changed, the scheme of
/// such an address is replaced too.
fn without_inner_links(items: Vec<Item>) -> Vec<Item> {
    let mut kept: Vec<Item> = Vec::new();
    let mut loaded = 0;
    for item in items {
        match &item {
            Item::Address(range, _) => loaded = loaded.max(range.end),
            Item::Link(range, _) if range.start < loaded => {
                if let Some(Item::Address(address, host)) = kept.last()
                    && address.start == range.start
                    && !range.is_empty()
                {
                    let replaced = Item::Replaced(range.clone(), host.clone());
                    kept.retain(|known| known.start() != range.start);
                    kept.push(replaced);
                }
                continue;
            }
            Item::Replaced(..)
            | Item::Attribute(..)
            | Item::Link(..)
            | Item::Tag(..)
            | Item::Label(..)
            | Item::Definition(..) => {}
        }
        kept.push(item);
    }
    kept
}

/// Whether a line may be the delimiter row of a table.
fn is_delimiter_row(line: &str) -> bool {
    line.bytes().all(|byte| matches!(byte, b'|' | b':' | b'-' | b' ' | b'\t')) && line.contains('-')
}

/// The position of the first part of a text that may have to be changed. With `labels`, definitions
/// are such parts.
pub(super) fn candidate(text: &[u8], labels: bool) -> Option<usize> {
    let tag = memchr::memchr_iter(b'<', text).find(|at| match text.get(at + 1) {
        Some(next) => next.is_ascii_alphabetic() || matches!(next, b'!' | b'?'),
        None => true,
    });
    let front = text.get(..tag.unwrap_or(text.len())).unwrap_or_default();
    for at in memchr::memchr_iter(b'[', front) {
        if front.get(..at).unwrap_or_default().ends_with(b"!") {
            return Some(at - 1);
        }
        let rest = front.get(at..).unwrap_or_default();
        // A definition of the mark is always one.
        let is_mark = matches!(rest.get(1..), Some([] | [b'#' | b' ' | b'\t', ..]));
        if (labels || is_mark) && may_be_defined(rest) {
            return Some(at);
        }
    }
    // A bracket may follow.
    if tag.is_none() && text.ends_with(b"!") { Some(text.len() - 1) } else { tag }
}

/// Whether a text may begin with a definition.
fn may_be_defined(text: &[u8]) -> bool {
    match label(text, 0) {
        Lookahead::Found(end) => matches!(text.get(end), None | Some(b':')),
        Lookahead::Ended => true,
        Lookahead::Absent => false,
    }
}
