//! The small language in which a profile describes the value of a field, and its compiled form.
//!
//! ```text
//! rule = "set" | "drop" | "refuse" | "reach" KIND | ["required"] kind
//! kind = alternative { "|" alternative }
//! alternative = "bool" | "string" | "'literal'" | "[" kind "]" | NAME of a shape or union
//!             | "integer" [range] | "number" [range]
//!             | "object" | "schema" | "numbers" | "scalars" | "open"   subtrees, kept unchanged
//!             | "image" | "audio" | "video" | "file" | "base64"        inline content
//! range = [low] ".." [high]
//! ```
//!
//! Both ends of a range are included. Inline content passes; a URL in its place is an external
//! reference.

use std::iter::Peekable;
use std::str::Chars;

use super::ReferenceKind;

/// The action for a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// The field passes if its value has this kind.
    Pass(ValueKind),
    /// The gateway writes the field. The caller must not send it.
    Set,
    /// The field is removed.
    Drop,
    /// The field is refused.
    Refuse,
    /// The field passes as an external reference, which the egress policy checks.
    Reach(ReferenceKind),
}

/// The allowed values of a field, by JSON type. `null` is the same as an absent field and always
/// passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ValueKind {
    /// Whether the field must be present.
    pub(super) required: bool,
    /// Whether booleans are allowed.
    pub(super) boolean: bool,
    /// The allowed numbers.
    pub(super) number: Option<Number>,
    /// The allowed strings.
    pub(super) string: Option<StringKind>,
    /// The allowed items of arrays.
    pub(super) array: Option<Box<ValueKind>>,
    /// The allowed objects.
    pub(super) object: Option<ObjectKind>,
    /// Any value.
    pub(super) open: bool,
}

/// The allowed values of a number. Both ends are included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    /// Whether it must be an integer.
    pub(super) integer: bool,
    /// The lowest value.
    pub(super) low: Option<i32>,
    /// The highest value.
    pub(super) high: Option<i32>,
}

/// The allowed values of a string.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StringKind {
    /// Any string.
    Any,
    /// One of these literals.
    OneOf(Vec<String>),
    /// Inline content.
    Media(Medium),
    /// A JSON schema as text.
    Schema,
}

/// The sort of content in a `data:` URL, or bare base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// An image.
    Image,
    /// A sound.
    Audio,
    /// A video.
    Video,
    /// A document.
    File,
    /// Base64 without a media type.
    Base64,
}

/// The allowed form of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ObjectKind {
    /// A shape or union: by name until the profile is linked, by index afterwards.
    Named(String),
    /// The index of a shape in the profile.
    Shape(usize),
    /// The index of a union in the profile.
    Union(usize),
    /// Kept unchanged.
    Open,
    /// A JSON schema. It is kept unchanged, but `$ref` must stay inside it.
    Schema,
    /// Any names with numbers and booleans as values.
    Numbers,
    /// Plain names with strings, numbers and booleans as values.
    Scalars,
}

impl ValueKind {
    /// A description of the kind, for refusals.
    pub(super) fn words(&self) -> String {
        let mut words = Vec::new();
        if self.boolean {
            words.push("a boolean".to_owned());
        }
        if let Some(number) = self.number {
            words.push(number.words());
        }
        match &self.string {
            Some(StringKind::Any) => words.push("a string".to_owned()),
            Some(StringKind::OneOf(literals)) => {
                words.push(format!("one of {}", literals.join(", ")))
            }
            Some(StringKind::Media(_)) => words.push("inline content".to_owned()),
            Some(StringKind::Schema) => words.push("a JSON schema as text".to_owned()),
            None => {}
        }
        if let Some(item) = &self.array {
            words.push(format!("an array (each item {})", item.words()));
        }
        if self.object.is_some() {
            words.push("an object".to_owned());
        }
        if self.open { "anything".to_owned() } else { words.join(" or ") }
    }
}

