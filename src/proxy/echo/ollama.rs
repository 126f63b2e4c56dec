//! The answers of the upstream `echo` in Ollama's dialect. A stream is lines of JSON.

use super::message::{Content, EchoMessage, ToolCall};
use super::reply::Reply;
use super::request::EchoRequest;
use super::words::{pieces, quoted};
use crate::clock::Timestamp;
use crate::json::Value;

/// The part of an answer in one line.
enum Part<'p> {
    /// A text, which may be empty.
    Text(&'p str),
    /// A tool call.
    Tool(&'p ToolCall),
}

/// Answers `chat`.
pub(super) fn chat(request: &EchoRequest<'_>) -> Reply {
    answer(request, &EchoMessage::answering(request), chat_member)
}

/// Answers `generate`.
pub(super) fn generate(request: &EchoRequest<'_>) -> Reply {
    let prompt = match request.member("prompt") {
        Some(Value::String(prompt)) => prompt.as_ref(),
        Some(_) | None => "",
    };
    answer(request, &EchoMessage::repeating(prompt, request.cap()), generate_member)
}

/// A message as one document, or as lines. `member` writes the member with a part.
fn answer(
    request: &EchoRequest<'_>,
    message: &EchoMessage,
    member: fn(&Part<'_>) -> String,
) -> Reply {
    let (text, cut) = match &message.content {
        Content::Text { text, cut } => (text.as_str(), *cut),
        Content::Tool(_) => ("", false),
    };
    let reason = if cut { "length" } else { "stop" };
    let (input, output) = (message.input, message.output);
    let end = format!(
        concat!(
            r#","done":true,"done_reason":"{reason}","total_duration":1,"load_duration":1,"#,
            r#""prompt_eval_count":{input},"prompt_eval_duration":1,"eval_count":{output},"#,
            r#""eval_duration":1"#
        ),
        reason = reason,
        input = input,
        output = output
    );
    let whole = match &message.content {
        Content::Text { .. } => Part::Text(text),
        Content::Tool(call) => Part::Tool(call),
    };
    // Ollama streams where the request does not say otherwise.
    if matches!(request.member("stream"), Some(Value::Bool(false))) {
        return Reply::Whole(document(request, &member(&whole), &end).into_bytes());
    }
    let mut lines = Vec::new();
    match whole {
        Part::Text(text) => {
            for piece in pieces(text) {
                lines.push(line(request, &member(&Part::Text(piece)), r#","done":false"#));
            }
        }
        call @ Part::Tool(_) => lines.push(line(request, &member(&call), r#","done":false"#)),
    }
    lines.push(line(request, &member(&Part::Text("")), &end));
    Reply::Lines(lines)
}

/// The member of `chat` with a part.
fn chat_member(part: &Part<'_>) -> String {
    match part {
        Part::Text(text) => {
            format!(r#""message":{{"role":"assistant","content":{}}}"#, quoted(text))
        }
        Part::Tool(call) => format!(
            concat!(
                r#""message":{{"role":"assistant","content":"","tool_calls":[{{"function":"#,
                r#"{{"name":{name},"arguments":{arguments}}}}}]}}"#
            ),
            name = quoted(&call.name),
            arguments = call.arguments
        ),
    }
}

/// The member of `generate` with a part. It has no tools.
fn generate_member(part: &Part<'_>) -> String {
    let text = match part {
        Part::Text(text) => *text,
        Part::Tool(_) => "",
    };
    format!(r#""response":{}"#, quoted(text))
}

/// A document with the member of the answer, and the members at its end.
fn document(request: &EchoRequest<'_>, member: &str, end: &str) -> String {
    let created = Timestamp(request.created.saturating_mul(1000));
    let model = quoted(request.model());
    format!(r#"{{"model":{model},"created_at":"{created}",{member}{end}}}"#)
}

/// The document as a line.
fn line(request: &EchoRequest<'_>, member: &str, end: &str) -> Vec<u8> {
    let mut line = document(request, member, end);
    line.push('\n');
    line.into_bytes()
}
