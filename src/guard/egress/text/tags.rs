//! Whether a place in a text can be inside an HTML tag, however a reader takes what is before
//! it (WHATWG HTML section 13.2.5).
//!
//! Which `<` opens a tag, and which quote a value, depends on what Markdown makes of the text. So
//! every reading is followed at once: a place is inside a tag if any of them has it so. Lists of
//! attributes between braces, as some readers of Markdown have them, and what some formulas link
//! to, count as tags up to the end of their line.

/// Where in a tag each reading is.
mod at {
    pub(super) const ELEMENT: u16 = 1;
    /// Before an attribute's name.
    pub(super) const BEFORE: u16 = 2;
    pub(super) const NAME: u16 = 4;
    /// After an attribute's name and blanks.
    pub(super) const AFTER: u16 = 8;
    /// After an equals sign.
    pub(super) const VALUE: u16 = 16;
    pub(super) const UNQUOTED: u16 = 32;
    pub(super) const DOUBLE: u16 = 64;
    pub(super) const SINGLE: u16 = 128;
    /// After a value in quotes.
    pub(super) const BEHIND: u16 = 256;
    pub(super) const QUOTED: u16 = DOUBLE | SINGLE;
    pub(super) const VALUES: u16 = VALUE | UNQUOTED | DOUBLE | SINGLE;
    pub(super) const ALL: [u16; 9] =
        [ELEMENT, BEFORE, NAME, AFTER, VALUE, UNQUOTED, DOUBLE, SINGLE, BEHIND];
}

/// Bytes of names that mean anything here.
const NAME_MAX: usize = 15;
/// Elements whose text is raw, or lasts beyond blank lines (CommonMark section 4.6, kind 1).
const RAW: [&str; 6] = ["pre", "script", "style", "textarea", "svg", "math"];
/// Elements that lead elsewhere: for some readers their tags continue after a blank line.
const LEADING: [&str; 30] = [
    "applet", "bgsound", "tfoot", "thead", "a", "area", "audio", "base", "body", "button", "embed",
    "form", "frame", "iframe", "image", "img", "input", "link", "meta", "object", "param",
    "source", "table", "tbody", "td", "th", "tr", "track", "use", "video",
];
/// Attributes whose values are style sheets, or parts of them (SVG 2 section 6.6).
const STYLES: [&str; 11] = [
    "clip-path",
    "cursor",
    "fill",
    "filter",
    "marker",
    "marker-end",
    "marker-mid",
    "marker-start",
    "mask",
    "stroke",
    "style",
];

/// The readings that are possible here.
#[derive(Clone, Debug, Default)]
pub(super) struct Tags {
    readings: u16,
    /// Those after a `>` that ends the tag for some: a blank line ends it for the others.
    late: u16,
    after_lt: bool,
    naming: bool,
    name: String,
    /// A `<` was where a tag was possible already: which one it belongs to is not sure.
    nested: bool,
    word: String,
    word_over: bool,
    attribute: String,
    raw: bool,
    style: bool,
    /// The tag has an attribute that is a style sheet.
    styled: bool,
    /// It is one of an element that leads elsewhere, or is in one.
    leads: bool,
    /// A value in quotes went on to another line: to some readers of Markdown the tag is over
    /// there, and to browsers it is not, and what is a `>` to these may be written as a reference.
    lingers: bool,
    /// A `>` at the beginning of a line is directly before: the mark of a block quote, or the
    /// end of the tag.
    marked: bool,
    /// A brace is open on this line; directly after what attributes can belong to.
    brace: Option<bool>,
    /// What is in it can be attributes.
    list: bool,
    /// Only up to the brace that closes it.
    loose: bool,
    /// It has only what such lists are made of so far.
    bare: bool,
    /// The last character.
    last: char,
}

/// Where a reading can be after a character. Readers differ in what an equals sign is where no
/// name is before it.
fn behind(reading: u16, next: char, ends: bool) -> u16 {
    let blank = matches!(next, ' ' | '\t' | '\n' | '\r' | '\u{c}');
    match reading {
        at::DOUBLE => return if next == '"' { at::BEHIND } else { at::DOUBLE },
        at::SINGLE => return if next == '\'' { at::BEHIND } else { at::SINGLE },
        _ if ends => return 0,
        _ => {}
    }
    match (reading, next) {
        (at::VALUE, '"') => at::DOUBLE,
        (at::VALUE, '\'') => at::SINGLE,
        (at::VALUE, '=') => at::UNQUOTED | at::VALUE,
        (at::VALUE, _) => {
            if blank {
                at::VALUE
            } else {
                at::UNQUOTED
            }
        }
        (at::UNQUOTED, _) => {
            if blank {
                at::BEFORE
            } else {
                at::UNQUOTED
            }
        }
        (at::ELEMENT, _) => {
            if blank || next == '/' {
                at::BEFORE
            } else {
                at::ELEMENT
            }
        }
        (_, '/') => at::BEFORE,
        (at::NAME | at::AFTER, '=') => at::VALUE,
        (at::NAME | at::AFTER, _) => {
            if blank {
                at::AFTER
            } else {
                at::NAME
            }
        }
        (_, '=') => at::NAME | at::VALUE,
        _ => {
            if blank {
                at::BEFORE
            } else {
                at::NAME
            }
        }
    }
}

