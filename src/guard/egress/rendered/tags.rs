//! Raw HTML and autolinks within text (CommonMark 0.31 and 0.29, sections 6.5 and 6.6).

/// The rules of a renderer for HTML in Markdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HtmlRules {
    /// Those of CommonMark 0.31.
    CommonMark,
    /// Those of CommonMark 0.29, on which GFM is based.
    Gfm,
    /// HTML is text.
    None,
}

/// The extent of a construct in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The length in bytes.
    Known(usize),
    /// The text ends within the construct.
    Open,
}

/// The text has ended.
struct Ended;

/// A parser of one construct.
struct TagParser<'t> {
    text: &'t [u8],
    at: usize,
}

/// The raw HTML at the start of a text: a tag, a comment, an instruction, a declaration or a CDATA
/// section. `None` if the text begins with none of them.
pub(super) fn raw(text: &[u8], rules: HtmlRules) -> Option<Extent> {
    let mut parser = TagParser { text, at: 1 };
    match parser.raw(rules) {
        Ok(true) => Some(Extent::Known(parser.at)),
        Ok(false) => None,
        Err(Ended) => Some(Extent::Open),
    }
}

impl<'t> TagParser<'t> {
    fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Result<u8, Ended> {
        self.text.get(self.at).copied().ok_or(Ended)
    }

    /// Skips bytes, and returns their number.
    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) -> usize {
        let count = self.rest().iter().take_while(|byte| is_skipped(**byte)).count();
        self.at += count;
        count
    }

    /// Skips one byte; true if it is `byte`.
    fn take(&mut self, byte: u8) -> Result<bool, Ended> {
        let taken = self.peek()? == byte;
        self.at += 1;
        Ok(taken)
    }

    /// Skips everything up to the end of `part`.
    fn skip_past(&mut self, part: &[u8]) -> Result<bool, Ended> {
        let Some(at) = memchr::memmem::find(self.rest(), part) else { return Err(Ended) };
        self.at += at + part.len();
        Ok(true)
    }

    /// Parses the construct after its `<`; false if there is none.
    fn raw(&mut self, rules: HtmlRules) -> Result<bool, Ended> {
        match self.peek()? {
            b'?' => self.skip_past(b"?>"),
            b'!' => self.declaration(rules),
            b'/' => {
                self.at += 1;
                if !self.peek()?.is_ascii_alphabetic() {
                    return Ok(false);
                }
                self.name();
                self.skip(|byte| byte.is_ascii_whitespace());
                self.take(b'>')
            }
            byte if byte.is_ascii_alphabetic() => {
                self.name();
                self.attributes()
            }
            _ => Ok(false),
        }
    }

    /// Skips the name of a tag.
    fn name(&mut self) {
        self.skip(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    }

    /// Parses the attributes and the end of an opening tag; false if they are invalid.
    fn attributes(&mut self) -> Result<bool, Ended> {
        loop {
            let spaces = self.skip(|byte| byte.is_ascii_whitespace());
            match self.peek()? {
                b'>' => return self.take(b'>'),
                b'/' => {
                    self.at += 1;
                    return self.take(b'>');
                }
                byte if spaces > 0 && (byte.is_ascii_alphabetic() || b"_:".contains(&byte)) => {
                    self.skip(|byte| byte.is_ascii_alphanumeric() || b"_:.-".contains(&byte));
                    if !self.value()? {
                        return Ok(false);
                    }
                }
                _ => return Ok(false),
            }
        }
    }

    /// Parses the value of an attribute, if it has one; false if it is invalid.
    fn value(&mut self) -> Result<bool, Ended> {
        let from = self.at;
        self.skip(|byte| byte.is_ascii_whitespace());
        if self.peek()? != b'=' {
            self.at = from;
            return Ok(true);
        }
        self.at += 1;
        self.skip(|byte| byte.is_ascii_whitespace());
        let quote = self.peek()?;
        if b"\"'".contains(&quote) {
            self.at += 1;
            self.skip(|byte| byte != quote);
            return self.take(quote);
        }
        let length = self.skip(|byte| !byte.is_ascii_whitespace() && !b"\"'=<>`".contains(&byte));
        self.peek()?;
        Ok(length > 0)
    }

    /// Parses what begins with `<!`.
    fn declaration(&mut self, rules: HtmlRules) -> Result<bool, Ended> {
        let rest = self.text.get(2..).unwrap_or_default();
        if let Some(comment) = rest.strip_prefix(b"--") {
            self.at = 4;
            return self.comment(comment, rules);
        }
        if rest.starts_with(b"[CDATA[") {
            return self.skip_past(b"]]>");
        }
        // The text may end before it is clear what begins here.
        match rest {
            [] | [b'-'] => Err(Ended),
            _ if b"[CDATA[".starts_with(rest) => Err(Ended),
            [next, ..] if next.is_ascii_alphabetic() => self.skip_past(b">"),
            _ => Ok(false),
        }
    }

    /// Parses a comment after its `<!--`.
    fn comment(&mut self, comment: &[u8], rules: HtmlRules) -> Result<bool, Ended> {
        let is_short = comment.starts_with(b">") || comment.starts_with(b"->");
        match rules {
            // `<!-->` and `<!--->` are comments.
            HtmlRules::CommonMark if is_short => self.skip_past(b">"),
            HtmlRules::CommonMark => self.skip_past(b"-->"),
            HtmlRules::Gfm | HtmlRules::None if is_short => Ok(false),
            // A comment has no two hyphens, and does not end with a third.
            HtmlRules::Gfm | HtmlRules::None => {
                self.skip_past(b"--")?;
                self.take(b'>')
            }
        }
    }
}

/// The length of the autolink at the start of a text.
pub(super) fn autolink(text: &[u8]) -> Option<usize> {
    let inner = text.get(1..)?;
    let end = inner.iter().position(|byte| matches!(byte, b'<' | b'>' | 0..=b' '))?;
    let (link, after) = inner.split_at(end);
    if after.first() != Some(&b'>') || !(is_uri(link) || is_mail(link)) {
        return None;
    }
    Some(end + 2)
}

/// Whether a link is an absolute URI.
fn is_uri(link: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', link) else { return false };
    let scheme = link.get(..colon).unwrap_or_default();
    (2..=32).contains(&scheme.len())
        && scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte))
}

/// Whether a link is an email address.
fn is_mail(link: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'@', link) else { return false };
    at > 0
        && at + 1 < link.len()
        && link
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-@".contains(byte))
}
