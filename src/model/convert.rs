//! Conversion of answers: a whole answer to events, and events to a whole answer.
//!
//! Some servers always stream, and some never do, whatever the request contains. The parts are
//! joined as SDKs join them. An answer is not converted if its parts could be joined in more than
//! one manner. The same holds for an answer with a member that streams cannot carry.

mod events;
mod joined;

pub use events::events;
pub use joined::joined;

use crate::json::{self, Limits, Object, Value};

use super::unreadable::DEPTH_MAX;

/// The maximum memory cost of one document, as in [`Limits::values`].
const VALUES_MAX: usize = 1 << 20;

/// The maximum number of choices, calls and blocks of one answer.
const PARTS_MAX: u64 = 1_024;
/// The maximum number of other members of an answer and of its usage. Each name is searched among
/// the others, so the limit also bounds the time.
pub(super) const NAMES_MAX: usize = 256;

/// The reasons why an answer cannot be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// It is no answer of the operation, or its parts have more than one meaning.
    #[error("the answer has not the form that was asked for, and cannot be converted: {0}")]
    Odd(&'static str),
    /// Its events end before the answer is complete.
    #[error("the answer's events end before it is complete")]
    Cut,
}

/// Parses a document as an object, within [`DEPTH_MAX`] and `VALUES_MAX`.
pub(super) fn object(json: &[u8]) -> Result<Object<'_>, Unlike> {
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX };
    match json::parse(json, &limits) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Unlike::Odd("it is no JSON object")),
    }
}

/// A string value.
pub(super) fn text<'v>(text: &'static str) -> Value<'v> {
    Value::from_text(text)
}

/// An object with the given members.
pub(super) fn of<'v>(members: impl IntoIterator<Item = (&'static str, Value<'v>)>) -> Value<'v> {
    let mut object = Object::new();
    members.into_iter().for_each(|(name, value)| object.set(name, value));
    Value::Object(object)
}

/// An event with the given data. All clients parse its lines in the same manner.
pub(super) fn event(name: Option<&str>, data: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    json::write(data, &mut out);
    out.extend_from_slice(b"\n\n");
    out
}

/// A copy of the value that owns its bytes.
pub(super) fn own(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(truth) => Value::Bool(*truth),
        Value::Number(number) => Value::Number(number.to_string().into()),
        Value::String(text) => Value::from_text(text.to_string()),
        Value::Array(items) => Value::Array(items.iter().map(own).collect()),
        Value::Object(object) => Value::Object(own_object(object)),
    }
}

/// A copy of the object that owns its bytes.
pub(super) fn own_object(object: &Object<'_>) -> Object<'static> {
    object.iter().map(|(name, value)| (name.to_owned().into(), own(value))).collect()
}

/// Copies the members of `more` into `object`, if `more` is an object.
pub(super) fn set_all(
    object: &mut Object<'static>,
    more: Option<&Value<'_>>,
) -> Result<(), Unlike> {
    let Some(more) = more.and_then(Value::as_object) else { return Ok(()) };
    // Each name is searched in the object. A large object would take quadratic time.
    if object.len() + more.len() > NAMES_MAX {
        return Err(Unlike::Odd("it has too many members"));
    }
    more.iter().for_each(|(name, value)| object.set(name.to_owned(), own(value)));
    Ok(())
}

/// The index of a choice, call or block. A missing index is 0.
pub(super) fn index(object: &Object<'_>) -> Result<u64, Unlike> {
    let index = match object.get("index") {
        Some(value) => value.as_u64(),
        None => Some(0),
    };
    match index {
        Some(index) if index < PARTS_MAX => Ok(index),
        Some(_) | None => Err(Unlike::Odd("an index is none")),
    }
}

/// The fault of a part of a text that is no string.
const NO_PIECE: Unlike = Unlike::Odd("a piece of a text is none");

/// A part of a text.
pub(super) fn piece<'v>(value: &'v Value<'_>) -> Result<&'v str, Unlike> {
    match value.as_str() {
        Some(text) => Ok(text),
        None => Err(NO_PIECE),
    }
}

/// A part of a text in the member named `key`, which must be present.
pub(super) fn piece_at<'v>(object: &'v Object<'_>, key: &str) -> Result<&'v str, Unlike> {
    match object.text(key) {
        Some(text) => Ok(text),
        None => Err(NO_PIECE),
    }
}

/// Removes the member named `key` and returns it; null if it is absent.
pub(super) fn taken<'v>(object: &mut Object<'v>, key: &str) -> Value<'v> {
    object.remove(key).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests;
