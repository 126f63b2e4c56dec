//! A whole answer as the events of a stream.

use crate::json::{self, Object, Value};
use crate::model::{Dialect, Operation};

use super::{Unlike, object, of, text};

/// The events that say what `answer` says, the dialect's last event included. Usage is an event of its own.
///
/// # Errors
/// When it is no answer of that operation.
pub fn events(operation: Operation, answer: &[u8]) -> Result<Vec<Vec<u8>>, Unlike> {
    let answer = object(answer)?;
    match operation.dialect() {
        Dialect::OpenAi => chunks(operation, answer),
        Dialect::Anthropic => message(answer),
    }
}

fn event(name: Option<&str>, data: &Value<'_>) -> Vec<u8> {
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

/// Most bytes that the events of one answer may repeat. Each event repeats all members except the choices.
const REPEATED_MAX: usize = 16 << 20;

fn chunks(operation: Operation, mut answer: Object<'_>) -> Result<Vec<Vec<u8>>, Unlike> {
    let Some(Value::Array(choices)) = answer.remove("choices") else { return Err(Unlike::Odd("it has no choices")) };
    let usage = answer.remove("usage").filter(|usage| *usage != Value::Null);
    let chat = operation == Operation::ChatCompletions;
    if chat {
        answer.set("object", text("chat.completion.chunk"));
    }
    let chunk = |choices: Vec<Value<'_>>, usage: Option<Value<'_>>| {
        let mut chunk = answer.clone();
        // What borrows less lives in a chunk of its own.
        let mut out = Object::new();
        chunk.iter_mut().for_each(|(name, value)| out.set(name.to_owned(), std::mem::replace(value, Value::Null)));
        out.set("choices", Value::Array(choices));
        usage.into_iter().for_each(|usage| out.set("usage", usage));
        event(None, &Value::Object(out))
    };
    if event(None, &Value::Object(answer.clone())).len().saturating_mul(2 * choices.len()) > REPEATED_MAX {
        return Err(Unlike::Odd("its members outside of the choices are too long for events"));
    }
    let mut events = Vec::with_capacity(2 * choices.len() + 2);
    for choice in choices {
        let Value::Object(mut choice) = choice else { return Err(Unlike::Odd("a choice is no object")) };
        if chat {
            let index = choice.get("index").cloned().unwrap_or_else(|| Value::from_u64(0));
            let reason = choice.remove("finish_reason").unwrap_or(Value::Null);
            let Some(Value::Object(mut delta)) = choice.remove("message") else {
                return Err(Unlike::Odd("a choice has no message"));
            };
            number_calls(&mut delta)?;
            choice.set("delta", Value::Object(delta));
            choice.set("finish_reason", Value::Null);
            events.push(chunk(vec![Value::Object(choice)], None));
            let end = of([("index", index), ("delta", Value::Object(Object::new())), ("finish_reason", reason)]);
            events.push(chunk(vec![end], None));
        } else {
            events.push(chunk(vec![Value::Object(choice)], None));
        }
    }
    if usage.is_some() {
        events.push(chunk(Vec::new(), usage));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    Ok(events)
}

/// Calls in a delta have numbers.
fn number_calls(delta: &mut Object<'_>) -> Result<(), Unlike> {
    let Some(Value::Array(calls)) = delta.get_mut("tool_calls") else { return Ok(()) };
    for (place, call) in calls.iter_mut().enumerate() {
        let Value::Object(call) = call else { return Err(Unlike::Odd("a tool call is no object")) };
        call.set("index", Value::from_u64(place as u64));
    }
    Ok(())
}

fn message(mut answer: Object<'_>) -> Result<Vec<Vec<u8>>, Unlike> {
    if answer.get("type").and_then(Value::as_str) != Some("message") {
        return Err(Unlike::Odd("it is no message"));
    }
    let Some(Value::Array(content)) = answer.remove("content") else { return Err(Unlike::Odd("it has no content")) };
    let reason = answer.remove("stop_reason").unwrap_or(Value::Null);
    let sequence = answer.remove("stop_sequence").unwrap_or(Value::Null);
    let usage = answer.get("usage").cloned().unwrap_or_else(|| Value::Object(Object::new()));
    for (name, value) in [("content", Value::Array(Vec::new())), ("stop_reason", Value::Null), ("stop_sequence", Value::Null)] {
        answer.set(name, value);
    }
    let start = of([("type", text("message_start")), ("message", Value::Object(answer))]);
    let mut events = vec![event(Some("message_start"), &start)];
    for (place, block) in content.into_iter().enumerate() {
        let Value::Object(block) = block else { return Err(Unlike::Odd("a block is no object")) };
        blocks(place as u64, block, &mut events);
    }
    let delta = of([("stop_reason", reason), ("stop_sequence", sequence)]);
    let end = of([("type", text("message_delta")), ("delta", delta), ("usage", usage)]);
    events.push(event(Some("message_delta"), &end));
    events.push(event(Some("message_stop"), &of([("type", text("message_stop"))])));
    Ok(events)
}

/// A block begins empty, and what it says comes in one delta for each of its members that come in deltas.
fn blocks(place: u64, mut block: Object<'_>, events: &mut Vec<Vec<u8>>) {
    let mut deltas = Vec::new();
    for (member, kind) in [("text", "text_delta"), ("thinking", "thinking_delta"), ("signature", "signature_delta")] {
        if let Some(Value::String(said)) = block.get_mut(member) {
            let said = std::mem::take(said);
            if !said.is_empty() {
                deltas.push(of([("type", text(kind)), (member, Value::String(said))]));
            }
        }
    }
    let calls = block.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("tool_use"));
    if let Some(input) = block.get_mut("input").filter(|_| calls) {
        let mut json = Vec::new();
        json::write(input, &mut json);
        *input = Value::Object(Object::new());
        let json = String::from_utf8(json).unwrap_or_default();
        deltas.push(of([("type", text("input_json_delta")), ("partial_json", Value::from_text(json))]));
    }
    let index = || ("index", Value::from_u64(place));
    let start = of([("type", text("content_block_start")), index(), ("content_block", Value::Object(block))]);
    events.push(event(Some("content_block_start"), &start));
    for delta in deltas {
        let delta = of([("type", text("content_block_delta")), index(), ("delta", delta)]);
        events.push(event(Some("content_block_delta"), &delta));
    }
    events.push(event(Some("content_block_stop"), &of([("type", text("content_block_stop")), index()])));
}
