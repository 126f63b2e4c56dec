//! A whole answer where events were asked for, and events where a whole answer was: the same answer in the other form.
//!
//! Some servers stream whatever is asked, and some never do. What is read here is put together as SDKs do it; what could be put together in
//! more than one way, or has a member that no stream has a place for, is not converted.

mod events;
mod joined;

pub use events::events;
pub use joined::joined;

use crate::json::{self, Limits, Object, Value};

use super::prose::DEPTH_MAX;

/// Values of one document, so that its reading stays bounded.
const VALUES_MAX: usize = 1 << 20;

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

fn object<'j>(json: &'j [u8]) -> Result<Object<'j>, Unlike> {
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX };
    match json::parse(json, &limits) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Unlike::Odd("it is no JSON object")),
    }
}

fn text<'v>(text: &'static str) -> Value<'v> {
    Value::from_text(text)
}

fn of<'v>(members: impl IntoIterator<Item = (&'static str, Value<'v>)>) -> Value<'v> {
    let mut object = Object::new();
    members.into_iter().for_each(|(name, value)| object.set(name, value));
    Value::Object(object)
}

#[cfg(test)]
mod tests;
