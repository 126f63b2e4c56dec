//! Tool calls in whole answers.

use crate::json::{self, Limits, Object, Value};
use crate::model::dialect::calls::{LocalCall, local_call};
use crate::model::unreadable::{DEPTH_MAX, Unreadable};

use super::names::exact;
use super::{Arguments, Tools};

/// The maximum memory cost for each byte of an answer, as in [`Limits::values`].
const VALUES_EACH: usize = 8;
/// The maximum memory cost of a whole answer, as in [`Limits::values`].
const VALUES_MAX: usize = 1 << 22;

/// Checks every call in a whole answer. Returns false if a call must not be forwarded.
///
/// # Errors
/// When the answer cannot be searched.
pub fn whole(answer: &[u8], tools: &mut dyn Tools) -> Result<bool, Unreadable> {
    // Without checked tools, the cost of parsing is saved.
    if !tools.any() {
        return Ok(true);
    }
    let value = read(answer)?;
    // A similar name could be a call for some clients, and it would not be found below.
    exact(&value)?;
    Ok(within(&value, tools))
}

/// The evaluation of a call that is an object.
pub(in crate::model) trait CallsOf: Tools + Sized {
    /// Whether the call may be sent. It has a name, and arguments in `arguments` or `input`. An
    /// object without a name passes.
    fn pass(&mut self, call: &Object<'_>) -> bool {
        let Some(name) = call.text("name") else { return true };
        // Clients differ in which of the two members they use. So both are checked.
        !self.judges(name)
            || judged(name, call.get("arguments"), false, self)
                && judged(name, call.get("input"), true, self)
    }
}

impl<T: Tools> CallsOf for T {}

/// Parses the answer, within the limits above.
fn read(document: &[u8]) -> Result<Value<'_>, Unreadable> {
    // The answer is already in memory, and it may contain many numbers (log probabilities).
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX.min(document.len() * VALUES_EACH) };
    json::parse(document, &limits).map_err(|_| Unreadable::Json)
}

/// Checks the calls in a value at every depth. A call is an object with a name and arguments.
fn within(value: &Value<'_>, tools: &mut dyn Tools) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| within(item, tools)),
        Value::Object(object) => {
            // Clients differ in which of the two members they use. So both are checked.
            if let Some(name) = object.text("name")
                && tools.judges(name)
                && !(judged(name, object.get("arguments"), false, tools)
                    && judged(name, object.get("input"), true, tools))
            {
                return false;
            }
            if let Some(LocalCall { tool, member }) = object.text("type").and_then(local_call)
                && tools.judges(tool)
                && !judged(tool, object.get(member), false, tools)
            {
                return false;
            }
            object.iter().all(|(_, value)| within(value, tools))
        }
    }
}

/// Checks the arguments in a call's member: JSON as text or as a value, or other text if `free` is
/// true. Returns true if the call does not have the member.
fn judged(name: &str, with: Option<&Value<'_>>, free: bool, tools: &mut dyn Tools) -> bool {
    match with {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) if free => tools.call(name, Arguments::Text(text)),
        Some(Value::String(text)) => tools.call(name, Arguments::Json(text.as_bytes())),
        Some(with) => tools.call(name, Arguments::Json(&written(with))),
    }
}

/// The value as JSON bytes.
fn written(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json::write(value, &mut out);
    out
}
