//! The URL scanner of the response filter. It finds each URL in a text, in every spelling that
//! docs/EGRESS.md lists, and replaces it by a mark unless the policy allows it.
//!
//! The scanner does not parse Markdown or HTML as one reader would. Text that any reader could take
//! for a URL counts as one. The scheme is sent at once. The text from the colon on is held until
//! the authority has been read. So the output does not depend on how the text is cut into pieces,
//! and the held text has a limit.

mod authority;
mod behind;
mod context;
mod decide;
mod dropped;
mod letters;
mod lines;
mod plain;
mod quiet;
mod reference;
mod schemes;
mod state;
mod tags;
mod userinfo;

pub use context::Kind;
pub(super) use schemes::SPECIAL;

use authority::{AUTHORITY_MAX, Lead};
use context::Context;
use letters::{ends_url, is_reference, joins};
use lines::Lines;
use reference::{Reference, Taken};
use state::{Opening, State, scheme};
use tags::Tags;
use userinfo::Stretch;

/// What is in a text where a URL was.
pub const MARK: &str = "\u{27e8}link removed\u{27e9}";

/// How often a byte is scanned again, on average and at most. Replaced text is scanned again,
/// because another URL can begin in it.
const AGAIN: usize = 2;
/// Bytes that may be read once more where a text begins.
const AGAIN_MIN: usize = 4_096;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'t> {
    /// How it would be come upon.
    pub kind: Kind,
    /// The scheme and authority with a slash.
    ///
    /// # Errors
    /// What is there, where readers do not agree on a URL.
    pub url: Result<&'t str, &'t str>,
    /// Whether it is in fenced code, where it stays.
    pub fenced: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Pass,
    /// It is replaced by [`MARK`].
    Strip,
    /// No more text comes out.
    Block,
}

/// Who judges what was found.
pub type Judged<'j> = dyn FnMut(&Found<'_>) -> Verdict + 'j;

/// The filter of one text.
#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    held: String,
    reference: Reference,
    context: Context,
    tags: Tags,
    lines: Lines,
    /// A text was cut in what could be a URL, and what follows may be put right after it.
    joint: bool,
    /// After a URL that passed, while it may continue.
    stretch: Stretch,
    /// The same before what is held.
    kept: Stretch,
    /// Tags before what is held.
    kept_tags: Tags,
    /// Bytes that may be read once more.
    credit: usize,
    /// Replaced text was scanned again since the current character arrived.
    again: bool,
}

impl Scanner {
    /// A filter for a text from its beginning. `fences` says whether fenced code is believed: not
    /// where the text continues from one that is not seen here.
    #[must_use]
    pub fn new(fences: bool) -> Self {
        Self {
            state: State::Idle,
            held: String::new(),
            reference: Reference::default(),
            context: Context::default(),
            tags: Tags::default(),
            lines: Lines::new(fences),
            joint: false,
            stretch: Stretch::Closed,
            kept: Stretch::Closed,
            kept_tags: Tags::default(),
            credit: AGAIN_MIN,
            again: false,
        }
    }

