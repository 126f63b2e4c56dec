//! What a request says of its answer: whether a program reads it, and which text it continues.

use std::borrow::Cow;

use super::Operation;
use super::call::ModelCall;
use crate::json::{Object, Value};

/// Fields that declare the form of the answer's text, in all dialects.
const FORMS: [&str; 16] = [
    "ebnf",
    "format",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "output_config",
    "output_format",
    "regex",
    "response_format",
    "schema",
    "structural_tag",
    "structured_outputs",
    "text",
];

impl ModelCall<'_> {
    /// Whether the request declares a form of the answer's text, such as a JSON schema. A program
    /// then reads the text.
    #[must_use]
    pub fn is_structured(&self) -> bool {
        // The answer to `rerank` repeats the caller's documents, and a program reads it.
        if self.operation() == Operation::Rerank {
            return true;
        }
        if let Some(route) = self.route() {
            return route.is_for_programs;
        }
        FORMS.iter().any(|name| match self.object.get(name) {
            None | Some(Value::Null | Value::Bool(_) | Value::Number(_)) => false,
            Some(Value::Object(form)) => declares_form(form),
            // Clients of Ollama send an empty string for no form.
            Some(Value::String(form)) => !form.is_empty(),
            Some(Value::Array(_)) => true,
        })
    }

    /// The text of the caller that the answer continues: the prompt of a completion, or a last
    /// message of the role `assistant`.
    #[must_use]
    pub fn prefill(&self) -> Option<Cow<'_, str>> {
        // Which text an answer continues is not declared.
        if self.route().is_some() {
            return None;
        }
        if self.operation() == Operation::OllamaGenerate {
            // Elsewhere the server's template ends the prompt before the answer begins.
            let continues = self.object.is_true("raw") || self.object.get("suffix").is_some();
            let prompt = self.object.text("prompt").filter(|_| continues)?;
            return Some(Cow::Borrowed(prompt));
        }
        if self.operation() == Operation::Completions {
            return match self.object.get("prompt")? {
                Value::String(text) => Some(Cow::Borrowed(text.as_ref())),
                Value::Array(prompts) => match prompts.as_slice() {
                    [Value::String(text)] => Some(Cow::Borrowed(text.as_ref())),
                    _ => None,
                },
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
            };
        }
        let messages = if self.operation() == Operation::Responses { "input" } else { "messages" };
        let last = self.object.array(messages)?.last()?.as_object()?;
        if last.text("role") != Some("assistant") {
            return None;
        }
        match last.get("content")? {
            Value::String(text) => Some(Cow::Borrowed(text.as_ref())),
            Value::Array(parts) => {
                let texts = parts.iter().filter_map(|part| part.as_object()?.text("text"));
                Some(Cow::Owned(texts.collect()))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}

/// Whether an object declares a form other than plain text.
fn declares_form(form: &Object<'_>) -> bool {
    // Anthropic's `output_config` and OpenAI's `text` have other members too.
    if let Some(format) = form.get("format") {
        return match format {
            Value::Object(format) => format.text("type") != Some("text"),
            Value::Null => false,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => true,
        };
    }
    match form.get("type") {
        Some(Value::String(kind)) => kind != "text",
        Some(_) => true,
        None => form.iter().any(|(name, value)| {
            !matches!(name, "effort" | "verbosity") && !matches!(value, Value::Null)
        }),
    }
}
