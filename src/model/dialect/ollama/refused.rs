//! The end of an Ollama answer whose tool call is refused.

use crate::json::{Object, Value};
use crate::model::convert::{event, of, text};
use crate::model::dialect::repeated::repeated;
use crate::model::tools::{CallsOf, Tools};

/// The members that every line repeats.
const REPEATED: [&str; 2] = ["model", "created_at"];

/// The lines so far.
#[derive(Default)]
pub(in crate::model) struct SentLines {
    /// The members that every line repeats.
    head: Option<Object<'static>>,
    /// Whether the caller has text.
    text: bool,
}

impl SentLines {
    /// Reads a line. `sent` is true when the caller gets it now.
    pub(in crate::model::dialect) fn read(&mut self, line: &Object<'_>, sent: bool) {
        if self.head.is_none() {
            self.head = Some(repeated(line, &REPEATED));
        }
        if sent && let Some(message) = line.object("message") {
            self.text |= message.text("content").is_some_and(|text| !text.is_empty());
        }
    }

    /// The lines that end the answer with `refused` in place of the call, as events.
    pub(in crate::model::dialect) fn end(&mut self, refused: &str) -> Vec<u8> {
        let said = if self.text { format!("\n\n{refused}") } else { refused.to_owned() };
        let mut line = self.head.clone().unwrap_or_default();
        line.set("message", message(said));
        line.set("done", Value::Bool(false));
        let mut last = self.head.clone().unwrap_or_default();
        last.set("message", message(String::new()));
        last.set("done", Value::Bool(true));
        last.set("done_reason", text("stop"));
        [event(None, &Value::Object(line)), event(None, &Value::Object(last))].concat()
    }
}

/// A message of the assistant.
fn message(content: String) -> Value<'static> {
    of([("role", text("assistant")), ("content", Value::from_text(content))])
}

/// Replaces the first refused call, and the calls after it. `None` if there is none.
pub(in crate::model::dialect) fn replace<T: Tools>(
    answer: &mut Object<'_>,
    tools: &mut T,
    text_of: &dyn Fn(&T) -> Option<String>,
) -> Option<()> {
    let Some(Value::Object(message)) = answer.get_mut("message") else { return None };
    let calls = message.array("tool_calls")?;
    let refused = calls.iter().position(|call| {
        let function = call.member("function").and_then(Value::as_object);
        function.is_some_and(|function| !tools.pass(function))
    })?;
    let refused_text = text_of(tools)?;
    if let Some(Value::Array(mut calls)) = message.remove("tool_calls") {
        calls.truncate(refused);
        if !calls.is_empty() {
            message.set("tool_calls", Value::Array(calls));
        }
    }
    let said = match message.text("content") {
        Some(content) if !content.is_empty() => format!("{content}\n\n{refused_text}"),
        Some(_) | None => refused_text,
    };
    message.set("content", Value::from_text(said));
    Some(())
}