    /// Whether something is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty() || self.reference.is_open()
    }

    /// Whether a verdict has ended the text.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        matches!(self.state, State::Blocked)
    }

    /// Takes the next piece, and appends to `out` what continues.
    pub fn push(&mut self, text: &str, out: &mut String, judge: &mut Judged<'_>) {
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let quiet = if self.is_quiet() { self.quiet(rest, out) } else { 0 };
            if quiet > 0 {
                at += quiet;
                self.credit += AGAIN * quiet;
                continue;
            }
            let Some(next) = rest.chars().next() else { return };
            at += next.len_utf8();
            self.credit += AGAIN * next.len_utf8();
            self.raw(next, out, judge);
        }
    }

    /// The text is over, or other text follows that may be shown right after it: what is held
    /// comes out.
    pub fn pause(&mut self, out: &mut String, judge: &mut Judged<'_>) {
        let cut = self.reference.is_open();
        if cut {
            let taken = self.reference.end();
            self.referred(taken, None, out, judge);
        }
        let joint = cut || !matches!(self.state, State::Idle);
        // The text after a replaced URL can begin another one.
        while self.settle(out, judge) {}
        self.joint |= joint && matches!(self.state, State::Idle);
        self.lines.doubt();
    }

    /// Sends or replaces the held text. True if more of it may follow.
    fn settle(&mut self, out: &mut String, judge: &mut Judged<'_>) -> bool {
        match std::mem::take(&mut self.state) {
            State::Authority(reading) => {
                self.stretch = self.stretch_behind(reading.place, &reading.lead);
                return !self.decide(reading, false, out, judge);
            }
            State::Slashes { lead, place, .. } => {
                self.stretch = Stretch::behind(place, &lead, &self.tags);
                self.release(out);
            }
            State::Idle | State::Backslash(_) => self.release(out),
            over @ (State::Swallow | State::Blocked) => self.state = over,
        }
        false
    }

    /// A character as it is written.
    fn raw(&mut self, next: char, out: &mut String, judge: &mut Judged<'_>) {
        if self.reference.is_open() {
            let taken = self.reference.take(next);
            self.referred(taken, Some(next), out, judge);
        } else if next == '&' {
            self.reference.begin();
        } else {
            self.atom(next, next.encode_utf8(&mut [0; 4]), true, out, judge);
        }
    }

    /// What a reference turned out to be. `next` is the character that showed it.
    fn referred(
        &mut self,
        taken: Taken,
        next: Option<char>,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) {
        match taken {
            Taken::On => {}
            Taken::Whole(seen, raw) => self.atom(seen, &raw, false, out, judge),
            Taken::Before(seen, raw) => {
                self.atom(seen, &raw, false, out, judge);
                next.into_iter().for_each(|next| self.raw(next, out, judge));
            }
            Taken::Open(seen, raw, rest) => {
                self.atom(seen, &raw, false, out, judge);
                rest.chars().chain(next).for_each(|next| self.raw(next, out, judge));
            }
            Taken::Not(raw) => {
                raw.chars()
                    .for_each(|one| self.atom(one, one.encode_utf8(&mut [0; 4]), true, out, judge));
                next.into_iter().for_each(|next| self.raw(next, out, judge));
            }
            Taken::TooLong(raw) => self.absurd(&raw, out, judge),
        }
    }

    /// A character as readers see it, and how it is written.
    fn atom(
        &mut self,
        seen: char,
        raw: &str,
        literal: bool,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) {
        // Readers of URLs leave blanks out in a tag.
        if std::mem::take(&mut self.joint) && (!seen.is_whitespace() || self.tags.possible()) {
            self.stretch = self.stretch.after(' ');
            out.push(' ');
            out.push_str(MARK);
        }
        let left_out = self.is_left_out(seen, raw);
        let escaped = matches!(self.state, State::Backslash(_));
        self.again = false;
        if !self.step(seen, raw, left_out, out, judge) {
            return;
        }
        let left_out = self.is_left_out_now(left_out, seen, raw);
        if let Some(style) = self.context.command().filter(|_| seen == '{') {
            self.tags.begin_list(style);
        }
        if left_out || (seen == '\\' && self.tags.styles()) {
            self.context.left_out(seen);
        } else if seen == '>' && self.lines.only_containers() {
            self.context.quoted();
        } else {
            self.context.take(seen, literal && !escaped);
        }
        self.written(raw);
    }

    /// Takes what is written for tags and lines.
    fn written(&mut self, raw: &str) {
        for next in raw.chars() {
            // Python-Markdown drops them: what is around belongs together there.
            if matches!(next, '\u{2}' | '\u{3}') {
                self.lines.doubt();
                continue;
            }
            // What every reader has as code is no tag.
            if next == '>' && self.lines.only_containers() {
                self.tags.quoted();
            } else if !self.lines.fenced() {
                self.tags.take(next);
            }
            if self.lines.take(next) {
                self.tags.blank_line();
                self.context.blank_line();
            }
        }
        if self.tags.raw() || (self.tags.possible() && self.lines.fenced()) {
            self.lines.doubt();
        }
    }

    /// What a character does; false when it does not come out, or came up for itself.
    fn step(
        &mut self,
        seen: char,
        raw: &str,
        left_out: bool,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) -> bool {
        self.stretch = self.stretch.until(&self.tags);
        if self.held.is_empty() {
            self.kept = self.stretch;
        }
        if seen == '@' && self.stretch != Stretch::Closed {
            self.absurd(raw, out, judge);
            return false;
        }
        // What is swallowed ends no stretch, nor does what only some readers have there.
        let escaped = matches!(self.state, State::Backslash(_)) || is_reference(raw);
        if !escaped && (!matches!(self.state, State::Swallow) || ends_url(seen)) {
            self.stretch = self.stretch.after(seen);
        }
        if seen == '=' && self.tags.begins_document() && !is_reference(raw) {
            self.absurd(raw, out, judge);
            return false;
        }
        match std::mem::take(&mut self.state) {
            State::Idle => self.idle(seen, raw, out),
            State::Swallow if ends_url(seen) => self.idle(seen, raw, out),
            over @ (State::Swallow | State::Blocked) => {
                self.state = over;
                return false;
            }
            // An escape of CSS, which can mean a colon or a slash (CSS Syntax section 4.3.7).
            State::Backslash(_) if self.tags.styles() && seen.is_ascii_hexdigit() => {
                self.absurd(raw, out, judge);
                return false;
            }
            over @ State::Backslash(_) if left_out => {
                self.state = over;
                if self.held.len() > AUTHORITY_MAX {
                    self.absurd(raw, out, judge);
                    return false;
                }
                self.held.push_str(raw);
            }
            State::Backslash(before) => self.behind_backslash(&before, seen, raw, out),
            // Some read what it means, and others what it is made of.
            over @ State::Slashes { .. }
                if is_reference(raw) && (left_out || matches!(seen, '/' | '\\')) =>
            {
                self.state = over;
                self.absurd(raw, out, judge);
                return false;
            }
            State::Slashes { lead, place, slashes, backslashes } => {
                let (slash, backslash) = (usize::from(seen == '/'), usize::from(seen == '\\'));
                let (slashes, backslashes) = (slashes + slash, backslashes + backslash);
                if slash + backslash == 0 && !left_out {
                    let opening = Opening { lead, place, slashes, backslashes };
                    return self.behind_slashes(opening, seen, raw, out, judge);
                }
                self.held.push_str(raw);
                if self.held.len() > AUTHORITY_MAX {
                    let kind = self.kind(place);
                    let reading = self.reading(lead, kind, place, "");
                    return self.decide(reading, true, out, judge);
                }
                self.state = State::Slashes { lead, place, slashes, backslashes };
            }
            State::Authority(reading) => {
                return self.authority(reading, left_out, seen, raw, out, judge);
            }
        }
        true
    }

    fn idle(&mut self, seen: char, raw: &str, out: &mut String) {
        let begin = match seen {
            '\\' => State::Backslash(Box::new(self.context.clone())),
            ':' if self.context.speaks() => scheme(&self.context),
            '.' if self.context.is_www() => self.www(&self.context),
            '/' if !joins(self.context.last) => {
                let (lead, place) = match self.context.behind_colon() {
                    Some((scheme, place)) => (Lead::Scheme(scheme.to_owned()), place),
                    None => (Lead::Slashes { placed: false }, self.context.here()),
                };
                State::Slashes { lead, place, slashes: 1, backslashes: 0 }
            }
            _ => {
                out.push_str(raw);
                return;
            }
        };
        self.kept_tags.clone_from(&self.tags);
        self.held.push_str(raw);
        self.state = begin;
    }

    fn www(&self, before: &Context) -> State {
        let place = before.before_word();
        State::Authority(self.reading(Lead::Www, self.kind(place), place, "www."))
    }

    /// What a backslash escapes for Markdown; for a reader of URLs it is a slash.
    fn behind_backslash(&mut self, before: &Context, seen: char, raw: &str, out: &mut String) {
        let begin = match seen {
            ':' if before.scheme().is_some() => scheme(before),
            '.' if before.is_www() => self.www(before),
            '/' | '\\' if !joins(before.last) => {
                let place = before.here();
                let (slashes, backslashes) = if seen == '/' { (1, 1) } else { (0, 2) };
                State::Slashes {
                    lead: Lead::Slashes { placed: false },
                    place,
                    slashes,
                    backslashes,
                }
            }
            _ => {
                // It continues with a scheme.
                if matches!(seen, '-' | '.' | '+') {
                    self.context.clone_from(before);
                }
                self.release(out);
                out.push_str(raw);
                return;
            }
        };
        self.held.push_str(raw);
        self.state = begin;
    }
}

#[cfg(test)]
mod tests;
