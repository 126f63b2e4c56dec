//! Conversion of a whole answer in OpenAI's dialect to the events of a stream.

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, event, of, taken, text};

/// The maximum number of bytes that the events of one answer may repeat. Each event repeats all
/// members except the choices.
const REPEATED_MAX: usize = 16 << 20;

/// The events with the content of `answer`, including `[DONE]`. Usage is a separate event. `chat`
/// is false for `completions`.
pub(in crate::model::dialect) fn events(
    chat: bool,
    mut answer: Object<'_>,
) -> Result<Vec<Vec<u8>>, Unlike> {
    let Some(Value::Array(choices)) = answer.remove("choices") else {
        return Err(Unlike::Odd("it has no choices"));
    };
    let usage = match answer.remove("usage") {
        None | Some(Value::Null) => None,
        usage => usage,
    };
    if chat {
        answer.set("object", text("chat.completion.chunk"));
    }
    // A chat has two events for each choice. Without this limit, many small choices multiply the
    // other members.
    if event(None, &Value::Object(answer.clone())).len().saturating_mul(2 * choices.len())
        > REPEATED_MAX
    {
        return Err(Unlike::Odd("its members outside of the choices are too long for events"));
    }
    let mut events = Vec::with_capacity(2 * choices.len() + 2);
    for choice in choices {
        let Value::Object(mut choice) = choice else {
            return Err(Unlike::Odd("a choice is no object"));
        };
        if chat {
            let index = match choice.get("index") {
                Some(index) => index.clone(),
                None => Value::from_u64(0),
            };
            let reason = taken(&mut choice, "finish_reason");
            let Some(Value::Object(mut delta)) = choice.remove("message") else {
                return Err(Unlike::Odd("a choice has no message"));
            };
            // Clients join calls by their index. A whole answer has none.
            number_calls(&mut delta)?;
            choice.set("delta", Value::Object(delta));
            choice.set("finish_reason", Value::Null);
            events.push(chunk(&answer, vec![Value::Object(choice)], None));
            // The finish reason comes in a second event, after the content, as servers send it.
            let end = of([
                ("index", index),
                ("delta", Value::Object(Object::new())),
                ("finish_reason", reason),
            ]);
            events.push(chunk(&answer, vec![end], None));
        } else {
            events.push(chunk(&answer, vec![Value::Object(choice)], None));
        }
    }
    // As with `include_usage`, the usage comes in a last chunk without choices.
    if usage.is_some() {
        events.push(chunk(&answer, Vec::new(), usage));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    Ok(events)
}

/// An event with the other members of the answer, and with these choices and usage.
fn chunk<'v>(answer: &Object<'v>, choices: Vec<Value<'v>>, usage: Option<Value<'v>>) -> Vec<u8> {
    let mut chunk = answer.clone();
    chunk.set("choices", Value::Array(choices));
    if let Some(usage) = usage {
        chunk.set("usage", usage);
    }
    event(None, &Value::Object(chunk))
}

/// Adds the index to each tool call of a delta.
fn number_calls(delta: &mut Object<'_>) -> Result<(), Unlike> {
    let Some(Value::Array(calls)) = delta.get_mut("tool_calls") else { return Ok(()) };
    for (place, call) in calls.iter_mut().enumerate() {
        let Value::Object(call) = call else { return Err(Unlike::Odd("a tool call is no object")) };
        call.set("index", Value::from_u64(place as u64));
    }
    Ok(())
}
