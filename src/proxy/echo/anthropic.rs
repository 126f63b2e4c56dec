//! The answers of the upstream `echo` in Anthropic's dialect.

use super::message::{Content, EchoMessage, ToolCall};
use super::reply::Reply;
use super::request::EchoRequest;
use super::words::{pieces, quoted};

/// Answers `messages`.
pub(super) fn messages(request: &EchoRequest<'_>) -> Reply {
    let message = EchoMessage::answering(request);
    if request.streams() {
        return Reply::Events(events(request, &message));
    }
    let block = match &message.content {
        Content::Text { text, .. } => text_block(text),
        Content::Tool(call) => tool_block(request, call, &call.arguments),
    };
    let reason = quoted(stop_reason(&message.content));
    Reply::Whole(document(request, &message, &block, &reason, message.output).into_bytes())
}

/// Answers `messages/count_tokens`: the tokens that `messages` reports for the same request.
pub(super) fn count_tokens(request: &EchoRequest<'_>) -> Reply {
    let input = EchoMessage::answering(request).input;
    Reply::Whole(format!(r#"{{"input_tokens":{input}}}"#).into_bytes())
}

/// The stop reason of a content.
const fn stop_reason(content: &Content) -> &'static str {
    match content {
        Content::Text { cut: false, .. } => "end_turn",
        Content::Text { cut: true, .. } => "max_tokens",
        Content::Tool(_) => "tool_use",
    }
}

/// A message document. `block` is its content, `reason` its stop reason; both are JSON text.
fn document(
    request: &EchoRequest<'_>,
    message: &EchoMessage,
    block: &str,
    reason: &str,
    output: u64,
) -> String {
    let (id, model, input) = (request.id, quoted(request.model()), message.input);
    format!(
        concat!(
            r#"{{"id":"msg_{id}","type":"message","role":"assistant","model":{model},"#,
            r#""content":[{block}],"stop_reason":{reason},"stop_sequence":null,"#,
            r#""usage":{{"input_tokens":{input},"output_tokens":{output}}}}}"#
        ),
        id = id,
        model = model,
        block = block,
        reason = reason,
        input = input,
        output = output
    )
}

/// A content block with text.
fn text_block(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// A content block with a tool call. `input` is JSON text.
fn tool_block(request: &EchoRequest<'_>, call: &ToolCall, input: &str) -> String {
    let (id, name) = (request.id, quoted(&call.name));
    format!(r#"{{"type":"tool_use","id":"toolu_{id}","name":{name},"input":{input}}}"#)
}

/// The events of a stream, in the order of Anthropic's streaming API.
fn events(request: &EchoRequest<'_>, message: &EchoMessage) -> Vec<Vec<u8>> {
    // The first event has the message without content, and zero output tokens.
    let begun = document(request, message, "", "null", 0);
    let mut events = vec![event("message_start", &format!(r#","message":{begun}"#))];
    let block = match &message.content {
        Content::Text { .. } => text_block(""),
        // The arguments of a streamed call come in later events, so the first block has none.
        Content::Tool(call) => tool_block(request, call, "{}"),
    };
    events.push(event("content_block_start", &format!(r#","index":0,"content_block":{block}"#)));
    match &message.content {
        Content::Text { text, .. } => {
            for piece in pieces(text) {
                let text = quoted(piece);
                events.push(delta(&format!(r#"{{"type":"text_delta","text":{text}}}"#)));
            }
        }
        Content::Tool(call) => {
            let json = quoted(&call.arguments);
            events.push(delta(&format!(r#"{{"type":"input_json_delta","partial_json":{json}}}"#)));
        }
    }
    events.push(event("content_block_stop", r#","index":0"#));
    let (reason, input, output) = (stop_reason(&message.content), message.input, message.output);
    events.push(event(
        "message_delta",
        &format!(
            concat!(
                r#","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"#,
                r#""usage":{{"input_tokens":{input},"output_tokens":{output}}}"#
            ),
            reason = reason,
            input = input,
            output = output
        ),
    ));
    events.push(event("message_stop", ""));
    events
}

/// An event with a part of the content.
fn delta(delta: &str) -> Vec<u8> {
    event("content_block_delta", &format!(r#","index":0,"delta":{delta}"#))
}

/// An event. `rest` is the JSON text after its type, with the leading comma.
fn event(kind: &str, rest: &str) -> Vec<u8> {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n").into_bytes()
}
