//! What is before a place in a text: how a URL there would be come upon.

use super::schemes::{known_end, speaks};

/// Characters of a word that are kept: no scheme that means anything is longer.
const WORD_MAX: usize = 24;
/// Openers of brackets that are told apart.
const BRACKETS_MAX: usize = 32;

/// What is before.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// The last character.
    pub(super) last: char,
    /// The last three that are not blank.
    near: [char; 3],
    /// The letters, digits, `+`, `-` and `.` at the end, from the first letter on, in lower case;
    /// the last of them where they are many.
    word: String,
    /// The word is longer than what is kept.
    word_long: bool,
    /// Something was left out of it that may have ended a word before.
    cut: bool,
    /// What is before the word: the last three that are not blank, and the last one.
    before_word: ([char; 3], char),
    /// The word before the last colon, and where it began.
    colon: (String, Place),
    /// Brackets that are open in this paragraph; true for those of an image.
    brackets: Vec<bool>,
    /// What the last `]` closed: `Some(true)` an image.
    closed: Option<bool>,
    image: bool,
    /// Something is in the paragraph that readers pair brackets differently for.
    odd: bool,
}

/// How a URL would be come upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Without a click.
    Fetched,
    /// By a click.
    Clicked,
    /// In one of the two ways, and which one is not sure.
    Either,
}

impl Kind {
    /// As records say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Clicked => "clicked",
            Self::Either => "either",
        }
    }
}

/// Where a URL begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    near: [char; 3],
    last: char,
    /// Something was left out of the word that is here.
    cut: bool,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            last: '\n',
            near: ['\n'; 3],
            word: String::new(),
            word_long: false,
            cut: false,
            before_word: (['\n'; 3], '\n'),
            colon: (String::new(), Place { near: ['\n'; 3], last: '\n', cut: false }),
            brackets: Vec::new(),
            closed: None,
            image: false,
            odd: false,
        }
    }
}

fn is_blank(next: char) -> bool {
    next.is_whitespace() || next.is_control()
}

const fn is_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '.')
}

impl Context {
    /// The scheme that a colon here would end.
    pub(super) fn scheme(&self) -> Option<&str> {
        (self.word_long || self.word.len() > 1).then_some(if self.word_long {
            ""
        } else {
            &self.word
        })
    }

    /// Whether something can follow a colon here that leads elsewhere.
    pub(super) fn speaks(&self) -> bool {
        self.scheme().is_some_and(|word| speaks(word) || self.second().is_some())
    }

