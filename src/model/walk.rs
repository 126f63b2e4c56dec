//! Walking a body: closed objects member by member, open subtrees left alone.

use std::fmt::Write as _;

use crate::json::{Object, Value};
use crate::model::UnknownFields;
use crate::model::call::{Reach, ReachKind};
use crate::refusal::{Code, Refusal};

/// What a field's value must look like. `null` passes for every field: it means "not set".
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Anything: a JSON schema, tool input, metadata.
    Open,
    /// A string.
    Text,
    /// A finite number.
    Number,
    /// A whole number from 0 on.
    Count,
    /// A whole number, negative ones too.
    Whole,
    /// A boolean.
    Truth,
    /// A list of strings.
    Texts,
    /// A string or a list of strings.
    TextOrTexts,
    /// A list of numbers.
    Numbers,
    /// An object whose values are scalars.
    Scalars,
    /// Text, texts, token ids, or lists of token ids.
    Input,
    /// A structure of the dialect.
    With(Judge),
}

/// Judges a structure.
pub(super) type Judge = for<'w, 'b> fn(&mut Walk<'w>, &mut Value<'b>) -> Result<(), Refusal>;
/// The members of a closed object.
pub(super) type Members = &'static [(&'static str, Shape)];

#[derive(Clone, Copy)]
enum Step {
    Key(&'static str),
    Place(usize),
}

/// A walk through one body.
pub(super) struct Walk<'w> {
    pub(super) unknown: UnknownFields,
    pub(super) profile: &'w str,
    pub(super) reaches: Vec<Reach>,
    pub(super) dropped: Vec<String>,
    path: Vec<Step>,
}

/// Longest inline medium, in bytes of base64.
const INLINE_MAX: usize = 24 << 20;

impl<'w> Walk<'w> {
    pub(super) const fn new(unknown: UnknownFields, profile: &'w str) -> Self {
        Self { unknown, profile, reaches: Vec::new(), dropped: Vec::new(), path: Vec::new() }
    }

