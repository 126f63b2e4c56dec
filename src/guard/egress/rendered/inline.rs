//! The images and the raw HTML in a text, for one renderer (CommonMark 0.31, chapter 6).

use std::ops::Range;

use super::links::{Lookahead, after_spaces, destination, is_escapable, label, title};
use super::tags::{Extent, HtmlRules, autolink, raw};

/// A label of more bytes may be too long with a mark.
const LONG_LABEL: usize = 900;

/// How a renderer reads a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Its rules for HTML.
    pub(super) rules: HtmlRules,
    /// Whether a bare URL is a link (GFM section 6.9).
    pub(super) bare_links: bool,
}

/// What a text contains, by positions.
#[derive(Debug, Default)]
pub(super) struct InlineParts {
    /// The destinations of images.
    pub(super) destinations: Vec<Range<usize>>,
    /// The destinations of links, and autolinks.
    pub(super) links: Vec<Range<usize>>,
    /// Code spans.
    pub(super) code: Vec<Range<usize>>,
    /// The labels of images.
    pub(super) labels: Vec<Range<usize>>,
    /// Raw HTML.
    pub(super) html: Vec<Range<usize>>,
    /// Whether more text could change the result.
    pub(super) is_open: bool,
}

/// An opening bracket.
struct OpenBracket {
    /// The position after it.
    after: usize,
    is_image: bool,
}

/// A pass over a text.
struct Scan<'t> {
    text: &'t [u8],
    reading: Reading,
    at: usize,
    /// The position after the last bare URL.
    bare_end: usize,
    brackets: Vec<OpenBracket>,
    parts: InlineParts,
}

/// Finds the images and the raw HTML in a text.
pub(super) fn scan(text: &[u8], reading: Reading) -> InlineParts {
    let parts = InlineParts::default();
    let mut scan = Scan { text, reading, at: 0, bare_end: 0, brackets: Vec::new(), parts };
    while let Some(byte) = text.get(scan.at) {
        match byte {
            // A bare URL includes these. Its other text may be shown without it.
            b'\\' | b'`' if scan.at < scan.bare_end => scan.at += 1,
            b'\\' if is_escapable(text.get(scan.at + 1)) => scan.at += 2,
            b'`' => scan.code(),
            b'<' => scan.angle(),
            b'!' if text.get(scan.at + 1) == Some(&b'[') => scan.open(2),
            b'[' => scan.open(1),
            b']' => scan.close(),
            b'h' | b'H' | b'f' | b'F' | b'w' | b'W' if reading.bare_links => scan.bare_link(),
            _ => scan.at += 1,
        }
    }
    // No bare URL begins within brackets.
    let is_open = |bracket: &OpenBracket| bracket.is_image || reading.bare_links;
    scan.parts.is_open |= scan.brackets.iter().any(is_open);
    scan.parts
}

impl<'t> Scan<'t> {
    fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// An opening bracket of `length` bytes.
    fn open(&mut self, length: usize) {
        self.at += length;
        self.brackets.push(OpenBracket { after: self.at, is_image: length == 2 });
    }

    /// Backticks: a code span if an equal run follows, otherwise text.
    fn code(&mut self) {
        let length = self.backticks(self.at);
        let mut end = self.at + length;
        while let Some(next) = memchr::memchr(b'`', self.text.get(end..).unwrap_or_default()) {
            let run = self.backticks(end + next);
            end += next + run;
            if run == length {
                self.parts.code.push(self.at..end);
                self.at = end;
                // More backticks would make the run longer.
                self.parts.is_open |= end == self.text.len();
                return;
            }
        }
        self.at += length;
        self.parts.is_open = true;
    }

    fn backticks(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        rest.iter().take_while(|byte| **byte == b'`').count()
    }

    /// `<`: an autolink, raw HTML or text.
    fn angle(&mut self) {
        if let Some(length) = autolink(self.rest()) {
            self.parts.links.push(self.at + 1..self.at + length - 1);
            self.at += length;
            return;
        }
        let found = match self.reading.rules {
            HtmlRules::None => None,
            rules @ (HtmlRules::CommonMark | HtmlRules::Gfm) => raw(self.rest(), rules),
        };
        match found {
            Some(Extent::Known(length)) => {
                self.parts.html.push(self.at..self.at + length);
                self.at += length;
            }
            Some(Extent::Open) => {
                self.parts.html.push(self.at..self.text.len());
                self.parts.is_open = true;
                self.at += 1;
            }
            None => self.at += 1,
        }
    }