    /// The scheme that a colon here would end where the word may be two.
    pub(super) fn second(&self) -> Option<&'static str> {
        self.cut.then(|| known_end(&self.word)).flatten()
    }

    /// Whether the word may be two.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether a full stop here follows the `www` of a name.
    pub(super) fn is_www(&self) -> bool {
        (self.cut || !self.word_long) && self.word.ends_with("www")
    }

    /// The scheme that ends with a colon directly before, and where it began.
    pub(super) fn behind_colon(&self) -> Option<(&str, Place)> {
        (self.last == ':' && self.colon.0.len() > 1).then_some((&*self.colon.0, self.colon.1))
    }

    /// Whether a brace here holds a place (false) or a style sheet (true) for readers of formulas.
    pub(super) fn command(&self) -> Option<bool> {
        match self.word.as_str() {
            _ if self.word_long => None,
            "href" | "url" | "includegraphics" => Some(false),
            "style" => Some(true),
            _ => None,
        }
    }

    /// Whether a bracket here would begin a destination.
    pub(super) const fn is_behind_bracket(&self) -> bool {
        matches!(self.near, [_, _, ']'])
    }

    /// Whether what is here is in the destination of a link or an image, in which some leave
    /// line feeds out.
    pub(super) fn in_destination(&self) -> bool {
        self.here().is_inline() || (!self.word.is_empty() && self.before_word().is_inline())
    }

    /// Where the word began.
    pub(super) const fn before_word(&self) -> Place {
        Place { near: self.before_word.0, last: self.before_word.1, cut: self.cut }
    }

    /// Here.
    pub(super) const fn here(&self) -> Place {
        Place { near: self.near, last: self.last, cut: false }
    }

    /// A run whose characters have a meaning only as what is before others.
    pub(super) fn ran(&mut self, run: &str) {
        let Some(last) = run.chars().next_back() else { return };
        let word = run.bytes().rev().take_while(|byte| is_word(char::from(*byte))).count();
        let (rest, tail) = run.split_at(run.len() - word);
        if let Some(before) = rest.chars().next_back() {
            self.clear_word();
            let mut near = rest.chars().rev().filter(|next| !is_blank(*next));
            let newest = [near.next(), near.next(), near.next()];
            newest.into_iter().rev().flatten().for_each(|next| self.near(next));
            self.last = before;
        }
        // A word begins with a letter, however many digits are before it.
        let letters =
            tail.bytes().position(|byte| byte.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (front, tail) = tail.split_at(if self.word.is_empty() { letters } else { 0 });
        for next in front.bytes().skip(front.len().saturating_sub(3)) {
            self.near(char::from(next));
            self.last = char::from(next);
        }
        self.words(tail);
        for next in tail.bytes().skip(tail.len().saturating_sub(3)) {
            self.near(char::from(next));
        }
        self.last = last;
    }

    /// A paragraph has ended.
    pub(super) fn blank_line(&mut self) {
        self.brackets.clear();
        (self.closed, self.image, self.odd) = (None, false, false);
    }

    /// Takes the next character as readers see it; `literal` unless a reference or a backslash
    /// means it.
    pub(super) fn take(&mut self, next: char, literal: bool) {
        if is_word(next) {
            self.word(next);
        } else {
            if next == ':' {
                self.colon.1 = self.before_word();
                self.colon.0.clone_from(&self.word);
            }
            self.clear_word();
        }
        match next {
            '[' if literal => {
                // Some readers have brackets of an image's text in pairs, and some do not.
                self.odd |= self.brackets.contains(&true);
                self.image |= self.last == '!';
                if self.brackets.len() < BRACKETS_MAX {
                    self.brackets.push(self.last == '!');
                } else {
                    self.odd = true;
                }
            }
            ']' if literal => self.closed = self.brackets.pop(),
            '[' | ']' | '!' | '`' | '\\' | '<' => self.odd |= next != '!' || !literal,
            _ => {}
        }
        if !is_blank(next) {
            self.near(next);
        }
        self.last = next;
    }

    /// The mark of a block quote at the beginning of a line. No construct continues there that it
    /// could be in.
    pub(super) fn quoted(&mut self) {
        self.clear_word();
    }

    /// A character that readers of URLs leave out.
    pub(super) fn left_out(&mut self, next: char) {
        self.cut = !self.word.is_empty();
        if !matches!(next, '\u{2}' | '\u{3}') {
            self.last = next;
        }
    }

    fn near(&mut self, next: char) {
        self.near = [self.near[1], self.near[2], next];
    }

    fn word(&mut self, next: char) {
        if self.word.is_empty() {
            if !next.is_ascii_alphabetic() {
                return;
            }
            self.before_word = (self.near, self.last);
        }
        if self.word.len() == WORD_MAX {
            self.word_long = true;
            self.word.remove(0);
        }
        self.word.push(next.to_ascii_lowercase());
    }

    /// Continues with a word, or begins one with a letter.
    fn words(&mut self, tail: &str) {
        if tail.is_empty() {
            return;
        }
        if self.word.is_empty() {
            self.before_word = (self.near, self.last);
        }
        let beyond = (self.word.len() + tail.len()).saturating_sub(WORD_MAX);
        self.word_long |= beyond > 0;
        let (_, kept) = tail.split_at(beyond.saturating_sub(self.word.len()));
        self.word.drain(..beyond.min(self.word.len()));
        self.word.extend(kept.bytes().map(|next| char::from(next.to_ascii_lowercase())));
    }

    fn clear_word(&mut self) {
        self.word.clear();
        self.word_long = false;
        self.cut = false;
    }

    /// How a URL at a place that is in no tag would be come upon.
    pub(super) fn kind(&self, place: Place) -> Kind {
        if place.is_style() || place.is_definition() {
            return Kind::Either;
        }
        if !place.is_destination() {
            return Kind::Clicked;
        }
        match self.closed {
            _ if self.image && self.odd => Kind::Either,
            Some(true) => Kind::Fetched,
            Some(false) => Kind::Clicked,
            None if self.image => Kind::Either,
            None => Kind::Clicked,
        }
    }
}

impl Place {
    /// Whether the word that is here may be two.
    pub(super) const fn is_cut(self) -> bool {
        self.cut
    }

    /// `](`, `]:`, or the same with `<`: where Markdown has a destination.
    pub(super) const fn is_destination(self) -> bool {
        matches!(self.near, [_, ']', '(' | ':'] | [']', '(' | ':', '<'])
    }

    /// `](`, where blanks are in a destination for some.
    pub(super) const fn is_inline(self) -> bool {
        matches!(self.near, [_, ']', '('] | [']', '(', '<'])
    }

    /// The same with `<`: what follows may hold blanks.
    pub(super) const fn is_angle(self) -> bool {
        matches!(self.near, [']', '(' | ':', '<'])
    }

    fn is_definition(self) -> bool {
        matches!(self.near, [_, ']', ':'] | [']', ':', '<'])
    }

    /// `url(`, or the same with a quote.
    pub(super) const fn is_style(self) -> bool {
        matches!(self.near, ['r' | 'R', 'l' | 'L', '('] | ['l' | 'L', '(', '"' | '\''])
    }

    /// `<` directly before: an autolink.
    pub(super) fn is_autolink(self) -> bool {
        self.last == '<' && !self.is_destination()
    }
}