impl Number {
    /// A description of the number, for refusals.
    pub(super) fn words(self) -> String {
        let name = if self.integer { "an integer" } else { "a number" };
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{name} from {low} to {high}"),
            (Some(low), None) => format!("{name} of at least {low}"),
            (None, Some(high)) => format!("{name} of at most {high}"),
            (None, None) => name.to_owned(),
        }
    }

    /// True if the number in `text` fits. The JSON grammar was checked before.
    pub(super) fn fits(self, text: &str) -> bool {
        // `i128` holds every integer of 64 bits. So a large value is not rounded as in `f64`.
        if self.integer {
            // Only plain digits parse here. `1.0` and `1e1` are no integers.
            let Ok(number) = text.parse::<i128>() else { return false };
            return self.low.is_none_or(|low| number >= i128::from(low))
                && self.high.is_none_or(|high| number <= i128::from(high));
        }
        let Ok(number) = text.parse::<f64>() else { return false };
        self.low.is_none_or(|low| number >= f64::from(low))
            && self.high.is_none_or(|high| number <= f64::from(high))
    }
}

/// The error for a text that is not in the language.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a rule: {what}")]
pub(super) struct RuleFault {
    /// The rule, as written in the profile.
    text: String,
    /// The description of the fault.
    what: &'static str,
}

/// Parses a rule.
pub(super) fn rule(text: &str) -> Result<Rule, RuleFault> {
    let rule = match text {
        "set" => Rule::Set,
        "drop" => Rule::Drop,
        "refuse" => Rule::Refuse,
        _ => match text.strip_prefix("reach ") {
            Some(kind) => Rule::Reach(
                reach(kind)
                    .ok_or(RuleFault { text: text.to_owned(), what: "no such kind of reach" })?,
            ),
            None => {
                Rule::Pass(kind(text).map_err(|what| RuleFault { text: text.to_owned(), what })?)
            }
        },
    };
    Ok(rule)
}

/// A kind of reference by its name.
fn reach(text: &str) -> Option<ReferenceKind> {
    let all = [
        ReferenceKind::Media,
        ReferenceKind::HostedTool,
        ReferenceKind::Mcp,
        ReferenceKind::Background,
        ReferenceKind::ForeignState,
    ];
    all.into_iter().find(|kind| kind.as_str() == text)
}

/// Parses a kind.
fn kind(text: &str) -> Result<ValueKind, &'static str> {
    let (required, text) = match text.strip_prefix("required ") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut reader = text.chars().peekable();
    let kind = alternatives(&mut reader)?;
    if reader.next().is_some() {
        // An ignored rest of a rule could be a limit that has no effect.
        return Err("something follows its end");
    }
    Ok(ValueKind { required, ..kind })
}

