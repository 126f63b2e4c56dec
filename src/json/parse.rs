//! Reading one JSON document, strictly.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use super::{Object, Value};

/// How deep a document may nest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrays and objects that may be open at once.
    pub depth: usize,
    /// What a document may cost in memory, in the cost of one scalar: a member of an object costs four, an array or an object
    /// eight (two bytes of text can ask for a hundred of memory).
    pub values: usize,
}

impl Limits {
    /// Documents of that depth, and of half a million values at the most.
    #[must_use]
    pub const fn deep(depth: usize) -> Self {
        Self { depth, values: 1 << 19 }
    }
}

/// Why a document was refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// Byte offset into the document.
    pub at: usize,
    /// What is wrong there.
    pub kind: FaultKind,
}

/// What can be wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// Not UTF-8 (UTF-16 and UTF-32 included).
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// U+FEFF in front (RFC 8259 section 8.1 forbids to add one).
    #[error("a byte order mark stands in front of the document")]
    ByteOrderMark,
    /// The document ends too early.
    #[error("the document ends in the middle of a value")]
    Truncated,
    /// A character that the grammar does not allow there (comments, single quotes, NaN, a trailing comma …).
    #[error("a character that JSON does not allow here")]
    Unexpected,
    /// More than one document, or bytes behind it.
    #[error("something follows the end of the document")]
    Trailing,
    /// The same key twice in one object.
    #[error("a key stands twice in one object")]
    DuplicateKey,
    /// A number outside what readers agree about: an integer beyond 64 bits, or a number that is not finite.
    #[error("a number is out of range")]
    NumberRange,
    /// A number that breaks the grammar (leading zero, `+1`, `.5`, `1.`).
    #[error("a number is not written as JSON writes numbers")]
    NumberForm,
    /// A control character inside a string.
    #[error("an unescaped control character stands in a string")]
    ControlCharacter,
    /// An unknown or incomplete escape, or half of a surrogate pair.
    #[error("an escape in a string is not valid")]
    Escape,
    /// Deeper than [`Limits::depth`].
    #[error("arrays and objects are nested too deeply")]
    Depth,
    /// More than [`Limits::values`].
    #[error("the document has more values than are read")]
    Values,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (at byte {})", self.kind, self.at)
    }
}

impl std::error::Error for JsonFault {}

/// Above this many members duplicate keys are found by hashing instead of comparing each with each.
const MANY_MEMBERS: usize = 24;

/// Reads `bytes` as one document.
///
/// # Errors
/// The first fault, with its byte offset.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>, JsonFault> {
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(JsonFault { at: 0, kind: FaultKind::ByteOrderMark });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonFault { at: error.valid_up_to(), kind: FaultKind::NotUtf8 })?;
    let mut reader =
        JsonReader { text, bytes, at: 0, depth_left: limits.depth, values_left: limits.values };
    reader.space();
    let value = reader.value()?;
    reader.space();
    if reader.at < bytes.len() {
        return reader.fault(FaultKind::Trailing);
    }
    Ok(value)
}

struct JsonReader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth_left: usize,
    values_left: usize,
}

