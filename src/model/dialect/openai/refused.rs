//! The end of an OpenAI answer whose tool call is refused.

use std::collections::BTreeMap;

use crate::json::{Object, Value};
use crate::model::convert::{event, of, text};
use crate::model::dialect::repeated::repeated;
use crate::model::tools::{CallsOf, Tools};

/// The members that every chunk repeats.
const REPEATED: [&str; 5] = ["id", "object", "created", "model", "system_fingerprint"];
/// Choices beyond this index are not tracked.
const INDEX_MAX: u64 = 1_024;

/// The chunks so far.
#[derive(Default)]
pub(in crate::model) struct SentChunks {
    /// The members of the first chunk that every chunk repeats.
    head: Option<Object<'static>>,
    /// The choices, by index.
    choices: BTreeMap<u64, SentChoice>,
}

/// What the caller has of one choice.
#[derive(Default)]
struct SentChoice {
    /// Whether it has a delta, and so the role.
    begun: bool,
    /// Whether it has text.
    text: bool,
    /// Whether it has a tool call.
    call: bool,
    /// Whether it has a finish reason.
    finished: bool,
}

impl SentChunks {
    /// Reads a chunk. `sent` is true when the caller gets it now.
    pub(in crate::model::dialect) fn read(&mut self, chunk: &Object<'_>, sent: bool) {
        let Some(choices) = chunk.array("choices") else { return };
        if self.head.is_none() {
            self.head = Some(repeated(chunk, &REPEATED));
        }
        for choice in choices {
            let Some(choice) = choice.as_object() else { continue };
            let index = choice.number("index").unwrap_or(0);
            // A server could otherwise fill the memory with indexes.
            if index > INDEX_MAX {
                continue;
            }
            let state = self.choices.entry(index).or_default();
            // Held events count only for the list of choices: the caller does not have them.
            if !sent {
                continue;
            }
            if let Some(delta) = choice.object("delta") {
                state.begun = true;
                state.text |= delta.text("content").is_some_and(|text| !text.is_empty());
                state.call |= delta.array("tool_calls").is_some_and(|calls| !calls.is_empty())
                    || delta.object("function_call").is_some();
            }
            state.finished |= choice.text("finish_reason").is_some_and(|why| !why.is_empty());
        }
    }

    /// The events that end the answer with `refused` in place of the call.
    pub(in crate::model::dialect) fn end(&mut self, refused: &str) -> Vec<u8> {
        let mut out = Vec::new();
        // The first event of the answer was the refused call.
        if self.choices.is_empty() {
            self.choices.insert(0, SentChoice::default());
        }
        let head = self.head.clone().unwrap_or_default();
        for (index, state) in &self.choices {
            if state.finished {
                continue;
            }
            let mut delta = Object::new();
            // SDKs join the parts of `role` as text, so it is sent once.
            if !state.begun {
                delta.set("role", text("assistant"));
            }
            delta.set("content", Value::from_text(after(state.text, refused)));
            let reason = text(if state.call { "tool_calls" } else { "stop" });
            // SDKs expect the finish reason in a separate chunk.
            for (delta, reason) in [(delta, Value::Null), (Object::new(), reason)] {
                let mut chunk = head.clone();
                let choice = of([
                    ("index", Value::from_u64(*index)),
                    ("delta", Value::Object(delta)),
                    ("finish_reason", reason),
                ]);
                chunk.set("choices", Value::Array(vec![choice]));
                out.extend_from_slice(&event(None, &Value::Object(chunk)));
            }
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        out
    }
}

/// The text, as a separate paragraph after other text.
fn after(other: bool, text: &str) -> String {
    if other { format!("\n\n{text}") } else { text.to_owned() }
}

/// Replaces the first refused call of each choice, and the calls after it. `None` if there is none.
pub(in crate::model::dialect) fn replace<T: Tools>(
    answer: &mut Object<'_>,
    tools: &mut T,
    text_of: &dyn Fn(&T) -> Option<String>,
) -> Option<()> {
    let Some(Value::Array(choices)) = answer.get_mut("choices") else { return None };
    let mut replaced = None;
    for choice in choices {
        let Value::Object(choice) = choice else { continue };
        let Some(Value::Object(message)) = choice.get_mut("message") else { continue };
        let is_former = match message.object("function_call") {
            Some(call) => !tools.pass(call),
            None => false,
        };
        let calls = message.array("tool_calls").unwrap_or_default();
        let refused = calls.iter().position(|call| !passes(call, tools));
        if !is_former && refused.is_none() {
            continue;
        }
        // Without a text, the class wants an error instead.
        let refused_text = text_of(tools)?;
        let kept = refused.unwrap_or(calls.len());
        if is_former {
            message.remove("function_call");
        }
        if let Some(Value::Array(mut calls)) = message.remove("tool_calls") {
            calls.truncate(kept);
            // Some clients treat an empty list as a call.
            if !calls.is_empty() {
                message.set("tool_calls", Value::Array(calls));
            }
        }
        append(message, refused_text);
        choice.set("finish_reason", text(if kept > 0 { "tool_calls" } else { "stop" }));
        replaced = Some(());
    }
    replaced
}

/// Appends a text to the content of a message, which is a text or parts.
fn append(message: &mut Object<'_>, more: String) {
    if let Some(Value::Array(parts)) = message.get_mut("content") {
        parts.push(of([("type", text("text")), ("text", Value::from_text(more))]));
        return;
    }
    let content = match message.text("content") {
        Some(content) => format!("{content}{}", after(!content.is_empty(), &more)),
        None => more,
    };
    message.set("content", Value::from_text(content));
}

/// Whether a call may be sent. It is in `function` or `custom`; both are evaluated.
fn passes<T: Tools>(call: &Value<'_>, tools: &mut T) -> bool {
    let Some(call) = call.as_object() else { return true };
    for form in ["function", "custom"] {
        if let Some(call) = call.object(form)
            && !tools.pass(call)
        {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::convert::object;

    #[test]
    fn the_end_repeats_only_short_names_of_the_server() {
        let long = "x".repeat(300);
        let chunk = format!(
            concat!(
                r#"{{"id":"c","model":"{}","created":1,"note":"![a](https://evil.example/)","#,
                r#""message":{{"tool_calls":[]}},"system_fingerprint":{{"a":"b"}},"#,
                r#""choices":[{{"index":0,"delta":{{}}}},{{"index":1}}]}}"#
            ),
            long
        );
        let mut sent = SentChunks::default();
        sent.read(&object(chunk.as_bytes()).expect("an object"), false);
        let end = String::from_utf8(sent.end("no")).expect("UTF-8");
        assert_eq!(end.matches(r#""id":"c","created":1,"choices":"#).count(), 4, "{end}");
        for word in ["evil", "tool_calls", "fingerprint", "xxx"] {
            assert!(!end.contains(word), "{word}: {end}");
        }
        assert!(end.ends_with("data: [DONE]\n\n"));
    }
}
