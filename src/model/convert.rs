//! A whole answer where events were asked for, and events where a whole answer was: the same answer in the other form.
//!
//! Some servers stream whatever is asked, and some never do. What is read here is put together as SDKs do it; what could be put together in
//! more than one way, or has a member that no stream has a place for, is not converted.

mod events;
mod joined;

pub use events::events;
pub use joined::joined;

use crate::json::{self, Limits, Object, Value};

use super::unreadable::DEPTH_MAX;

/// Values of one document, so that its reading stays bounded.
const VALUES_MAX: usize = 1 << 20;

/// Choices, calls and blocks of one answer.
const PARTS_MAX: u64 = 1_024;
/// Members of an answer beside those, and of its usage: each is looked up among the others.
pub(super) const NAMES_MAX: usize = 256;

/// Why an answer cannot be had in the other form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// It is not an answer of the operation, or not one whose parts have one meaning.
    #[error("the answer has not the form that was asked for, and cannot be converted: {0}")]
    Odd(&'static str),
    /// Its events end before it is complete.
    #[error("the answer's events end before it is complete")]
    Cut,
}

/// A document as an object.
pub(super) fn object(json: &[u8]) -> Result<Object<'_>, Unlike> {
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX };
    match json::parse(json, &limits) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Unlike::Odd("it is no JSON object")),
    }
}

/// A string.
pub(super) fn text<'v>(text: &'static str) -> Value<'v> {
    Value::from_text(text)
}

/// An object of those members.
pub(super) fn of<'v>(members: impl IntoIterator<Item = (&'static str, Value<'v>)>) -> Value<'v> {
    let mut object = Object::new();
    members.into_iter().for_each(|(name, value)| object.set(name, value));
    Value::Object(object)
}

/// An event with that data, as every reader takes it.
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

/// The same value, of bytes of its own.
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

/// The same object, of bytes of its own.
pub(super) fn own_object(object: &Object<'_>) -> Object<'static> {
    object.iter().map(|(name, value)| (name.to_owned().into(), own(value))).collect()
}

/// Puts the members of `more`, where that is an object, into `object`.
pub(super) fn set_all(
    object: &mut Object<'static>,
    more: Option<&Value<'_>>,
) -> Result<(), Unlike> {
    let Some(more) = more.and_then(Value::as_object) else { return Ok(()) };
    if object.len() + more.len() > NAMES_MAX {
        return Err(Unlike::Odd("it has too many members"));
    }
    more.iter().for_each(|(name, value)| object.set(name.to_owned(), own(value)));
    Ok(())
}

/// The number of a choice, call or block.
pub(super) fn index(object: &Object<'_>) -> Result<u64, Unlike> {
    let index = object.get("index").map_or(Some(0), Value::as_u64);
    index.filter(|index| *index < PARTS_MAX).ok_or(Unlike::Odd("an index is none"))
}

/// A piece of a text.
pub(super) fn piece<'v>(value: &'v Value<'_>) -> Result<&'v str, Unlike> {
    value.as_str().ok_or(Unlike::Odd("a piece of a text is none"))
}

#[cfg(test)]
mod tests;
