//! The built-in model `echo`: it says what it was told, so that everything around it can be tried without a model server.
//!
//! It answers with the text of the last user message or tool result, a token is a word between white space, and it calls a
//! tool when it is told `call NAME {"json": "arguments"}` and was given a tool of that name.

use crate::json::{self, Limits, Object, Value};

use super::dialect::{anthropic_echo, openai_echo};
use super::{ModelCall, Operation};

/// An answer.
pub enum Echo {
    /// One JSON body.
    Whole(Vec<u8>),
    /// The events of a stream, each complete.
    Stream(Vec<Vec<u8>>),
}

/// Answers `call` with at most `cap` tokens a choice. `created` is in seconds since 1970, `id` the request's.
#[must_use]
pub fn answer(call: &ModelCall<'_>, cap: u64, created: i64, id: &str) -> Echo {
    let cap = call.output_tokens_asked().map_or(cap, |asked| asked.min(cap));
    match call.operation() {
        Operation::ChatCompletions => openai_echo::chat(call, &said(call, cap), created, id),
        Operation::Completions => openai_echo::completion(call, cap, created, id),
        Operation::Embeddings => openai_echo::embeddings(call),
        Operation::Messages => anthropic_echo::messages(call, &said(call, cap), id),
        Operation::ListModels | Operation::ShowModel | Operation::Me => Echo::Whole(b"{}".to_vec()),
    }
}

/// What the model says.
pub(in crate::model) struct Said {
    /// Its text.
    pub(in crate::model) text: String,
    /// A tool's name and its arguments as JSON text.
    pub(in crate::model) tool: Option<(String, String)>,
    /// True when the cap cut it short.
    pub(in crate::model) cut: bool,
    /// Tokens of what it was told.
    pub(in crate::model) input: u64,
    /// Tokens of what it says.
    pub(in crate::model) output: u64,
}

fn said(call: &ModelCall<'_>, cap: u64) -> Said {
    let messages = call.object.get("messages").and_then(Value::as_array).unwrap_or_default();
    let texts: Vec<(&str, String)> = messages
        .iter()
        .filter_map(Value::as_object)
        .map(|message| (role(message), text_of(message)))
        .collect();
    let system = call.object.get("system").map(text_in).unwrap_or_default();
    let input = texts.iter().map(|(_, text)| words(text)).sum::<u64>() + words(&system);
    let last = texts.iter().rev().find(|(role, _)| matches!(*role, "user" | "tool"));
    let (role, text) = last.map_or(("user", ""), |(role, text)| (*role, text.as_str()));
    if role == "user"
        && let Some((name, arguments)) = tool_call(call, text)
    {
        let output = words(text).saturating_sub(1).max(1);
        return Said {
            text: String::new(),
            tool: Some((name, arguments)),
            cut: false,
            input,
            output,
        };
    }
    let (kept, cut) = first_words(text, cap);
    let output = words(kept);
    let text =
        if wants_json(call) { format!("{{\"echo\":{}}}", quoted(kept)) } else { kept.to_owned() };
    Said { text, tool: None, cut, input, output }
}

fn role<'v>(message: &'v Object<'_>) -> &'v str {
    let result = |item: &Value<'_>| {
        item.as_object().and_then(|part| part.get("type")).and_then(Value::as_str)
            == Some("tool_result")
    };
    let results = message
        .get("content")
        .and_then(Value::as_array)
        .is_some_and(|items| items.iter().any(result));
    if results { "tool" } else { message.get("role").and_then(Value::as_str).unwrap_or_default() }
}

/// The text of a message: its content, or the text parts and tool results among it.
fn text_of(message: &Object<'_>) -> String {
    message.get("content").map(text_in).unwrap_or_default()
}

fn text_in(content: &Value<'_>) -> String {
    match content {
        Value::String(text) => text.to_string(),
        Value::Array(items) => {
            let parts = items
                .iter()
                .filter_map(Value::as_object)
                .filter_map(|part| part.get("text").or_else(|| part.get("content")));
            parts.map(text_in).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// The call that a text such as `call weather {"city":"Łódź"}` asks for, if the tool was given.
fn tool_call(call: &ModelCall<'_>, text: &str) -> Option<(String, String)> {
    let order = text.trim().strip_prefix("call ")?.trim_start();
    let (name, arguments) = order.split_once(char::is_whitespace).unwrap_or((order, "{}"));
    let chosen = call.object.get("tool_choice");
    let kind = |choice: &Value<'_>| {
        choice.as_object().and_then(|choice| choice.get("type")).and_then(Value::as_str)
            == Some("none")
    };
    if chosen.and_then(Value::as_str) == Some("none") || chosen.is_some_and(kind) {
        return None;
    }
    let tools = call.object.get("tools").and_then(Value::as_array)?;
    let named = |tool: &Value<'_>| {
        let tool = tool.as_object()?;
        let function = tool.get("function").and_then(Value::as_object).unwrap_or(tool);
        function.get("name").and_then(Value::as_str).map(|known| known == name)
    };
    let given = tools.iter().any(|tool| named(tool) == Some(true));
    let value = json::parse(arguments.trim().as_bytes(), &Limits::deep(32)).ok()?;
    (given && value.as_object().is_some()).then(|| (name.to_owned(), printed(&value)))
}

/// True when the caller wants JSON (`response_format`, or Anthropic's `output_config.format` and `output_format`).
fn wants_json(call: &ModelCall<'_>) -> bool {
    let own = |key: &str| call.object.get(key).and_then(Value::as_object);
    let format = own("response_format").or_else(|| own("output_format"));
    let format = format.or_else(|| {
        own("output_config").and_then(|config| config.get("format")).and_then(Value::as_object)
    });
    matches!(
        format.and_then(|format| format.get("type")).and_then(Value::as_str),
        Some("json_object" | "json_schema")
    )
}

/// How many words a text has: they are the model's tokens.
pub(in crate::model) fn words(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX)
}

/// The text up to its word number `cap`; true when more was there.
pub(in crate::model) fn first_words(text: &str, cap: u64) -> (&str, bool) {
    let mut left = cap;
    for piece in pieces(text) {
        if piece.trim().is_empty() {
            continue;
        }
        if left == 0 {
            let end = piece.as_ptr().addr() - text.as_ptr().addr();
            return (text.get(..end).unwrap_or_default().trim_end(), true);
        }
        left -= 1;
    }
    (text, false)
}

/// The text word by word, each with the white space behind it.
pub(in crate::model) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let space =
            rest.get(word..).unwrap_or_default().find(|character: char| !character.is_whitespace());
        let (piece, behind) =
            rest.split_at_checked(space.map_or(rest.len(), |space| word + space))?;
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A JSON string.
pub(in crate::model) fn quoted(text: &str) -> String {
    printed(&Value::from_text(text))
}

fn printed(value: &Value<'_>) -> String {
    let mut out = Vec::new();
    json::write(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// A `data:` event.
pub(in crate::model) fn event(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}