    /// `]`: the end of an image, of a link, or text.
    fn close(&mut self) {
        let inner = self.at;
        self.at += 1;
        let Some(OpenBracket { after, is_image }) = self.brackets.pop() else { return };
        // The bracket of a link needs its target too: what is in it is not text.
        match self.target(is_image) {
            Lookahead::Found(end) => {
                self.at = end;
                return;
            }
            Lookahead::Ended => self.parts.is_open = true,
            Lookahead::Absent => {}
        }
        if !is_image {
            return;
        }
        // A definition may follow later, so that every label counts.
        let own = after..inner;
        let label = match label(self.text, self.at) {
            Lookahead::Found(end) if end > self.at + 2 => {
                // With a mark, a long label is none any more. Then the text of the image counts.
                if end - self.at > LONG_LABEL {
                    self.parts.labels.push(own);
                }
                self.at + 1..end - 1
            }
            Lookahead::Found(_) | Lookahead::Absent => own,
            Lookahead::Ended => {
                self.parts.is_open = true;
                own
            }
        };
        self.parts.labels.push(label);
    }

    /// A destination with an optional title, in parentheses; the position after them.
    fn target(&mut self, is_image: bool) -> Lookahead<usize> {
        match self.text.get(self.at) {
            None => return Lookahead::Ended,
            Some(b'(') => {}
            Some(_) => return Lookahead::Absent,
        }
        let start = after_spaces(self.text, self.at + 1);
        let found = match destination(self.text, start) {
            Lookahead::Found(found) => found,
            Lookahead::Absent => return Lookahead::Absent,
            Lookahead::Ended => {
                // The rest of the destination may follow.
                if is_image && start < self.text.len() {
                    self.parts.destinations.push(start..self.text.len());
                }
                return Lookahead::Ended;
            }
        };
        let end = match self.after_title(found.end) {
            Lookahead::Absent => return Lookahead::Absent,
            end @ (Lookahead::Found(_) | Lookahead::Ended) => end,
        };
        // Also without a closing parenthesis, because it may follow.
        if is_image {
            self.parts.destinations.push(found.range);
        } else {
            self.parts.links.push(found.range);
        }
        end
    }

    /// The position after an optional title and the closing parenthesis.
    fn after_title(&self, at: usize) -> Lookahead<usize> {
        let mut end = after_spaces(self.text, at);
        if end > at {
            match title(self.text, end) {
                Lookahead::Found(titled) => end = after_spaces(self.text, titled),
                Lookahead::Absent => {}
                Lookahead::Ended => return Lookahead::Ended,
            }
        }
        match self.text.get(end) {
            None => Lookahead::Ended,
            Some(b')') => Lookahead::Found(end + 1),
            Some(_) => Lookahead::Absent,
        }
    }

    /// A bare URL. It includes all bytes up to white space, also backticks.
    fn bare_link(&mut self) {
        let rest = self.rest();
        let fronts: [&[u8]; 4] = [b"http://", b"https://", b"ftp://", b"www."];
        let begins = fronts.iter().any(|front| match rest.get(..front.len()) {
            Some(own) => own.eq_ignore_ascii_case(front),
            None => false,
        });
        self.at += 1;
        if !begins || !self.brackets.is_empty() {
            return;
        }
        // It may contain brackets and backticks, which then have no effect.
        let link = rest.split(|byte| byte.is_ascii_whitespace() || *byte == b'<').next();
        let link = link.unwrap_or_default();
        self.parts.is_open |= link.len() == rest.len();
        // Punctuation at the end is not a part of it.
        let trailing = link.iter().rev().take_while(|byte| b"?!.,:*_~'\")".contains(byte)).count();
        self.bare_end = self.bare_end.max(self.at - 1 + link.len() - trailing);
    }
}
