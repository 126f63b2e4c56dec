//! The answers of `echo` in OpenAI's dialect, except embeddings.

use super::message::{Content, EchoMessage};
use super::reply::Reply;
use super::request::EchoRequest;
use super::words::{self, pieces, quoted};
use crate::json::Value;

/// Answers `chat/completions`.
pub(super) fn chat(request: &EchoRequest<'_>) -> Reply {
    let message = EchoMessage::answering(request);
    // Each choice repeats the same answer.
    let output = message.output.saturating_mul(request.choices());
    let usage = usage(message.input, output);
    let finish = match &message.content {
        Content::Text { cut: false, .. } => "stop",
        Content::Text { cut: true, .. } => "length",
        Content::Tool(_) => "tool_calls",
    };
    if request.streams() {
        let mut events = Vec::new();
        for index in 0..request.choices() {
            chat_events(request, &message.content, index, finish, &mut events);
        }
        if request.reports_usage() {
            events.push(event(&document(request, CHUNK, "", &usage)));
        }
        events.push(event("[DONE]"));
        return Reply::Events(events);
    }
    let body = match &message.content {
        Content::Text { text, .. } => {
            format!(r#"{{"role":"assistant","content":{},"refusal":null}}"#, quoted(text))
        }
        Content::Tool(_) => {
            let call = tool_call(request, &message.content, "");
            format!(r#"{{"role":"assistant","content":null,"refusal":null,"tool_calls":[{call}]}}"#)
        }
    };
    let mut choices = Vec::new();
    for index in 0..request.choices() {
        choices.push(format!(
            r#"{{"index":{index},"message":{body},"logprobs":null,"finish_reason":"{finish}"}}"#
        ));
    }
    Reply::Whole(document(request, CHAT, &choices.join(","), &usage).into_bytes())
}

/// The constants of one kind of document.
struct Kind {
    /// The prefix of its id.
    id: &'static str,
    /// The value of its member `object`.
    object: &'static str,
}

const CHAT: Kind = Kind { id: "chatcmpl", object: "chat.completion" };
const CHUNK: Kind = Kind { id: "chatcmpl", object: "chat.completion.chunk" };
const COMPLETION: Kind = Kind { id: "cmpl", object: "text_completion" };

/// A document. `choices` is JSON text; `usage` is empty, or the member with its leading comma.
fn document(request: &EchoRequest<'_>, kind: Kind, choices: &str, usage: &str) -> String {
    let Kind { id: prefix, object } = kind;
    let (id, created, model) = (request.id, request.created, quoted(request.model()));
    format!(
        concat!(
            r#"{{"id":"{prefix}-{id}","object":"{object}","created":{created},"#,
            r#""model":{model},"choices":[{choices}]{usage}}}"#
        ),
        prefix = prefix,
        id = id,
        object = object,
        created = created,
        model = model,
        choices = choices,
        usage = usage
    )
}

/// The member `usage`, with its leading comma.
fn usage(input: u64, output: u64) -> String {
    let total = input.saturating_add(output);
    format!(
        concat!(
            r#","usage":{{"prompt_tokens":{input},"completion_tokens":{output},"#,
            r#""total_tokens":{total}}}"#
        ),
        input = input,
        output = output,
        total = total
    )
}

/// The tool call of a content. `first` are members that come first, with their trailing comma.
fn tool_call(request: &EchoRequest<'_>, content: &Content, first: &str) -> String {
    let Content::Tool(call) = content else { return String::new() };
    let (id, name, arguments) = (request.id, quoted(&call.name), quoted(&call.arguments));
    format!(
        concat!(
            r#"{{{first}"id":"call_{id}","type":"function","#,
            r#""function":{{"name":{name},"arguments":{arguments}}}}}"#
        ),
        first = first,
        id = id,
        name = name,
        arguments = arguments
    )
}

/// Appends the events of one choice to `events`.
fn chat_events(
    request: &EchoRequest<'_>,
    content: &Content,
    index: u64,
    finish: &str,
    events: &mut Vec<Vec<u8>>,
) {
    match content {
        Content::Text { text, .. } => {
            let begun = r#"{"role":"assistant","content":""}"#;
            events.push(chat_event(request, index, begun, "null"));
            for piece in pieces(text) {
                let delta = format!(r#"{{"content":{}}}"#, quoted(piece));
                events.push(chat_event(request, index, &delta, "null"));
            }
        }
        Content::Tool(_) => {
            let call = tool_call(request, content, r#""index":0,"#);
            let delta = format!(r#"{{"role":"assistant","content":null,"tool_calls":[{call}]}}"#);
            events.push(chat_event(request, index, &delta, "null"));
        }
    }
    events.push(chat_event(request, index, "{}", &quoted(finish)));
}

/// An event of a choice. `delta` and `finish` are JSON text.
fn chat_event(request: &EchoRequest<'_>, index: u64, delta: &str, finish: &str) -> Vec<u8> {
    let choice =
        format!(r#"{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#);
    event(&document(request, CHUNK, &choice, ""))
}

/// Answers `completions` with each prompt.
pub(super) fn completion(request: &EchoRequest<'_>) -> Reply {
    let prompts = prompts(request.member("prompt"));
    let (mut told, mut input, mut output) = (Vec::new(), 0_u64, 0_u64);
    for prompt in &prompts {
        input = input.saturating_add(words::count(prompt));
        for _ in 0..request.choices() {
            let beginning = words::first(prompt, request.cap());
            output = output.saturating_add(words::count(beginning.text));
            told.push(beginning);
        }
    }
    let usage = usage(input, output);
    let mut pieces = Vec::new();
    for (index, beginning) in told.iter().enumerate() {
        let finish = if beginning.cut { r#""length""# } else { r#""stop""# };
        if !request.streams() {
            pieces.push(completion_choice(index, beginning.text, finish).into_bytes());
            continue;
        }
        for piece in words::pieces(beginning.text) {
            let choice = completion_choice(index, piece, "null");
            pieces.push(event(&document(request, COMPLETION, &choice, "")));
        }
        let choice = completion_choice(index, "", finish);
        pieces.push(event(&document(request, COMPLETION, &choice, "")));
    }
    if !request.streams() {
        let choices = String::from_utf8(pieces.join(&b',')).unwrap_or_default();
        return Reply::Whole(document(request, COMPLETION, &choices, &usage).into_bytes());
    }
    if request.reports_usage() {
        pieces.push(event(&document(request, COMPLETION, "", &usage)));
    }
    pieces.push(event("[DONE]"));
    Reply::Events(pieces)
}

/// A choice of a completion. `finish` is JSON text.
fn completion_choice(index: usize, text: &str, finish: &str) -> String {
    let text = quoted(text);
    format!(r#"{{"index":{index},"text":{text},"logprobs":null,"finish_reason":{finish}}}"#)
}

/// The prompts of a completion, or the texts to embed. A prompt of token numbers becomes the
/// numbers as text.
pub(super) fn prompts(prompt: Option<&Value<'_>>) -> Vec<String> {
    match prompt {
        None => vec![String::new()],
        // An array of numbers only is one prompt of tokens. Any other array is a list of prompts.
        Some(Value::Array(items)) if !items.iter().all(|item| matches!(item, Value::Number(_))) => {
            prompt_texts(items)
        }
        Some(prompt) => vec![prompt_text(prompt)],
    }
}

/// The text of each prompt.
fn prompt_texts(prompts: &[Value<'_>]) -> Vec<String> {
    let mut texts = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        texts.push(prompt_text(prompt));
    }
    texts
}

/// The text of one prompt.
fn prompt_text(prompt: &Value<'_>) -> String {
    match prompt {
        Value::String(text) | Value::Number(text) => text.to_string(),
        Value::Array(numbers) => prompt_texts(numbers).join(" "),
        Value::Null | Value::Bool(_) | Value::Object(_) => String::new(),
    }
}

/// A `data:` event.
fn event(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}