/// Where any of some readings can be after a character.
fn all_behind(readings: u16, next: char, ends: bool) -> u16 {
    let of = at::ALL.into_iter().filter(|reading| readings & reading != 0);
    of.fold(0, |now, reading| now | behind(reading, next, ends))
}

impl Tags {
    /// Whether this can be inside a tag or a style sheet.
    pub(super) const fn possible(&self) -> bool {
        self.any() != 0 || self.style || self.list
    }

    /// Whether raw HTML that blank lines do not end has been begun, or a comment or declaration.
    pub(super) const fn raw(&self) -> bool {
        self.raw
    }

    /// Whether no text that follows matters until the next `<` or `{`.
    pub(super) const fn is_idle(&self) -> bool {
        !self.possible() && !self.after_lt && self.brace.is_none()
    }

    /// Whether no value is open, whichever reading holds.
    pub(super) const fn value_over(&self) -> bool {
        self.any() & at::VALUES == 0 && !self.list
    }

    /// Whether a URL can be here: in a value, or in a style sheet.
    pub(super) const fn holds_value(&self) -> bool {
        !self.value_over() || self.style
    }

    /// Whether what is here is surely where a click on a link leads.
    pub(super) fn is_link(&self) -> bool {
        let link = matches!(self.name.as_str(), "a" | "area") && self.attribute == "href";
        link && !self.nested && !self.raw && !self.styled && !self.list
    }

    /// Whether an equals sign here begins a document in the document, in which everything is
    /// written twice over.
    pub(super) fn begins_document(&self) -> bool {
        self.any() != 0 && self.word == "srcdoc"
    }

    /// A blank line: what Markdown writes after it ends a tag, but no value in quotes, and not for
    /// every reader.
    pub(super) fn blank_line(&mut self) {
        if self.raw {
            return;
        }
        let goes_on = self.styled || self.leads;
        let readings = if goes_on { self.readings } else { self.readings & at::QUOTED };
        let late = self.late & at::QUOTED;
        if readings | late == 0 {
            *self = Self::default();
        } else {
            (self.readings, self.late, self.nested) = (readings, late, true);
        }
    }

    /// Whether this can be a style sheet, or an attribute that is one.
    pub(super) const fn styles(&self) -> bool {
        self.style || self.styled
    }

    /// A brace that holds a place, or a style sheet, by what is before it.
    pub(super) const fn begin_list(&mut self, style: bool) {
        self.list = true;
        self.styled |= style;
    }

    /// A `>` at the beginning of a line: the mark of a block quote, or the end of the tag.
    pub(super) const fn quoted(&mut self) {
        self.marked = self.readings != 0;
    }

    /// Where any reading is.
    const fn any(&self) -> u16 {
        self.readings | self.late
    }

    /// After a `>` that ends the tag for some.
    const fn end_for_some(&mut self) {
        self.late |= self.readings & !at::QUOTED;
        self.readings &= at::QUOTED;
    }

    /// Takes the next character as it is written.
    pub(super) fn take(&mut self, next: char) {
        // Blanks are after the mark of a block quote.
        if std::mem::take(&mut self.marked) && !matches!(next, ' ' | '\t') {
            self.end_for_some();
        }
        let was = self.any();
        let (mut now, mut late) = (0, 0);
        if was != 0 {
            let ends = next == '>' && self.is_end();
            if next == '>' && !ends {
                self.end_for_some();
            }
            (now, late) =
                (all_behind(self.readings, next, ends), all_behind(self.late, next, ends));
            self.lingers |= matches!(next, '\n' | '\r') && was & at::QUOTED != 0;
        }
        if self.naming {
            self.name(next);
        }
        if self.after_lt && (next.is_ascii_alphabetic() || matches!(next, '!' | '?' | '/')) {
            now |= at::ELEMENT;
            self.nested = was != 0;
            if was == 0 {
                (self.leads, self.lingers) = (false, false);
            }
            self.raw |= matches!(next, '!' | '?');
            self.name.clear();
            self.name.push(next.to_ascii_lowercase());
            self.naming = true;
        }
        self.after_lt = next == '<';
        let listed = self.list || self.brace.is_some();
        if was != 0 || listed {
            self.attribute(next);
        }
        (self.readings, self.late) = (now, late);
        self.styled &= now | late != 0 || listed;
        self.braces(next);
    }

