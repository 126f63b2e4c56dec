//! Tool calls in whole answers.

use crate::json::{self, Limits, Value};
use crate::model::unreadable::{DEPTH_MAX, Unreadable};

use super::names::exact;
use super::{Arguments, Tools};

/// What a byte of an answer may cost when it is read, in the cost of a scalar.
const VALUES_EACH: usize = 8;
/// What an answer may cost in all, so.
const VALUES_MAX: usize = 1 << 22;

/// Has every call in a whole answer judged; false where one must not go on.
///
/// # Errors
/// When the answer cannot be looked through.
pub fn whole(answer: &[u8], tools: &mut dyn Tools) -> Result<bool, Unreadable> {
    if !tools.any() {
        return Ok(true);
    }
    let value = read(answer)?;
    exact(&value)?;
    Ok(within(&value, tools))
}

fn read(document: &[u8]) -> Result<Value<'_>, Unreadable> {
    // An answer is held already, and its numbers (log probabilities) are many.
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX.min(document.len() * VALUES_EACH) };
    json::parse(document, &limits).map_err(|_| Unreadable::Json)
}

/// The calls in a value at any depth: objects with a name and with what is called with it.
fn within(value: &Value<'_>, tools: &mut dyn Tools) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| within(item, tools)),
        Value::Object(object) => {
            let name = object.get("name").and_then(Value::as_str).filter(|name| tools.judges(name));
            let passes = name.is_none_or(|name| {
                let mut passes =
                    |key, free| object.get(key).is_none_or(|with| judged(name, with, free, tools));
                passes("arguments", false) && passes("input", true)
            });
            passes && object.iter().all(|(_, value)| within(value, tools))
        }
    }
}

/// What a call's member holds: JSON as text or as it is; text of no form where it is `free`.
fn judged(name: &str, with: &Value<'_>, free: bool, tools: &mut dyn Tools) -> bool {
    match with {
        Value::Null => true,
        Value::String(text) if free => tools.call(name, Arguments::Text(text)),
        Value::String(text) => tools.call(name, Arguments::Json(text.as_bytes())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            tools.call(name, Arguments::Json(&written(with)))
        }
    }
}

fn written(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json::write(value, &mut out);
    out
}
