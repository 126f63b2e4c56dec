//! Members of events that carry calls. What is of another type than the dialect has there, some readers put together all the same.

use super::Fault;
use crate::json::{Object, Value};

/// The type of deltas that carry a call.
const JSON_DELTA: &str = "input_json_delta";

/// A member that is there, and not null.
fn member<'v>(of: &'v Object<'v>, key: &str) -> Option<&'v Value<'v>> {
    of.get(key).filter(|value| !matches!(value, Value::Null))
}

pub(super) fn object<'v>(of: &'v Object<'v>, key: &str) -> Result<Option<&'v Object<'v>>, Fault> {
    member(of, key).map(|value| value.as_object().ok_or(Fault::Odd)).transpose()
}

/// The items of an array; none where there is none.
pub(super) fn array<'v>(of: &'v Object<'v>, key: &str) -> Result<&'v [Value<'v>], Fault> {
    member(of, key).map_or(Ok(&[]), |value| value.as_array().ok_or(Fault::Odd))
}

pub(super) fn text<'v>(of: &'v Object<'v>, key: &str) -> Result<Option<&'v str>, Fault> {
    member(of, key).map(|value| value.as_str().ok_or(Fault::Odd)).transpose()
}

/// The number that an object has, where it has one.
pub(super) fn number(of: &Object<'_>) -> Result<Option<u64>, Fault> {
    member(of, "index").map(|index| index.as_u64().ok_or(Fault::Odd)).transpose()
}

/// Whether something is called in what belongs to whole answers.
pub(super) fn calls(message: Option<&Object<'_>>) -> bool {
    message.is_some_and(|message| ["tool_calls", "function_call"].iter().any(|key| member(message, key).is_some()))
}

/// The piece of a call that one of Anthropic's deltas is; empty where it is another.
pub(super) fn partial_json<'v>(event: &'v Object<'v>) -> Result<&'v str, Fault> {
    let Some(delta) = object(event, "delta")? else { return Ok("") };
    let json = text(delta, "partial_json")?;
    // Some readers leave out what has another type.
    if json.is_some() && text(delta, "type")? != Some(JSON_DELTA) {
        return Err(Fault::Odd);
    }
    Ok(json.unwrap_or_default())
}
