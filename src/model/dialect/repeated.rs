//! The members of an event that the last events of an answer repeat.

use crate::json::{Object, Value};
use crate::model::convert::own;

/// The maximum number of bytes of a repeated member.
const REPEATED_MAX: usize = 256;

/// The listed members of an event, which the last events repeat. Only short strings and numbers are
/// taken: no filter has seen the event, and the last events may be many.
pub(super) fn repeated(event: &Object<'_>, names: &[&'static str]) -> Object<'static> {
    let mut head = Object::new();
    for name in names {
        match event.get(name) {
            Some(value @ Value::String(text)) if text.len() <= REPEATED_MAX => {
                head.set(*name, own(value));
            }
            Some(value @ Value::Number(number)) if number.len() <= REPEATED_MAX => {
                head.set(*name, own(value));
            }
            Some(_) | None => {}
        }
    }
    head
}
