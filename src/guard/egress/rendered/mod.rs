//! The response filter for text that a person reads in a Markdown renderer. It changes what the
//! renderer would load from a host that is not controlled. It never changes code.
//!
//! The promise is for renderers that follow CommonMark 0.31 or GFM, with or without raw HTML, and
//! for HTML as the WHATWG defines it, without scripts. These renderers differ in details. What one
//! of them loads counts, and code is what is code for all of them.
//!
//! `blocks` finds the lines that are code, text and raw HTML. A `unit` is one paragraph, heading or
//! HTML block. When no more text can change what a unit loads, `findings` judges it. Only text from
//! the first candidate on is held back.

mod address;
mod blocks;
mod cursor;
mod elements;
mod findings;
mod html_blocks;
mod inline;
mod links;
mod references;
mod tags;
mod unit;

use std::ops::Range;

pub use findings::{Judge, LoadUse, MARK, Verdict};

use crate::guard::egress::authority::mentions;
use blocks::{Blocks, LineKind};
use findings::{Edit, TextFindings};
use inline::Reading;
use tags::HtmlRules;
use unit::{Form, Item, Unit, UnitEnd, candidate};

/// The longest text of a paragraph that is held back. A code span that is still open there counts
/// as text.
const MARKDOWN_MAX: usize = 16 << 10;
/// The longest raw HTML that is held back. A tag that is still open there counts as not closed.
const HTML_MAX: usize = 64 << 10;
/// The rules of the renderers.
const RULES: [HtmlRules; 3] = [HtmlRules::CommonMark, HtmlRules::Gfm, HtmlRules::None];

/// The addresses in a text that may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None: the text is sent at once. Its addresses are only reported.
    Nothing,
    /// What a renderer loads. Links are only reported.
    Loads,
    /// What a renderer loads, and links.
    Links,
}

/// The text as it is for renderers that agree on the blocks.
#[derive(Clone, Debug)]
struct View {
    blocks: Blocks,
    readings: Vec<Reading>,
    form: Form,
    unit: Unit,
    /// The length of the unit when it was read the last time, and more text could change the
    /// result.
    open: usize,
}

/// The filter of one text.
///
/// The output does not depend on how the text is cut into pieces.
#[derive(Clone, Debug)]
pub struct RenderedText {
    scope: Scope,
    /// The text from the position `base` on.
    text: String,
    base: usize,
    /// The position after the text that was sent.
    sent: usize,
    /// The position of the incomplete line.
    line: usize,
    /// The bytes of the incomplete line that have no candidate.
    searched: usize,
    /// A longer incomplete line is not held back.
    line_max: usize,
    /// One view as long as all renderers agree, otherwise one for each of [`RULES`].
    views: Vec<View>,
    findings: TextFindings,
}

/// The readings of renderers with these rules.
fn readings(rules: HtmlRules) -> impl Iterator<Item = Reading> {
    let bare_links: &[bool] = match rules {
        HtmlRules::CommonMark | HtmlRules::None => &[false],
        HtmlRules::Gfm => &[false, true],
    };
    bare_links.iter().map(move |bare_links| Reading { rules, bare_links: *bare_links })
}

