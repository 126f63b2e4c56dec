//! Joins Ollama's lines to one whole answer.

use crate::json::{Object, Value};
use crate::model::convert::{NAMES_MAX, Unlike, own, piece};

/// The members whose texts are joined.
const TEXTS: [&str; 3] = ["content", "response", "thinking"];

/// Ollama's lines so far.
#[derive(Default)]
pub(in crate::model) struct JoinedLines {
    /// The document, as far as it is known.
    document: Object<'static>,
}

impl JoinedLines {
    /// Takes the next line.
    ///
    /// # Errors
    /// When the line can be joined in more than one manner, or not at all.
    pub(in crate::model) fn take(&mut self, line: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in line.iter() {
            match (name, value) {
                ("message", Value::Object(message)) => {
                    if self.document.object("message").is_none() {
                        self.document.set("message", Value::Object(Object::new()));
                    }
                    let Some(Value::Object(known)) = self.document.get_mut("message") else {
                        return Err(Unlike::Odd("a message is no object"));
                    };
                    join(known, message)?;
                }
                ("message", _) => return Err(Unlike::Odd("a message is no object")),
                (name, value) => add(&mut self.document, name, value)?,
            }
        }
        Ok(())
    }

    /// The whole answer.
    pub(in crate::model) fn document(self) -> Object<'static> {
        self.document
    }
}

/// Adds a part of a message.
fn join(known: &mut Object<'static>, more: &Object<'_>) -> Result<(), Unlike> {
    for (name, value) in more.iter() {
        match (name, value) {
            ("tool_calls", Value::Array(calls)) => {
                let mut all = match known.remove(name) {
                    Some(Value::Array(all)) => all,
                    Some(_) | None => Vec::new(),
                };
                all.extend(calls.iter().map(own));
                known.set("tool_calls", Value::Array(all));
            }
            (name, value) => add(known, name, value)?,
        }
    }
    Ok(())
}

/// Adds a member: a text is appended, any other value replaces the earlier one.
fn add(known: &mut Object<'static>, name: &str, value: &Value<'_>) -> Result<(), Unlike> {
    if matches!(value, Value::Null) {
        return Ok(());
    }
    // Each name is searched among the others.
    if known.len() >= NAMES_MAX {
        return Err(Unlike::Odd("it has too many members"));
    }
    if !TEXTS.contains(&name) {
        known.set(name.to_owned(), own(value));
        return Ok(());
    }
    let more = piece(value)?;
    match known.get_mut(name) {
        Some(Value::String(text)) => text.to_mut().push_str(more),
        Some(_) | None => known.set(name.to_owned(), Value::from_text(more.to_owned())),
    }
    Ok(())
}