/// Parses alternatives, up to the first character that continues none.
fn alternatives(reader: &mut Peekable<Chars<'_>>) -> Result<ValueKind, &'static str> {
    let mut kind = ValueKind::default();
    loop {
        space(reader);
        alternative(reader, &mut kind)?;
        space(reader);
        if reader.next_if_eq(&'|').is_none() {
            return Ok(kind);
        }
    }
}

/// Skips spaces.
fn space(reader: &mut Peekable<Chars<'_>>) {
    while reader.next_if_eq(&' ').is_some() {}
}

/// Parses one alternative and adds it to `kind`.
fn alternative(reader: &mut Peekable<Chars<'_>>, kind: &mut ValueKind) -> Result<(), &'static str> {
    if reader.next_if_eq(&'[').is_some() {
        kind.array = Some(Box::new(alternatives(reader)?));
        if reader.next_if_eq(&']').is_none() {
            return Err("a bracket is not closed");
        }
        return Ok(());
    }
    if reader.next_if_eq(&'\'').is_some() {
        let mut literal = String::new();
        while let Some(character) = reader.next_if(|character| *character != '\'') {
            literal.push(character);
        }
        if reader.next().is_none() {
            return Err("a quote is not closed");
        }
        match &mut kind.string {
            Some(StringKind::OneOf(literals)) => literals.push(literal),
            None => kind.string = Some(StringKind::OneOf(vec![literal])),
            Some(StringKind::Any | StringKind::Media(_) | StringKind::Schema) => {
                return Err("a literal cannot be combined with another kind of string");
            }
        }
        return Ok(());
    }
    let word = word(reader);
    match word.as_str() {
        "" => return Err("a word is missing"),
        "bool" => kind.boolean = true,
        "integer" => kind.number = Some(range(reader, true)?),
        "number" => kind.number = Some(range(reader, false)?),
        "open" => kind.open = true,
        "string" => text(kind, StringKind::Any)?,
        "image" => text(kind, StringKind::Media(Medium::Image))?,
        "audio" => text(kind, StringKind::Media(Medium::Audio))?,
        "video" => text(kind, StringKind::Media(Medium::Video))?,
        "file" => text(kind, StringKind::Media(Medium::File))?,
        "base64" => text(kind, StringKind::Media(Medium::Base64))?,
        "schema-text" => text(kind, StringKind::Schema)?,
        "object" => form(kind, ObjectKind::Open)?,
        "schema" => form(kind, ObjectKind::Schema)?,
        "numbers" => form(kind, ObjectKind::Numbers)?,
        "scalars" => form(kind, ObjectKind::Scalars)?,
        _ => form(kind, ObjectKind::Named(word))?,
    }
    Ok(())
}

/// Sets the kind of a string. A kind can have only one.
fn text(kind: &mut ValueKind, text: StringKind) -> Result<(), &'static str> {
    if kind.string.replace(text).is_some() {
        Err("two kinds of string cannot be combined")
    } else {
        Ok(())
    }
}

/// Sets the form of an object. A kind can have only one.
fn form(kind: &mut ValueKind, form: ObjectKind) -> Result<(), &'static str> {
    // Without a tag, the shape of an object would be ambiguous.
    if kind.object.replace(form).is_some() {
        Err("two kinds of object cannot be combined: make a union")
    } else {
        Ok(())
    }
}

/// Reads a word: ASCII letters, digits, `-` and `_`. It may be empty.
fn word(reader: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(character) = reader
        .next_if(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '_'))
    {
        word.push(character);
    }
    word
}

/// Parses the range after `integer` or `number`. Without a range, every number fits.
fn range(reader: &mut Peekable<Chars<'_>>, integer: bool) -> Result<Number, &'static str> {
    space(reader);
    let mut text = String::new();
    while let Some(character) =
        reader.next_if(|character| character.is_ascii_digit() || matches!(character, '-' | '.'))
    {
        text.push(character);
    }
    if text.is_empty() {
        return Ok(Number { integer, low: None, high: None });
    }
    let Some((low, high)) = text.split_once("..") else {
        return Err("a range is written LOW..HIGH");
    };
    Ok(Number { integer, low: range_end(low)?, high: range_end(high)? })
}

/// Parses one end of a range; `None` if it is empty.
fn range_end(text: &str) -> Result<Option<i32>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(end) => Ok(Some(end)),
        Err(_) => Err("an end of a range is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn says(text: &str, expect: &str) {
        assert_eq!(kind(text).expect("kind").words(), expect);
    }

    #[test]
    fn kinds_are_read() {
        says("integer 1..16 | bool", "a boolean or an integer from 1 to 16");
        says("integer -1..", "an integer of at least -1");
        says(
            "string | [string | integer]",
            "a string or an array (each item an integer or a string)",
        );
        says("'auto' | 'none' | choice", "one of auto, none or an object");
        says("[[integer]]", "an array (each item an array (each item an integer))");
        assert_eq!(rule("reach mcp"), Ok(Rule::Reach(ReferenceKind::Mcp)));
    }

    #[test]
    fn what_is_not_a_rule_is_refused() {
        for text in [
            "",
            "reach moon",
            "[string",
            "string | image",
            "object | part",
            "integer 1",
            "'x",
            "string string",
            "number a..b",
        ] {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_are_written_as_integers() {
        let number = Number { integer: true, low: Some(0), high: Some(16) };
        assert!(number.fits("16") && number.fits("-0"));
        assert!(
            !number.fits("17") && !number.fits("1.0") && !number.fits("1e1") && !number.fits("-1")
        );
        assert!(!number.fits("18446744073709551615"));
    }
}