impl RenderedText {
    /// A filter for a text from its beginning.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        let view = View {
            blocks: Blocks::new(HtmlRules::CommonMark),
            readings: RULES.into_iter().flat_map(readings).collect(),
            form: Form::Markdown,
            unit: Unit::new(scope),
            open: 0,
        };
        Self {
            scope,
            text: String::new(),
            base: 0,
            sent: 0,
            line: 0,
            searched: 0,
            line_max: MARKDOWN_MAX,
            views: vec![view],
            findings: TextFindings::default(),
        }
    }

    /// Whether text is held back.
    #[must_use]
    pub const fn is_holding(&self) -> bool {
        self.sent < self.base + self.text.len()
    }

    /// Whether a verdict has ended the text.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.findings.is_blocked
    }

    /// Takes the next piece of the text, and appends the output to `out`.
    pub fn push(&mut self, text: &str, out: &mut String, judge: &mut Judge<'_>) {
        let mut from = self.text.len();
        // A carriage return at the end may be a half of a line's end.
        if self.text.ends_with('\r') && self.line < self.base + from {
            from -= 1;
        }
        self.text.push_str(text);
        while let Some(found) = next_line(&self.text, from) {
            self.take(self.line - self.base..found.length, judge);
            self.line = self.base + found.next;
            (self.searched, self.line_max) = (0, MARKDOWN_MAX);
            from = found.next;
        }
        // The limit grows, so that a long line is read again only a few times.
        if self.base + self.text.len() - self.line > self.line_max {
            self.line_max *= 2;
            self.pause(out, judge);
            return;
        }
        let labels = self.findings.has_labels;
        let mut limit = match self.scope {
            Scope::Nothing => return self.send(self.base + self.text.len(), out),
            Scope::Loads => self.candidate_in_line(labels),
            Scope::Links => self.line,
        };
        for view in &self.views {
            if view.unit.is_candidate()
                && let Some(position) = view.unit.candidate(labels)
            {
                limit = limit.min(position);
            }
        }
        self.send(limit, out);
    }

    /// Appends the held text, because no text follows, or because other text may be shown directly
    /// after it.
    pub fn pause(&mut self, out: &mut String, judge: &mut Judge<'_>) {
        // The line is read again from its beginning if it continues.
        let views = self.views.clone();
        let end = self.text.len();
        if self.line < self.base + end {
            self.take(self.line - self.base..end, judge);
        }
        for view in &self.views {
            if let Some(items) = view.items(UnitEnd::Cut) {
                self.findings.accept(&view.unit, items, judge);
            }
        }
        self.views = views;
        self.send(self.base + end, out);
    }

    /// Appends the held text without a judgement, because it was sent before.
    pub fn release(&mut self, out: &mut String) {
        self.send(self.base + self.text.len(), out);
    }

    /// The position of the first candidate in the incomplete line.
    fn candidate_in_line(&mut self, labels: bool) -> usize {
        let line = self.text.as_bytes().get(self.line - self.base..).unwrap_or_default();
        match candidate(line.get(self.searched..).unwrap_or_default(), labels) {
            Some(at) => self.line + self.searched + at,
            None => {
                self.searched = line.len();
                self.line + line.len()
            }
        }
    }

    /// Takes a line without its end.
    fn take(&mut self, range: Range<usize>, judge: &mut Judge<'_>) {
        // The range is at the ends of characters, because a line's end is one byte.
        let Some(line) = self.text.get(range.clone()) else { return };
        // Renderers can differ about the blocks only where HTML may begin.
        if self.views.len() == 1 && memchr::memchr(b'<', line.as_bytes()).is_some() {
            separate(&mut self.views);
        }
        let position = self.base + range.start;
        let mut is_text = false;
        for view in &mut self.views {
            is_text |= view.take(line, position, &mut self.findings, judge);
        }
        join(&mut self.views);
        if is_text && self.scope != Scope::Links {
            for mention in mentions(line) {
                if mention.is_web && !is_loaded_or_code(line, mention.range.start) {
                    self.findings.mentioned(&mention, position, judge);
                }
            }
        }
    }

    /// Appends the text up to the position `limit`, with its changes.
    fn send(&mut self, mut limit: usize, out: &mut String) {
        if self.findings.is_blocked {
            self.text.clear();
            (self.base, self.line) = (self.sent, self.sent);
            return;
        }
        while let Some(entry) = self.findings.edits.first_entry() {
            let start = *entry.key();
            if start >= limit {
                break;
            }
            // What is removed as a whole is sent as a whole.
            if entry.get().removed > limit {
                limit = start;
                break;
            }
            let Edit { end, removed, text } = entry.remove();
            // The start of an address may have been sent before a pause.
            let is_new = self.findings.changed != Some(start);
            if start >= self.sent || (end > self.sent && is_new) {
                self.findings.changed = Some(start);
                self.copy(start, out);
                out.push_str(text);
                self.sent = self.sent.max(removed);
            }
        }
        self.copy(limit, out);
        let done = self.sent.min(self.line);
        if done > self.base {
            self.findings.forget(done);
            self.text.drain(..done - self.base);
            self.base = done;
        }
    }

    /// Appends the text up to a position.
    fn copy(&mut self, end: usize, out: &mut String) {
        if end > self.sent {
            let range = self.sent - self.base..end - self.base;
            out.push_str(self.text.get(range).unwrap_or_default());
            self.sent = end;
        }
    }
}

/// Makes a view for each kind of renderer of the common one.
fn separate(views: &mut Vec<View>) {
    let Some(common) = views.pop() else { return };
    for rules in RULES {
        let blocks = common.blocks.with(rules);
        let readings = readings(rules).collect();
        views.push(View { blocks, readings, ..common.clone() });
    }
}

