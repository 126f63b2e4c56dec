//! Conversion of a whole answer in Anthropic's dialect to the events of a stream.

use crate::json::{self, Object, Value};
use crate::model::convert::{Unlike, event, of, taken, text};

/// The events with the content of `answer`, including `message_stop`. Usage comes with the stop
/// reason.
pub(in crate::model::dialect) fn events(mut answer: Object<'_>) -> Result<Vec<Vec<u8>>, Unlike> {
    if answer.text("type") != Some("message") {
        return Err(Unlike::Odd("it is no message"));
    }
    let Some(Value::Array(content)) = answer.remove("content") else {
        return Err(Unlike::Odd("it has no content"));
    };
    let reason = taken(&mut answer, "stop_reason");
    let sequence = taken(&mut answer, "stop_sequence");
    let usage = match answer.get("usage") {
        Some(usage) => usage.clone(),
        None => Value::Object(Object::new()),
    };
    // A client joins the stream to the start message. These members must be empty there, because
    // later events fill them.
    for (name, value) in [
        ("content", Value::Array(Vec::new())),
        ("stop_reason", Value::Null),
        ("stop_sequence", Value::Null),
    ] {
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

/// Appends the events of a block. The block starts with empty members. Each member that streams in
/// deltas is sent as one delta.
fn blocks(place: u64, mut block: Object<'_>, events: &mut Vec<Vec<u8>>) {
    let mut deltas = Vec::new();
    for (member, kind) in
        [("text", "text_delta"), ("thinking", "thinking_delta"), ("signature", "signature_delta")]
    {
        if let Some(Value::String(said)) = block.get_mut(member) {
            let said = std::mem::take(said);
            if !said.is_empty() {
                deltas.push(of([("type", text(kind)), (member, Value::String(said))]));
            }
        }
    }
    let calls = matches!(block.text("type"), Some(kind) if kind.ends_with("tool_use"));
    if calls && let Some(input) = block.get_mut("input") {
        let mut json = Vec::new();
        json::write(input, &mut json);
        // The block starts with empty arguments, and the delta adds them.
        *input = Value::Object(Object::new());
        // The bytes are valid UTF-8, because the JSON writer made them from text.
        let json = String::from_utf8(json).unwrap_or_default();
        deltas.push(of([
            ("type", text("input_json_delta")),
            ("partial_json", Value::from_text(json)),
        ]));
    }
    let start = of([
        ("type", text("content_block_start")),
        ("index", Value::from_u64(place)),
        ("content_block", Value::Object(block)),
    ]);
    events.push(event(Some("content_block_start"), &start));
    for delta in deltas {
        let delta = of([
            ("type", text("content_block_delta")),
            ("index", Value::from_u64(place)),
            ("delta", delta),
        ]);
        events.push(event(Some("content_block_delta"), &delta));
    }
    let stop = of([("type", text("content_block_stop")), ("index", Value::from_u64(place))]);
    events.push(event(Some("content_block_stop"), &stop));
}