    /// Takes a run in which no character speaks.
    pub(super) fn ran(&mut self, run: &str) {
        self.last = run.chars().next_back().unwrap_or(self.last);
    }

    /// Whether a `>` ends the tag for every reader. Some write what is after such marks as a
    /// reference.
    fn is_end(&self) -> bool {
        let mark =
            matches!(self.last, '\\' | ']' | '-' | '?') && !self.name.starts_with(['!', '?']);
        !self.lingers && !mark
    }

    /// A name and an equals sign between braces on one line are attributes, after a link or code,
    /// and anywhere if a quote follows: formulas have equals signs there too, and what is there
    /// counts up to the brace that closes them.
    fn braces(&mut self, next: char) {
        let named = self.last.is_alphanumeric() || matches!(self.last, '-' | '_');
        match next {
            '{' => {
                self.brace = Some(self.brace == Some(true) || matches!(self.last, ')' | ']' | '`'));
                self.bare = true;
            }
            '\n' | '\r' => (self.brace, self.list, self.loose) = (None, false, false),
            '=' if named && self.brace == Some(true) => (self.list, self.loose) = (true, false),
            '=' if named && self.brace.is_some() && self.bare && !self.list => {
                (self.list, self.loose) = (true, true)
            }
            '"' | '\'' if self.brace.is_some() && self.last == '=' => {
                (self.list, self.loose) = (true, false)
            }
            ':' if self.last == '{' => (self.list, self.loose) = (true, false),
            '}' if self.loose => (self.brace, self.list, self.loose) = (None, false, false),
            _ => self.bare &= !matches!(next, '"' | '\'' | '`' | '\\'),
        }
        self.last = next;
    }

    fn name(&mut self, next: char) {
        if next.is_ascii_alphanumeric() || next == '-' {
            if self.name.len() < NAME_MAX {
                self.name.push(next.to_ascii_lowercase());
            }
        } else {
            self.naming = false;
            self.raw |= RAW.contains(&self.name.as_str());
            self.style |= self.name == "style";
            self.leads |= LEADING.contains(&self.name.as_str());
        }
    }

    /// The name before the last equals sign.
    fn attribute(&mut self, next: char) {
        if next == '=' {
            self.attribute.clone_from(&self.word);
            self.styled |= STYLES.contains(&self.attribute.as_str());
            self.word_over = true;
        } else if next.is_ascii_alphanumeric() || matches!(next, '-' | ':') {
            if std::mem::take(&mut self.word_over) {
                self.word.clear();
            }
            if self.word.len() < NAME_MAX {
                self.word.push(next.to_ascii_lowercase());
            }
        } else {
            self.word_over = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, possible: bool, link: bool) {
        let mut tags = Tags::default();
        text.chars().for_each(|next| tags.take(next));
        assert_eq!((tags.possible(), tags.is_link()), (possible, link), "{text}");
    }

    #[test]
    fn what_can_be_a_tag_is_one() {
        check("a < b", false, false);
        check("<b>bold</b> ", false, false);
        check("<img src=\"", true, false);
        check("<img alt='>' src=", true, false);
        check("<x \"<img alt='>\" src='", true, false);
        check("<img alt=\"a\" src='b'>", false, false);
        check("<img a=b\"c > ", false, false);
        check("<img a = \"c > ", true, false);
        check("<a class=x href=\"", true, true);
        check("<A HREF = '", true, true);
        check("<link title='<a href=", true, false);
        check("<a href='x' style='", true, false);
        check("a <y and don't ", true, false);
        check("a <y and don't > ", false, false);
        // An equals sign without a name before it, a name directly behind a value, a value that a
        // reference begins.
        check("<iframe =\" title=\">\" src=\"", true, false);
        check("<iframe x==\" title=\">\" src=\"", true, false);
        check("<iframe x=\"a\"=\" title=\">\" src=\"", true, false);
        check("<iframe title=\"b=c\"d=\">\" src=\"", true, false);
        check("<img x=&#97; alt='>' src='", true, false);
        check("<a style=\"--a: href=;background:", true, false);
        check("![x](y){: src=\"", true, false);
        check("[x]{style=\"", true, false);
        check("# x {style=\"", true, false);
        check("{a: b} {c}", false, false);
        check("\\sum_{i=1}^{n} ", false, false);
        check("{\"a\":\"x=", false, false);
        check("{\n  \"a\": \"b=c\"", false, false);
    }
}