impl<'a> JsonReader<'a> {
    const fn fault<T>(&self, kind: FaultKind) -> Result<T, JsonFault> {
        Err(JsonFault { at: self.at, kind })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn pays(&mut self, cost: usize) -> Result<(), JsonFault> {
        match self.values_left.checked_sub(cost) {
            Some(left) => self.values_left = left,
            None => return self.fault(FaultKind::Values),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value<'a>, JsonFault> {
        self.pays(1)?;
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => self.fault(FaultKind::Unexpected),
            None => self.fault(FaultKind::Truncated),
        }
    }

    fn word(&mut self, word: &'static str, value: Value<'a>) -> Result<Value<'a>, JsonFault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.fault(FaultKind::Unexpected)
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, JsonFault>,
    ) -> Result<Value<'a>, JsonFault> {
        let Some(left) = self.depth_left.checked_sub(1) else {
            return self.fault(FaultKind::Depth);
        };
        self.depth_left = left;
        self.pays(7)?;
        self.at += 1;
        self.space();
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value<'a>, JsonFault> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.closes(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn object(&mut self) -> Result<Value<'a>, JsonFault> {
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        let mut seen: HashSet<Cow<'a, str>> = HashSet::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object(members)));
        }
        loop {
            let key_at = self.at;
            self.pays(3)?;
            match self.peek() {
                Some(b'"') => {}
                Some(_) => return self.fault(FaultKind::Unexpected),
                None => return self.fault(FaultKind::Truncated),
            }
            let key = self.string()?;
            if members.len() == MANY_MEMBERS {
                seen.extend(members.iter().map(|(known, _)| known.clone()));
            }
            let twice = if members.len() < MANY_MEMBERS {
                members.iter().any(|(known, _)| *known == key)
            } else {
                !seen.insert(key.clone())
            };
            if twice {
                return Err(JsonFault { at: key_at, kind: FaultKind::DuplicateKey });
            }
            self.space();
            match self.peek() {
                Some(b':') => self.at += 1,
                Some(_) => return self.fault(FaultKind::Unexpected),
                None => return self.fault(FaultKind::Truncated),
            }
            self.space();
            members.push((key, self.value()?));
            if self.closes(b'}')? {
                return Ok(Value::Object(Object(members)));
            }
        }
    }

    /// Behind an item: true at the closing `end`, false when a comma leads to the next item.
    fn closes(&mut self, end: u8) -> Result<bool, JsonFault> {
        self.space();
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(true)
            }
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(false)
            }
            Some(_) => self.fault(FaultKind::Unexpected),
            None => self.fault(FaultKind::Truncated),
        }
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Result<Value<'a>, JsonFault> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        let mut integer = true;
        let mut well_formed = whole > 0 && !(leading_zero && whole > 1);
        if self.peek() == Some(b'.') {
            self.at += 1;
            integer = false;
            well_formed &= self.digits() > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            integer = false;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            well_formed &= self.digits() > 0;
        }
        if !well_formed {
            return Err(JsonFault { at: from, kind: FaultKind::NumberForm });
        }
        let text = &self.text[from..self.at];
        let in_range = if integer {
            text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()
        } else {
            text.parse::<f64>().is_ok_and(f64::is_finite)
        };
        if !in_range {
            return Err(JsonFault { at: from, kind: FaultKind::NumberRange });
        }
        Ok(Value::Number(Cow::Borrowed(text)))
    }

    /// A string, from its opening quote to behind its closing one.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonFault> {
        self.at += 1;
        let from = self.at;
        self.plain()?;
        if self.peek() == Some(b'"') {
            let text = &self.text[from..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut text = self.text[from..self.at].to_owned();
        loop {
            self.at += 1;
            text.push(self.escape()?);
            let from = self.at;
            self.plain()?;
            text.push_str(&self.text[from..self.at]);
            if self.peek() == Some(b'"') {
                self.at += 1;
                return Ok(Cow::Owned(text));
            }
        }
    }

    /// Passes over characters that stand for themselves, up to a quote or a backslash.
    fn plain(&mut self) -> Result<(), JsonFault> {
        let rest = &self.bytes[self.at..];
        let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        if let Some(place) = rest[..run].iter().position(|byte| *byte < b' ') {
            self.at += place;
            return self.fault(FaultKind::ControlCharacter);
        }
        self.at += run;
        if run == rest.len() { self.fault(FaultKind::Truncated) } else { Ok(()) }
    }

    /// The character that an escape stands for; the backslash is behind us.
    fn escape(&mut self) -> Result<char, JsonFault> {
        let Some(byte) = self.peek() else {
            return self.fault(FaultKind::Truncated);
        };
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return self.fault(FaultKind::Escape),
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonFault> {
        let first = self.four_hex()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !self.bytes[self.at..].starts_with(b"\\u") {
                    return self.fault(FaultKind::Escape);
                }
                self.at += 2;
                let second = self.four_hex()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return self.fault(FaultKind::Escape);
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.fault(FaultKind::Escape),
        }
    }

    fn four_hex(&mut self) -> Result<u32, JsonFault> {
        let Some(digits) = self.bytes.get(self.at..self.at + 4) else {
            return self.fault(FaultKind::Truncated);
        };
        let mut code = 0;
        for &digit in digits {
            let Some(value) = char::from(digit).to_digit(16) else {
                return self.fault(FaultKind::Escape);
            };
            code = code * 16 + value;
        }
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;

    #[track_caller]
    fn refuses(document: &[u8], kind: FaultKind) {
        assert_eq!(parse(document, &Limits::deep(64)).map_err(|fault| fault.kind), Err(kind));
    }

    #[track_caller]
    fn prints(document: &str, expect: &str) {
        let value = parse(document.as_bytes(), &Limits::deep(64)).expect("document");
        let mut out = Vec::new();
        write(&value, &mut out);
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expect);
    }

    #[test]
    fn memory_is_bounded_whatever_the_shape() {
        let limits = Limits { depth: 64, values: 80 };
        let read =
            |text: &str| parse(text.as_bytes(), &limits).map(drop).map_err(|fault| fault.kind);
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        assert_eq!(read(&list("1", 72)), Ok(()));
        assert_eq!(read(&list("1", 73)), Err(FaultKind::Values));
        assert_eq!(read(&list("[]", 9)), Ok(()));
        assert_eq!(read(&list("[]", 10)), Err(FaultKind::Values));
        let object = |members: usize| {
            format!(
                "{{{}}}",
                (0..members).map(|at| format!("\"{at}\":0")).collect::<Vec<_>>().join(",")
            )
        };
        assert_eq!(read(&object(18)), Ok(()));
        assert_eq!(read(&object(19)), Err(FaultKind::Values));
    }

    #[test]
    fn keeps_order_and_number_text() {
        prints(
            r#" {"b":1.0,"a":[1e2,-0,18446744073709551615] } "#,
            r#"{"b":1.0,"a":[1e2,-0,18446744073709551615]}"#,
        );
    }

    #[test]
    fn escapes_are_made_canonical() {
        prints(r#""\u0041\/\ud83d\ude00\u001f""#, "\"A/😀\\u001f\"");
    }

    #[test]
    fn refuses_what_readers_disagree_about() {
        refuses(b"\xEF\xBB\xBF{}", FaultKind::ByteOrderMark);
        refuses(b"{\0}\0", FaultKind::Unexpected);
        refuses(b"\xff\xfe{\0", FaultKind::NotUtf8);
        refuses(br#"{"a":1,"\u0061":2}"#, FaultKind::DuplicateKey);
        refuses(b"NaN", FaultKind::Unexpected);
        refuses(b"[Infinity]", FaultKind::Unexpected);
        refuses(b"1e999", FaultKind::NumberRange);
        refuses(b"18446744073709551616", FaultKind::NumberRange);
        refuses(b"01", FaultKind::NumberForm);
        refuses(b"1.", FaultKind::NumberForm);
        refuses(b"{} {}", FaultKind::Trailing);
        refuses(b"[1,]", FaultKind::Unexpected);
        refuses(b"{\"a\":1,}", FaultKind::Unexpected);
        refuses(b"// x\n1", FaultKind::Unexpected);
        refuses(br#""\ud800""#, FaultKind::Escape);
        refuses(br#""\udc00""#, FaultKind::Escape);
        refuses(b"\"\n\"", FaultKind::ControlCharacter);
        refuses(b"\"abc", FaultKind::Truncated);
        refuses("[".repeat(65).as_bytes(), FaultKind::Depth);
    }

    #[test]
    fn finds_a_duplicate_among_many_members() {
        let mut members: Vec<String> =
            (0..100).map(|number| format!("\"k{number}\":{number}")).collect();
        prints(&format!("{{{}}}", members.join(",")), &format!("{{{}}}", members.join(",")));
        members.push("\"k3\":0".to_owned());
        refuses(format!("{{{}}}", members.join(",")).as_bytes(), FaultKind::DuplicateKey);
    }
}
