//! Conversion of a whole answer in OpenAI's dialect to the events of a stream.

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, event, of, text};

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
    let usage = answer.remove("usage").filter(|usage| *usage != Value::Null);
    if chat {
        answer.set("object", text("chat.completion.chunk"));
    }
    let chunk = |choices: Vec<Value<'_>>, usage: Option<Value<'_>>| {
        let mut chunk = answer.clone();
        // The members move to a new object, so that the choices can have another lifetime.
        let mut out = Object::new();
        chunk.iter_mut().for_each(|(name, value)| {
            out.set(name.to_owned(), std::mem::replace(value, Value::Null))
        });
        out.set("choices", Value::Array(choices));
        usage.into_iter().for_each(|usage| out.set("usage", usage));
        event(None, &Value::Object(out))
    };
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
            let index = choice.get("index").cloned().unwrap_or_else(|| Value::from_u64(0));
            let reason = choice.remove("finish_reason").unwrap_or(Value::Null);
            let Some(Value::Object(mut delta)) = choice.remove("message") else {
                return Err(Unlike::Odd("a choice has no message"));
            };
            // Clients join calls by their index. A whole answer has none.
            number_calls(&mut delta)?;
            choice.set("delta", Value::Object(delta));
            choice.set("finish_reason", Value::Null);
            events.push(chunk(vec![Value::Object(choice)], None));
            // The finish reason comes in a second event, after the content, as servers send it.
            let end = of([
                ("index", index),
                ("delta", Value::Object(Object::new())),
                ("finish_reason", reason),
            ]);
            events.push(chunk(vec![end], None));
        } else {
            events.push(chunk(vec![Value::Object(choice)], None));
        }
    }
    // As with `include_usage`, the usage comes in a last chunk without choices.
    if usage.is_some() {
        events.push(chunk(Vec::new(), usage));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    Ok(events)
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
