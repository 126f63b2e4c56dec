//! What an answer would have tools called with: found in whole answers, put together from the pieces of streams, and held back until it
//! is judged. Nothing of it is ever changed: a call goes on byte for byte, or the answer ends.

pub(super) mod calls;
mod gate;
pub(super) mod typed;

pub(super) use gate::{Gate, Passage};

use crate::json::{self, Limits, Value};

use super::dialect::calls::is_watched;
use super::judge::{fold, is_folded};
use super::tree::JsonTree;
use super::unreadable::{DEPTH_MAX, Unreadable};

/// StreamCalls of one answer that are kept apart.
const CALLS_MAX: usize = 1_024;
/// Bytes of events that are held back at once.
const HELD_MAX: usize = 4 << 20;
/// What a byte of an answer may cost when it is read, in the cost of a scalar.
const VALUES_EACH: usize = 8;
/// What an answer may cost in all, so.
const VALUES_MAX: usize = 1 << 22;

/// What a tool is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// What should be a JSON document.
    Json(&'a [u8]),
    /// Text of no form (OpenAI's `custom` tools).
    Text(&'a str),
}

/// Who judges calls.
pub trait Tools {
    /// Whether there are tools whose calls are judged.
    fn any(&self) -> bool {
        false
    }

    /// Whether the answer has ended before its end: nothing more goes on.
    fn ended(&self) -> bool {
        false
    }

    /// Whether calls of that tool are.
    fn judges(&self, _tool: &str) -> bool {
        false
    }

    /// A whole call of such a tool. False where the answer ends here.
    fn call(&mut self, _tool: &str, _arguments: Arguments<'_>) -> bool {
        true
    }
}

impl Tools for () {}

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

/// Whether a member has the name of one that is looked at here except for its case: some readers take it for that.
fn is_look_alike(name: &str) -> bool {
    !is_folded(name) && !is_watched(name) && is_watched(&fold(name))
}

/// Whether a member is what a tool is called with, which has names of its own.
fn has_own_names(name: &str) -> bool {
    matches!(name, "arguments" | "input")
}

/// That no member of a whole answer is a look-alike.
fn exact(value: &Value<'_>) -> Result<(), Unreadable> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Array(items) => items.iter().try_for_each(exact)?,
        Value::Object(object) => {
            for (name, value) in object.iter() {
                if is_look_alike(name) {
                    return Err(Unreadable::Json);
                }
                if !has_own_names(name) {
                    exact(value)?;
                }
            }
        }
    }
    Ok(())
}

/// That no member of an event is a look-alike.
fn exact_names(event: &JsonTree<'_>) -> Result<(), Unreadable> {
    if event.has_name(is_look_alike, has_own_names) { Err(Unreadable::Json) } else { Ok(()) }
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

/// Why a stream with tool calls cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be looked through.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// More is called than can be kept apart or held.
    #[error("the answer calls more than {CALLS_MAX} tools, or with more than {HELD_MAX} bytes")]
    TooMuch,
    /// Pieces that readers would put together in different ways: of a call that was judged already, of a name whose first pieces went
    /// on, of calls or blocks that are not counted from zero one by one.
    #[error("the pieces of its tool calls can be put together in different ways")]
    Odd,
}

#[cfg(test)]
mod tests;
