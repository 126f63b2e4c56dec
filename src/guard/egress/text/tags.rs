//! Whether a place in a text can be inside an HTML tag, however a reader takes what stands before it (WHATWG HTML section 13.2.5).
//!
//! Which `<` opens a tag, and which quote a value, depends on what Markdown makes of the text. So every reading is followed at once:
//! a place is inside a tag if any of them has it so.

const TAG: u8 = 1;
const DOUBLE: u8 = 2;
const SINGLE: u8 = 4;
/// Bytes of names that mean anything here.
const NAME_MAX: usize = 10;
/// Elements whose text is raw, or lasts beyond blank lines (CommonMark section 4.6, kind 1).
const RAW: [&str; 6] = ["pre", "script", "style", "textarea", "svg", "math"];

/// The readings that are possible here.
#[derive(Clone, Debug, Default)]
pub(super) struct Tags {
    readings: u8,
    after_lt: bool,
    naming: bool,
    name: String,
    /// A `<` stood where a tag was possible already: which one it belongs to is not sure.
    nested: bool,
    /// An equals sign stands before, with nothing but blanks since.
    equals: bool,
    /// Inside a value without quotes.
    unquoted: bool,
    word: String,
    word_over: bool,
    attribute: String,
    raw: bool,
    style: bool,
    /// The tag has an attribute that is a style sheet.
    styled: bool,
}

impl Tags {
    /// Whether this can be inside a tag or a style sheet.
    pub(super) const fn possible(&self) -> bool {
        self.readings != 0 || self.style
    }

    /// Whether raw HTML that blank lines do not end has been begun, or a comment or declaration.
    pub(super) const fn raw(&self) -> bool {
        self.raw
    }

    /// Whether nothing of what follows matters until the next `<`.
    pub(super) const fn is_idle(&self) -> bool {
        !self.possible() && !self.after_lt
    }

    /// Whether no value is open, whichever reading holds.
    pub(super) const fn value_over(&self) -> bool {
        self.readings & (DOUBLE | SINGLE) == 0 && !self.unquoted && !self.equals
    }

    /// Whether what stands here is surely where a click on a link leads.
    pub(super) fn is_link(&self) -> bool {
        let link = matches!(self.name.as_str(), "a" | "area") && self.attribute == "href";
        link && !self.nested && !self.raw
    }

    /// A blank line: what Markdown writes behind it ends a tag, but no value in quotes.
    pub(super) fn blank_line(&mut self) {
        let readings = self.readings & (DOUBLE | SINGLE);
        if !self.raw && readings == 0 {
            *self = Self::default();
        } else if !self.raw {
            (self.readings, self.nested) = (readings, true);
        }
    }

    /// Whether this can be a style sheet, or an attribute that is one.
    pub(super) const fn styles(&self) -> bool {
        self.style || self.styled
    }

    /// Takes the next character as it is written.
    pub(super) fn take(&mut self, next: char) {
        let was = self.readings;
        let mut now = 0;
        if was & TAG != 0 {
            // A quote opens a value behind an equals sign alone; which one that is, is not sure in a tag within what can be one.
            let (value, sure) = (self.equals || self.nested, if self.nested { TAG } else { 0 });
            now |= match next {
                '>' => 0,
                '"' if value => sure | DOUBLE,
                '\'' if value => sure | SINGLE,
                _ => TAG,
            };
            self.value(next);
        }
        if was & DOUBLE != 0 {
            now |= if next == '"' { TAG } else { DOUBLE };
        }
        if was & SINGLE != 0 {
            now |= if next == '\'' { TAG } else { SINGLE };
        }
        if self.naming {
            self.name(next);
        }
        if self.after_lt && (next.is_ascii_alphabetic() || matches!(next, '!' | '?' | '/')) {
            now |= TAG;
            self.nested = was != 0;
            self.raw |= matches!(next, '!' | '?');
            (self.equals, self.unquoted) = (false, false);
            self.name.clear();
            self.name.push(next.to_ascii_lowercase());
            self.naming = true;
        }
        self.after_lt = next == '<';
        if was != 0 {
            self.attribute(next);
        }
        self.readings = now;
        self.styled &= now != 0;
    }

    /// Whether a value may begin with the next character.
    const fn value(&mut self, next: char) {
        match next {
            '=' if !self.unquoted => self.equals = true,
            ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.unquoted = false,
            _ => {
                self.unquoted |= self.equals && !matches!(next, '"' | '\'');
                self.equals = false;
            }
        }
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
        }
    }

    /// The name before the last equals sign.
    fn attribute(&mut self, next: char) {
        if next == '=' {
            self.attribute.clone_from(&self.word);
            self.styled |= self.attribute == "style";
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
    }
}
