//! A common interface to walk over the values of a document. An event is parsed once to a tree. A
//! whole answer is walked over in place, because it may be long.

use std::borrow::Cow;

use crate::json::{self, Limits, Value};

use super::raw_json;
use super::unreadable::Unreadable;

/// A document whose values can be walked over.
pub(super) trait Values<'j> {
    /// The type that refers to one value.
    type Value: Copy;

    /// The bytes of a value as written. White space may follow a number or word.
    fn raw(&self, value: Self::Value) -> &'j [u8];

    /// Calls `visit` for each member of an object, with its name as written. Returns the length of
    /// the object in bytes; `None` if its structure is no object.
    fn members(
        &self,
        object: Self::Value,
        visit: impl FnMut(&'j [u8], Self::Value),
    ) -> Option<usize>;

    /// Calls `visit` for each item of an array; `None` if its structure is no array.
    fn items(&self, array: Self::Value, visit: impl FnMut(Self::Value)) -> Option<()>;

    /// The text of a string.
    ///
    /// # Errors
    /// When the string is invalid JSON.
    fn text(&self, string: Self::Value) -> Result<Cow<'_, str>, Unreadable>;

    /// Whether the whole document is UTF-8.
    fn is_utf8(&self) -> bool;
}

/// A document that is walked over in place.
pub(super) struct InPlace<'j>(pub(super) &'j [u8]);

impl<'j> Values<'j> for InPlace<'j> {
    type Value = &'j [u8];

    fn raw(&self, value: &'j [u8]) -> &'j [u8] {
        value
    }

    fn members(&self, object: &'j [u8], visit: impl FnMut(&'j [u8], &'j [u8])) -> Option<usize> {
        raw_json::members(object, visit)
    }

    fn items(&self, array: &'j [u8], visit: impl FnMut(&'j [u8])) -> Option<()> {
        raw_json::items(array, visit)
    }

    fn text(&self, string: &'j [u8]) -> Result<Cow<'_, str>, Unreadable> {
        match json::parse(string, &Limits::deep(1)) {
            Ok(Value::String(text)) => Ok(text),
            Ok(_) | Err(_) => Err(Unreadable::Json),
        }
    }

    fn is_utf8(&self) -> bool {
        std::str::from_utf8(self.0).is_ok()
    }
}
