//! The content of `echo`'s answers, in any dialect: the text of the last message of the user or of
//! a tool.
//!
//! A user text of the form `call NAME {"json": "arguments"}` gives a call of the tool NAME, if the
//! request has a tool of that name.

use super::request::{EchoRequest, text, text_in};
use super::words;
use crate::json::{self, Limits, Object, Value};

/// The greatest depth of a tool call's arguments.
const ARGUMENTS_DEPTH_MAX: usize = 32;

/// The message of an answer, with its token counts.
pub(super) struct EchoMessage {
    pub(super) content: Content,
    /// Tokens of the request.
    pub(super) input: u64,
    /// Tokens of the answer.
    pub(super) output: u64,
}

/// The content of an answer.
pub(super) enum Content {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether the cap on output tokens has cut it.
        cut: bool,
    },
    /// A tool call.
    Tool(ToolCall),
}

/// A call of a tool.
pub(super) struct ToolCall {
    /// The tool's name.
    pub(super) name: String,
    /// Its arguments, as JSON text.
    pub(super) arguments: String,
}

impl EchoMessage {
    /// The answer to the messages of a request.
    pub(super) fn answering(request: &EchoRequest<'_>) -> Self {
        let cap = request.cap();
        let mut input = 0;
        for name in ["system", "instructions"] {
            if let Some(system) = request.member(name) {
                input += words::count(&text_of(system));
            }
        }
        let (mut last, mut by_user) = (String::new(), true);
        // The Responses dialect has one text, or items in place of messages.
        if let Some(Value::String(only)) = request.member("input") {
            input += words::count(only);
            last = only.to_string();
        }
        for message in request.items("messages").iter().chain(request.items("input")) {
            let Value::Object(message) = message else { continue };
            let content = match message.get("content").or_else(|| message.get("output")) {
                Some(content) => text_of(content),
                None => String::new(),
            };
            input += words::count(&content);
            match speaker(message) {
                Speaker::User => (last, by_user) = (content, true),
                Speaker::Tool => (last, by_user) = (content, false),
                Speaker::Other => {}
            }
        }
        // A tool's text gives no further call: an agent loop with `echo` ends after one turn.
        if by_user && let Some(tool) = tool_call(request, &last) {
            // The word `call` is no part of the answer.
            let output = words::count(&last).saturating_sub(1).clamp(1, cap.max(1));
            return Self { content: Content::Tool(tool), input, output };
        }
        let mut message = Self::repeating(&last, cap);
        message.input = input;
        if wants_json(request)
            && let Content::Text { text, .. } = &mut message.content
        {
            *text = format!("{{\"echo\":{}}}", words::quoted(text));
        }
        message
    }

    /// The answer that repeats a text, within the cap.
    pub(super) fn repeating(text: &str, cap: u64) -> Self {
        let beginning = words::first(text, cap);
        let output = words::count(beginning.text);
        let content = Content::Text { text: beginning.text.to_owned(), cut: beginning.cut };
        Self { content, input: words::count(text), output }
    }
}

/// The author of a message.
enum Speaker {
    User,
    Tool,
    Other,
}

/// The author of a message. In Anthropic's dialect a tool's result is in a message of the user.
fn speaker(message: &Object<'_>) -> Speaker {
    if let Some(Value::Array(items)) = message.get("content")
        && items.iter().any(|item| text_in(item, "type") == Some("tool_result"))
    {
        return Speaker::Tool;
    }
    if matches!(text(message, "type"), Some(kind) if kind.ends_with("_call_output")) {
        return Speaker::Tool;
    }
    match text(message, "role") {
        Some("user") => Speaker::User,
        Some("tool") => Speaker::Tool,
        Some(_) | None => Speaker::Other,
    }
}

/// The text of a content: the string itself, or its text parts and tool results, one per line.
fn text_of(content: &Value<'_>) -> String {
    let items = match content {
        Value::String(text) => return text.to_string(),
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return String::new(),
    };
    let mut whole = String::new();
    for item in items {
        let Value::Object(part) = item else { continue };
        let Some(inner) = part.get("text").or_else(|| part.get("content")) else { continue };
        let text = text_of(inner);
        if !whole.is_empty() && !text.is_empty() {
            whole.push('\n');
        }
        whole.push_str(&text);
    }
    whole
}

/// The tool call that a text requests, if the request has the tool and permits calls.
fn tool_call(request: &EchoRequest<'_>, told: &str) -> Option<ToolCall> {
    let order = told.trim().strip_prefix("call ")?.trim_start();
    let (name, arguments) = match order.split_once(char::is_whitespace) {
        Some((name, arguments)) => (name, arguments.trim()),
        None => (order, "{}"),
    };
    // Both dialects can forbid calls: OpenAI as a string, Anthropic as an object.
    if let Some(choice) = request.member("tool_choice")
        && (choice.as_str() == Some("none") || text_in(choice, "type") == Some("none"))
    {
        return None;
    }
    if !request.items("tools").iter().any(|tool| tool_name(tool) == Some(name)) {
        return None;
    }
    let arguments = json::parse(arguments.as_bytes(), &Limits::deep(ARGUMENTS_DEPTH_MAX)).ok()?;
    let Value::Object(_) = &arguments else { return None };
    Some(ToolCall { name: name.to_owned(), arguments: words::printed(&arguments) })
}

/// The name of a tool. OpenAI's dialect has it in the member `function`.
fn tool_name<'v>(tool: &'v Value<'_>) -> Option<&'v str> {
    let tool = tool.as_object()?;
    match tool.get("function") {
        Some(Value::Object(function)) => text(function, "name"),
        Some(_) | None => text(tool, "name"),
    }
}

/// Whether the caller requests JSON: `response_format`, `text.format`, Anthropic's `output_format`
/// and `output_config.format`, or Ollama's `format`.
fn wants_json(request: &EchoRequest<'_>) -> bool {
    for name in ["response_format", "output_format"] {
        if let Some(format @ Value::Object(_)) = request.member(name) {
            return is_json_format(format);
        }
    }
    // Ollama's form: a word, or a schema.
    match request.member("format") {
        Some(Value::String(form)) => return form == "json",
        Some(Value::Object(_)) => return true,
        Some(_) | None => {}
    }
    for name in ["output_config", "text"] {
        if let Some(Value::Object(config)) = request.member(name)
            && let Some(format) = config.get("format")
        {
            return is_json_format(format);
        }
    }
    false
}

/// Whether a format is one of JSON.
fn is_json_format(format: &Value<'_>) -> bool {
    matches!(text_in(format, "type"), Some("json_object" | "json_schema"))
}
