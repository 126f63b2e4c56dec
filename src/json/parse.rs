//! Parses one JSON document, strictly.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use super::{Object, Value};

/// The limits for a document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most arrays and objects that may be open at once.
    pub depth: usize,
    /// The memory cost of a document, counted in scalars. A member of an object costs four, an
    /// array or object eight: two bytes of text can need a hundred bytes of memory.
    pub values: usize,
}

impl Limits {
    /// Documents with that depth and with a cost of at most 2^19 (half a million) scalars.
    #[must_use]
    pub const fn deep(depth: usize) -> Self {
        Self { depth, values: 1 << 19 }
    }
}

/// Why a document was refused, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// The byte offset in the document.
    pub at: usize,
    /// The fault.
    pub kind: FaultKind,
}

/// The faults of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// Not UTF-8 (UTF-16 and UTF-32 included).
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// U+FEFF at the beginning (RFC 8259 section 8.1 forbids to add it).
    #[error("the document begins with a byte order mark")]
    ByteOrderMark,
    /// The document ends too early.
    #[error("the document ends in the middle of a value")]
    Truncated,
    /// A character that the grammar does not allow there (comments, single quotes, NaN, a trailing
    /// comma …).
    #[error("a character that JSON does not allow here")]
    Unexpected,
    /// More than one document, or bytes after it.
    #[error("something follows the end of the document")]
    Trailing,
    /// The same key twice in an object.
    #[error("an object has the same key twice")]
    DuplicateKey,
    /// A number that parsers do not agree on: an integer beyond 64 bits, or a number that is not
    /// finite.
    #[error("a number is out of range")]
    NumberRange,
    /// A number that is not in the grammar (leading zero, `+1`, `.5`, `1.`).
    #[error("a number is not written as JSON writes numbers")]
    NumberForm,
    /// A control character in a string.
    #[error("a string has an unescaped control character")]
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

/// With more members than this, duplicate keys are found by hashing instead of comparing each with
/// each.
const MANY_MEMBERS: usize = 24;

/// Parses `bytes` as one document.
///
/// # Errors
/// The first fault, with its byte offset.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>, JsonFault> {
    // Before the check for UTF-8, so that the fault is the more helpful one.
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

/// A recursive parser. `Limits::depth` bounds its recursion.
struct JsonReader<'a> {
    /// The document as text, for slices.
    text: &'a str,
    /// The same as bytes.
    bytes: &'a [u8],
    /// The offset of the next byte.
    at: usize,
    /// How many more arrays and objects may be open.
    depth_left: usize,
    /// The remaining cost.
    values_left: usize,
}

impl<'a> JsonReader<'a> {
    /// A fault at the next byte.
    const fn fault<T>(&self, kind: FaultKind) -> Result<T, JsonFault> {
        Err(JsonFault { at: self.at, kind })
    }

    /// The next byte.
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips whitespace (RFC 8259 section 2).
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes a cost from the remaining one.
    fn pays(&mut self, cost: usize) -> Result<(), JsonFault> {
        match self.values_left.checked_sub(cost) {
            Some(left) => self.values_left = left,
            None => return self.fault(FaultKind::Values),
        }
        Ok(())
    }

    /// Parses one value.
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

    /// Parses `true`, `false` or `null`.
    fn word(&mut self, word: &'static str, value: Value<'a>) -> Result<Value<'a>, JsonFault> {
        // No check of the next byte: after a value, `closes` and `parse` accept no letter.
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.fault(FaultKind::Unexpected)
    }

    /// Parses an array or an object after its opening bracket, one level deeper.
    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, JsonFault>,
    ) -> Result<Value<'a>, JsonFault> {
        let Some(left) = self.depth_left.checked_sub(1) else {
            return self.fault(FaultKind::Depth);
        };
        self.depth_left = left;
        // With the 1 of `value`, an array or object costs eight.
        self.pays(7)?;
        // After both checks, so that a fault is reported at the opening bracket.
        self.at += 1;
        self.space();
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    /// Parses the items of an array.
    fn array(&mut self) -> Result<Value<'a>, JsonFault> {
        let mut items = Vec::new();
        // Checked only here, before the first item, so that a trailing comma is refused.
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

    /// Parses the members of an object.
    fn object(&mut self) -> Result<Value<'a>, JsonFault> {
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        let mut seen: HashSet<Cow<'a, str>> = HashSet::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object(members)));
        }
        loop {
            let key_at = self.at;
            // With the 1 of its value, a member costs four.
            self.pays(3)?;
            match self.peek() {
                Some(b'"') => {}
                Some(_) => return self.fault(FaultKind::Unexpected),
                None => return self.fault(FaultKind::Truncated),
            }
            let key = self.string()?;
            // Only large objects pay for a hash set. Comparing each with each would be quadratic
            // for them, and an attacker could use that.
            if members.len() == MANY_MEMBERS {
                seen.extend(members.iter().map(|(known, _)| known.clone()));
            }
            let twice = if members.len() < MANY_MEMBERS {
                members.iter().any(|(known, _)| *known == key)
            } else {
                !seen.insert(key.clone())
            };
            // Keys are compared after their escapes are decoded: `"a"` and `"\u0061"` are the same
            // key.
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

    /// After an item: true at the closing `end`, false when a comma leads to the next item.
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

    /// Skips digits and returns their number.
    fn digits(&mut self) -> usize {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - from
    }

    /// Parses a number (RFC 8259 section 6) and keeps its text.
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
        // Parsers that use 64-bit integers or doubles must all be able to hold it (RFC 7493 section
        // 2.2).
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

    /// Parses a string, from its opening quote to its closing one.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonFault> {
        self.at += 1;
        let from = self.at;
        self.plain()?;
        // Without escapes the text is borrowed, which is the common case.
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

    /// Skips characters that need no decoding, up to a quote or a backslash.
    fn plain(&mut self) -> Result<(), JsonFault> {
        let rest = &self.bytes[self.at..];
        let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        // Unescaped control characters are not allowed (RFC 8259 section 7).
        if let Some(place) = rest[..run].iter().position(|byte| *byte < b' ') {
            self.at += place;
            return self.fault(FaultKind::ControlCharacter);
        }
        self.at += run;
        if run == rest.len() { self.fault(FaultKind::Truncated) } else { Ok(()) }
    }

    /// Decodes an escape. The backslash has been read.
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

    /// Decodes `\uXXXX`, or a surrogate pair of two (RFC 8259 section 7).
    fn unicode_escape(&mut self) -> Result<char, JsonFault> {
        let first = self.four_hex()?;
        let code = match first {
            // A high surrogate must be followed by a low one. Parsers treat a lone one differently.
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
        // A lone low surrogate is not a character.
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.fault(FaultKind::Escape),
        }
    }

    /// Parses four hexadecimal digits.
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
mod tests;