    /// The path of where we are, and `last` behind it.
    pub(super) fn path(&self, last: &str) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    let dot = if text.is_empty() { "" } else { "." };
                    let _ = write!(text, "{dot}{key}");
                }
                Step::Place(place) => {
                    let _ = write!(text, "[{place}]");
                }
            }
        }
        if !last.is_empty() {
            let shown: String = last.chars().take(64).collect();
            let dot = if text.is_empty() { "" } else { "." };
            let _ = write!(text, "{dot}{shown}");
        }
        text
    }

    pub(super) fn invalid<T>(&self, last: &str, must: &str) -> Result<T, Refusal> {
        let path = self.path(last);
        Err(Refusal::new(Code::FieldInvalid).saying(format!("{path} must be {must}.")).at(path))
    }

    pub(super) fn missing<T>(&self, last: &str) -> Result<T, Refusal> {
        let path = self.path(last);
        Err(Refusal::new(Code::FieldMissing).saying(format!("{path} is required.")).at(path))
    }

    pub(super) fn under<T>(&mut self, key: &'static str, walk: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        self.path.push(Step::Key(key));
        let result = walk(self)?;
        self.path.pop();
        Ok(result)
    }

    /// Judges every item of a list.
    pub(super) fn each(&mut self, value: &mut Value<'_>, judge: Judge) -> Result<(), Refusal> {
        let Value::Array(items) = value else { return self.invalid("", "a list") };
        for (place, item) in items.iter_mut().enumerate() {
            self.path.push(Step::Place(place));
            judge(self, item)?;
            self.path.pop();
        }
        Ok(())
    }

    /// Judges a closed object: members of the table by their shapes, every other one refused or dropped.
    pub(super) fn closed(&mut self, value: &mut Value<'_>, members: Members) -> Result<(), Refusal> {
        let Value::Object(object) = value else { return self.invalid("", "an object") };
        let mut unknown: Vec<String> = Vec::new();
        for (key, member) in object.iter_mut() {
            match members.iter().find(|(name, _)| *name == key) {
                Some((name, shape)) => self.member(name, *shape, member)?,
                None => unknown.push(key.to_owned()),
            }
        }
        for key in unknown {
            self.unknown_field(&key, members.iter().map(|(name, _)| *name))?;
            object.remove(&key);
        }
        Ok(())
    }

    /// Notes a field that is dropped, or refuses it.
    pub(super) fn unknown_field<'n>(&mut self, key: &str, mut known: impl Iterator<Item = &'n str>) -> Result<(), Refusal> {
        let path = self.path(key);
        match self.unknown {
            UnknownFields::Drop => {
                self.dropped.push(path);
                Ok(())
            }
            UnknownFields::Refuse => {
                let twin = known.find(|name| fold(name) == fold(key));
                let hint = match twin {
                    Some(name) => format!(" It differs from {name:?} only by case or by look-alike letters."),
                    None => " unknown_fields = \"drop\" in the agent's class would leave it out.".to_owned(),
                };
                let says = format!("{path} is not a field that passes to this model's server (profile {}).{hint}", self.profile);
                Err(Refusal::new(Code::FieldNotAllowed).saying(says).at(path))
            }
        }
    }

    /// Judges one member by its shape.
    pub(super) fn member(&mut self, name: &'static str, shape: Shape, value: &mut Value<'_>) -> Result<(), Refusal> {
        if matches!(value, Value::Null) {
            return Ok(());
        }
        let text = |value: &Value<'_>| value.as_str().is_some();
        let number = |value: &Value<'_>| matches!(value, Value::Number(_));
        let whole = |value: &Value<'_>| matches!(value, Value::Number(text) if text.parse::<i64>().is_ok());
        let list = |value: &Value<'_>, of: fn(&Value<'_>) -> bool| value.as_array().is_some_and(|items| items.iter().all(of));
        let (fits, must) = match shape {
            Shape::Open => (true, ""),
            Shape::Text => (text(value), "a string"),
            Shape::Number => (number(value), "a number"),
            Shape::Count => (value.as_u64().is_some(), "a whole number from 0 on"),
            Shape::Whole => (whole(value), "a whole number"),
            Shape::Truth => (value.as_bool().is_some(), "true or false"),
            Shape::Texts => (list(value, |item| item.as_str().is_some()), "a list of strings"),
            Shape::TextOrTexts => (text(value) || list(value, |item| item.as_str().is_some()), "a string or a list of strings"),
            Shape::Numbers => (list(value, |item| matches!(item, Value::Number(_))), "a list of numbers"),
            Shape::Scalars => {
                let scalar = |value: &Value<'_>| !matches!(value, Value::Array(_) | Value::Object(_));
                (value.as_object().is_some_and(|object| object.iter().all(|(_, value)| scalar(value))), "an object of scalars")
            }
            Shape::Input => (input(value), "a string, a list of strings, or lists of token ids"),
            Shape::With(judge) => return self.under(name, |walk| judge(walk, value)),
        };
        if fits { Ok(()) } else { self.invalid(name, must) }
    }

    /// Notes that the request reaches out.
    pub(super) fn reach(&mut self, last: &str, kind: ReachKind, target: &str) {
        let path = self.path(last);
        self.reaches.push(Reach { path, kind, target: target.chars().take(256).collect() });
    }

    /// A URL of media: `data:` of the right kind passes, everything else reaches out.
    pub(super) fn media(&mut self, last: &'static str, url: &str, kinds: &[&str]) -> Result<(), Refusal> {
        let Some(data) = url.strip_prefix("data:") else {
            self.reach(last, ReachKind::Media, url);
            return Ok(());
        };
        let kind = data.split([';', ',']).next().unwrap_or_default();
        if !kinds.iter().any(|known| kind.starts_with(known)) || !data.contains(";base64,") {
            return self.invalid(last, "data: of a known media type in base64");
        }
        if url.len() > INLINE_MAX {
            return self.invalid(last, "at most 24 MiB");
        }
        Ok(())
    }
}

fn input(value: &Value<'_>) -> bool {
    let ids = |value: &Value<'_>| value.as_array().is_some_and(|ids| ids.iter().all(|id| id.as_u64().is_some()));
    let texts = |items: &[Value<'_>]| items.iter().all(|item| item.as_str().is_some());
    value.as_str().is_some() || ids(value) || value.as_array().is_some_and(|items| texts(items) || items.iter().all(ids))
}

/// One form of all spellings that a case-folding reader takes for the same key: `ſ` and `K` (Kelvin) included.
fn fold(key: &str) -> String {
    key.to_uppercase().to_lowercase()
}

/// The `type` member of a tagged object.
pub(super) fn tag(value: &Value<'_>) -> Option<String> {
    value.as_object().and_then(|object| object.get("type")).and_then(Value::as_str).map(str::to_owned)
}

/// A string member of an object.
pub(super) fn text_of<'v>(object: Option<&'v Object<'_>>, key: &str) -> Option<&'v str> {
    object.and_then(|object| object.get(key)).and_then(Value::as_str)
}