/// Makes one view of all, if they agree and no text waits in them.
fn join(views: &mut Vec<View>) {
    let [first, others @ ..] = views.as_slice() else { return };
    let is_same = |other: &View| other.unit.len() == 0 && other.blocks.is_same(&first.blocks);
    if !others.is_empty() && first.unit.len() == 0 && others.iter().all(is_same) {
        views.truncate(1);
        for view in views {
            view.readings = RULES.into_iter().flat_map(readings).collect();
        }
    }
}

impl View {
    /// Takes a line at a position of the text. Returns whether the line is text.
    fn take(
        &mut self,
        line: &str,
        position: usize,
        findings: &mut TextFindings,
        judge: &mut Judge<'_>,
    ) -> bool {
        let read = self.blocks.line(line.as_bytes());
        let (form, begins, ends) = match read.kind {
            LineKind::Code | LineKind::Empty => {
                self.close(findings, judge);
                return false;
            }
            LineKind::Heading => (Form::Markdown, true, true),
            LineKind::Text { begins } => (Form::Markdown, begins, false),
            LineKind::Html { begins, ends } => (Form::Html, begins, ends),
        };
        // Text after an HTML block may begin a unit without a blank line.
        if begins || form != self.form {
            self.close(findings, judge);
        }
        self.form = form;
        self.unit.push(line.get(read.from..).unwrap_or_default(), position + read.from);
        if ends {
            self.close(findings, judge);
            return true;
        }
        let is_long = self.unit.len() > self.length_max();
        // A unit is read again only when it has twice the length, so that many short lines do not
        // cost more than their length.
        if self.unit.len() < 2 * self.open && !is_long {
            return true;
        }
        if self.unit.is_candidate() {
            let end = if is_long { UnitEnd::Complete } else { UnitEnd::Open };
            // Without items, the unit waits for its next lines.
            let Some(items) = self.items(end) else {
                self.open = self.unit.len();
                return true;
            };
            findings.accept(&self.unit, items, judge);
            self.open = 0;
            self.unit.clear();
        } else if is_long {
            self.unit.clear();
        }
        true
    }

    const fn length_max(&self) -> usize {
        match self.form {
            Form::Markdown => MARKDOWN_MAX,
            Form::Html => HTML_MAX,
        }
    }

    fn items(&self, end: UnitEnd) -> Option<Vec<Item>> {
        self.unit.items(self.form, &self.readings, end)
    }

    /// Ends the unit.
    fn close(&mut self, findings: &mut TextFindings, judge: &mut Judge<'_>) {
        if self.unit.is_candidate()
            && let Some(items) = self.items(UnitEnd::Complete)
        {
            findings.accept(&self.unit, items, judge);
        }
        self.open = 0;
        self.unit.reset();
    }
}

/// Whether a URL at `at` of a line is probably the address of an image, or in a code span. This
/// only affects what is reported.
fn is_loaded_or_code(line: &str, at: usize) -> bool {
    let front = line.get(..at).unwrap_or_default();
    let ticks = front.bytes().filter(|byte| *byte == b'`').count();
    let is_image = match front.rfind("![") {
        Some(image) => !front.get(image..).unwrap_or_default().contains(')'),
        None => false,
    };
    let is_value = match front.rfind('<') {
        Some(tag) => {
            let tag = front.get(tag + 1..).unwrap_or_default();
            !tag.contains('>') && tag.contains('=') && !tag.starts_with(['a', 'A'])
        }
        None => false,
    };
    ticks % 2 == 1 || is_image || is_value
}

/// The end of a line in a text.
struct LineEnd {
    /// The position of the end.
    length: usize,
    /// The position of the next line.
    next: usize,
}

/// The first end of a line from `from` on. A carriage return at the end of the text is none yet.
fn next_line(text: &str, from: usize) -> Option<LineEnd> {
    let bytes = text.as_bytes();
    let length = from + memchr::memchr2(b'\n', b'\r', bytes.get(from..)?)?;
    match bytes.get(length..)? {
        [b'\r', b'\n', ..] => Some(LineEnd { length, next: length + 2 }),
        [b'\r'] => None,
        _ => Some(LineEnd { length, next: length + 1 }),
    }
}

#[cfg(test)]
mod tests;
