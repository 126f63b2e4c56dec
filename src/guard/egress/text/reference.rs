//! Character references (WHATWG HTML section 13.2.5.72 on): how a colon is written where a colon
//! would be noticed.

/// Bytes of a reference that is followed to its end. Names that mean anything here are shorter;
/// zeros before a number are not.
const BYTES_MAX: usize = 64;

/// What the names of ASCII characters mean, and of those that URL readers leave out.
const NAMES: &[(&str, char)] = &[
    ("Tab", '\t'),
    ("NewLine", '\n'),
    ("nbsp", '\u{a0}'),
    ("excl", '!'),
    ("quot", '"'),
    ("QUOT", '"'),
    ("num", '#'),
    ("dollar", '$'),
    ("percnt", '%'),
    ("amp", '&'),
    ("AMP", '&'),
    ("apos", '\''),
    ("lpar", '('),
    ("rpar", ')'),
    ("ast", '*'),
    ("midast", '*'),
    ("plus", '+'),
    ("comma", ','),
    ("period", '.'),
    ("sol", '/'),
    ("colon", ':'),
    ("semi", ';'),
    ("lt", '<'),
    ("LT", '<'),
    ("equals", '='),
    ("gt", '>'),
    ("GT", '>'),
    ("quest", '?'),
    ("commat", '@'),
    ("lsqb", '['),
    ("lbrack", '['),
    ("bsol", '\\'),
    ("rsqb", ']'),
    ("rbrack", ']'),
    ("Hat", '^'),
    ("lowbar", '_'),
    ("UnderBar", '_'),
    ("grave", '`'),
    ("DiacriticalGrave", '`'),
    ("lcub", '{'),
    ("lbrace", '{'),
    ("verbar", '|'),
    ("vert", '|'),
    ("VerticalLine", '|'),
    ("rcub", '}'),
    ("rbrace", '}'),
];

/// Those that some readers take without a semicolon as well (section 13.5), and that end or open
/// something.
const OPEN: [&str; 7] = ["GT", "LT", "QUOT", "gt", "lt", "nbsp", "quot"];

/// A reference that has begun: everything from its `&` on.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    raw: String,
    /// What is after the ampersand; empty after `amp;`, so that what is written twice over
    /// is read as well.
    body: String,
}

/// What a character makes of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It continues.
    On,
    /// It means a character, and the one that was taken belongs to it.
    Whole(char, String),
    /// It meant a character, and the one that was taken does not belong to it.
    Before(char, String),
    /// It meant a character without its semicolon, for some; what it is followed by, and the
    /// one that was taken, does not belong to it.
    Open(char, String, String),
    /// It was none: its text. The character that was taken does not belong to it.
    Not(String),
    /// It is longer than anybody would write it.
    TooLong(String),
}

impl Reference {
    pub(super) fn is_open(&self) -> bool {
        !self.raw.is_empty()
    }

    /// Begins at an ampersand.
    pub(super) fn begin(&mut self) {
        self.raw.push('&');
    }

    /// Takes the next character.
    pub(super) fn take(&mut self, next: char) -> Taken {
        if next == ';' {
            if self.body.is_empty() && self.raw.len() > 1 {
                self.raw.push(next);
                return Taken::On;
            }
            let Some(seen) = self.seen() else { return self.open() };
            self.raw.push(next);
            if seen == '&' && self.raw.len() < BYTES_MAX {
                self.body.clear();
                return Taken::On;
            }
            return Taken::Whole(seen, self.close());
        }
        let belongs = next.is_ascii_alphanumeric() || (next == '#' && self.body.is_empty());
        if !belongs
            || (self.is_decimal()
                && !next.is_ascii_digit()
                && !(self.body == "#" && matches!(next, 'x' | 'X')))
        {
            return self.before(next);
        }
        if self.body.starts_with("#x") && !next.is_ascii_hexdigit() {
            return self.before(next);
        }
        self.raw.push(next);
        // Zeros before a number are without end, and have no meaning.
        if !(next == '0' && matches!(self.body.as_str(), "#" | "#x")) {
            self.body.push(next.to_ascii_lowercase_of_x(&self.body));
        }
        // An ampersand begins another one, with its semicolon or without.
        if matches!(self.body.as_str(), "amp" | "AMP") {
            self.body.clear();
        }
        if self.raw.len() > BYTES_MAX {
            return Taken::TooLong(self.close());
        }
        Taken::On
    }

    /// The text is over, or something follows that does not belong to it. Numbers need no semicolon
    /// (section 13.2.5.80).
    pub(super) fn end(&mut self) -> Taken {
        match self.seen().filter(|_| self.body.starts_with('#')) {
            Some(seen) => Taken::Before(seen, self.close()),
            None => self.open(),
        }
    }

    fn open(&mut self) -> Taken {
        let open = OPEN.iter().find(|name| self.body.starts_with(**name));
        let known = open.and_then(|open| NAMES.iter().find(|(name, _)| name == open));
        let behind =
            known.and_then(|(name, seen)| Some((*seen, self.body.get(name.len()..)?.to_owned())));
        let raw = self.close();
        match behind {
            Some((seen, rest)) => {
                let raw = raw.strip_suffix(&*rest).unwrap_or(&raw).to_owned();
                Taken::Open(seen, raw, rest)
            }
            None => Taken::Not(raw),
        }
    }

    /// Something follows that does not belong to it, unless it means an ampersand, which
    /// begins another one.
    fn before(&mut self, next: char) -> Taken {
        if self.seen() == Some('&')
            && (next == '#' || next.is_ascii_alphanumeric())
            && self.raw.len() < BYTES_MAX
        {
            self.body.clear();
            return self.take(next);
        }
        self.end()
    }

    fn is_decimal(&self) -> bool {
        self.body.starts_with('#') && !self.body.starts_with("#x")
    }

    fn close(&mut self) -> String {
        self.body.clear();
        std::mem::take(&mut self.raw)
    }

    /// The character of a reference by number, without its leading zeros.
    fn numbered(&self, digits: &str, radix: u32) -> Option<char> {
        if digits.is_empty() {
            // No digits but zeros, if any: they mean U+FFFD.
            return self.raw.ends_with('0').then_some('\u{fffd}');
        }
        let code = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX);
        Some(char::from_u32(code).unwrap_or('\u{fffd}'))
    }

    fn seen(&self) -> Option<char> {
        if let Some(digits) = self.body.strip_prefix("#x") {
            return self.numbered(digits, 16);
        }
        if let Some(digits) = self.body.strip_prefix('#') {
            return self.numbered(digits, 10);
        }
        NAMES.iter().find(|(name, _)| *name == self.body).map(|(_, seen)| *seen)
    }
}

trait LowerX {
    fn to_ascii_lowercase_of_x(self, body: &str) -> char;
}

impl LowerX for char {
    /// The `X` of `&#X` reads as `x`; names keep their case.
    fn to_ascii_lowercase_of_x(self, body: &str) -> char {
        if self == 'X' && body == "#" { 'x' } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &Taken) {
        let mut reference = Reference::default();
        reference.begin();
        let mut taken = Taken::On;
        for next in text.chars().skip(1) {
            assert_eq!(taken, Taken::On, "{text}");
            taken = reference.take(next);
        }
        assert_eq!(taken, *expect, "{text}");
        assert_eq!(reference.is_open(), taken == Taken::On, "{text}");
    }

    #[test]
    fn references_are_read() {
        let whole = |seen, text: &str| Taken::Whole(seen, text.to_owned());
        check("&colon;", &whole(':', "&colon;"));
        check("&#58;", &whole(':', "&#58;"));
        check("&#x3A;", &whole(':', "&#x3A;"));
        check("&#X000000000000000000003a;", &whole(':', "&#X000000000000000000003a;"));
        check("&amp;colon;", &whole(':', "&amp;colon;"));
        check("&amp;amp;#58;", &whole(':', "&amp;amp;#58;"));
        check("&ampcolon;", &whole(':', "&ampcolon;"));
        check("&amp#58;", &whole(':', "&amp#58;"));
        check("&#38#58;", &whole(':', "&#38#58;"));
        check("&#x26#58;", &whole(':', "&#x26#58;"));
        check("&#58/", &Taken::Before(':', "&#58".to_owned()));
        check("&#x3ag", &Taken::Before(':', "&#x3a".to_owned()));
        check("&#0;", &whole('\u{fffd}', "&#0;"));
        check("&#99999999999;", &whole('\u{fffd}', "&#99999999999;"));
        check("&quot/", &Taken::Open('"', "&quot".to_owned(), String::new()));
        check("&quothttps:", &Taken::Open('"', "&quot".to_owned(), "https".to_owned()));
        check("&ltimg;", &Taken::Open('<', "&lt".to_owned(), "img".to_owned()));
        check("&T ", &Taken::Not("&T".to_owned()));
        check("& ", &Taken::Not("&".to_owned()));
        check("&#;", &Taken::Not("&#".to_owned()));
        check("&Colon;", &Taken::Not("&Colon".to_owned()));
        check(&format!("&#{}", "0".repeat(63)), &Taken::TooLong(format!("&#{}", "0".repeat(63))));
    }
}
