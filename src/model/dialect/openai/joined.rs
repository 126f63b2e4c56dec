//! Joins OpenAI's chunks to one whole answer.

use std::collections::BTreeMap;

use crate::json::{Object, Value};
use crate::model::convert::{NAMES_MAX, Unlike, index, of, own, piece, text};

/// The members of a delta that are texts in parts.
const TEXTS: [&str; 4] = ["content", "reasoning", "reasoning_content", "refusal"];

/// OpenAI's chunks so far.
pub(in crate::model) struct JoinedChunks {
    /// True for chunks of a chat, false for chunks of a completion.
    chat: bool,
    /// All members except choices and usage. The first chunk with a member determines its value.
    top: Object<'static>,
    /// The last reported usage.
    usage: Option<Value<'static>>,
    /// The choices, by index.
    choices: BTreeMap<u64, JoinedChoice>,
}

/// The parts of one choice so far.
#[derive(Default)]
struct JoinedChoice {
    /// The role of the message.
    role: Option<String>,
    /// The text of each member.
    texts: BTreeMap<&'static str, String>,
    /// The tool calls, by index.
    calls: BTreeMap<u64, JoinedCall>,
    /// The finish reason.
    reason: Option<Value<'static>>,
}

/// The parts of one tool call so far.
#[derive(Default)]
struct JoinedCall {
    /// The id and the type.
    about: Object<'static>,
    /// The name of the tool.
    name: String,
    /// The arguments, as JSON text.
    arguments: String,
}

impl JoinedChunks {
    /// No chunks yet.
    pub(in crate::model) fn new(chat: bool) -> Self {
        Self { chat, top: Object::new(), usage: None, choices: BTreeMap::new() }
    }

    /// Takes the data of the next event.
    ///
    /// # Errors
    /// When the data can be joined in more than one manner, or not at all.
    pub(in crate::model) fn take(&mut self, chunk: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in chunk.iter() {
            match (name, value) {
                ("choices", Value::Array(choices)) => {
                    for choice in choices {
                        let Some(choice) = choice.as_object() else {
                            return Err(Unlike::Odd("a choice is no object"));
                        };
                        self.choices.entry(index(choice)?).or_default().take(choice, self.chat)?;
                    }
                }
                ("choices", _) => return Err(Unlike::Odd("its choices are no array")),
                // With `include_usage`, all chunks before the last have a null usage.
                ("usage", Value::Null) => {}
                ("usage", usage) => self.usage = Some(own(usage)),
                (name, value) if self.top.get(name).is_none() => {
                    // Each name is searched among the others.
                    if self.top.len() >= NAMES_MAX {
                        return Err(Unlike::Odd("it has too many members"));
                    }
                    self.top.set(name.to_owned(), own(value));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole answer.
    pub(in crate::model) fn document(self) -> Object<'static> {
        let chat = self.chat;
        let mut document = self.top;
        if chat {
            document.set("object", text("chat.completion"));
        }
        let mut choices = Vec::with_capacity(self.choices.len());
        for (index, choice) in self.choices {
            choices.push(choice.value(index, chat));
        }
        document.set("choices", Value::Array(choices));
        if let Some(usage) = self.usage {
            document.set("usage", usage);
        }
        document
    }
}

impl JoinedChoice {
    /// Adds a part of a choice.
    fn take(&mut self, choice: &Object<'_>, chat: bool) -> Result<(), Unlike> {
        for (name, value) in choice.iter() {
            match (name, value) {
                // The index was read before. A null member adds no information.
                ("index", _) | (_, Value::Null) => {}
                ("finish_reason", reason) => self.reason = Some(own(reason)),
                ("delta", Value::Object(delta)) if chat => self.delta(delta)?,
                ("text", said) if !chat => {
                    self.texts.entry("text").or_default().push_str(piece(said)?)
                }
                _ => return Err(Unlike::Odd("a choice has a member that is not joined")),
            }
        }
        Ok(())
    }

    /// Adds a delta to a chat's choice.
    fn delta(&mut self, delta: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in delta.iter() {
            match (name, value) {
                (_, Value::Null) => {}
                ("role", role) => self.role = Some(piece(role)?.to_owned()),
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        let Some(call) = call.as_object() else {
                            return Err(Unlike::Odd("a tool call is no object"));
                        };
                        self.calls.entry(index(call)?).or_default().take(call)?;
                    }
                }
                (name, said) => {
                    let known = TEXTS.into_iter().find(|known| *known == name);
                    let known =
                        known.ok_or(Unlike::Odd("a delta has a member that is not joined"))?;
                    self.texts.entry(known).or_default().push_str(piece(said)?);
                }
            }
        }
        Ok(())
    }

    /// The choice as a value of the whole answer.
    fn value(mut self, index: u64, chat: bool) -> Value<'static> {
        let reason = self.reason.unwrap_or(Value::Null);
        let index = ("index", Value::from_u64(index));
        if !chat {
            let said = self.texts.remove("text").unwrap_or_default();
            return of([index, ("text", Value::from_text(said)), ("finish_reason", reason)]);
        }
        let mut message = Object::new();
        message.set("role", Value::from_text(self.role.unwrap_or_else(|| "assistant".to_owned())));
        // SDKs expect `content` in every message. It is null when the answer has only calls.
        let content = match self.texts.remove("content") {
            Some(said) => Value::from_text(said),
            None => Value::Null,
        };
        message.set("content", content);
        for (name, said) in self.texts {
            message.set(name, Value::from_text(said));
        }
        if !self.calls.is_empty() {
            message.set(
                "tool_calls",
                Value::Array(self.calls.into_values().map(JoinedCall::value).collect()),
            );
        }
        of([index, ("message", Value::Object(message)), ("finish_reason", reason)])
    }
}

impl JoinedCall {
    /// Adds a part of a tool call.
    fn take(&mut self, call: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in call.iter() {
            match (name, value) {
                ("index", _) | (_, Value::Null) => {}
                ("id" | "type", value) => {
                    // A part that repeats it, or has an empty string, adds no information.
                    if !piece(value)?.is_empty() {
                        self.about.set(name.to_owned(), own(value));
                    }
                }
                ("function", Value::Object(function)) => {
                    for (name, value) in function.iter() {
                        match (name, value) {
                            (_, Value::Null) => {}
                            ("name", said) => self.name.push_str(piece(said)?),
                            ("arguments", said) => self.arguments.push_str(piece(said)?),
                            _ => {
                                return Err(Unlike::Odd(
                                    "a tool call has a member that is not joined",
                                ));
                            }
                        }
                    }
                }
                _ => return Err(Unlike::Odd("a tool call has a member that is not joined")),
            }
        }
        Ok(())
    }

    /// The call as a value of the whole answer.
    fn value(self) -> Value<'static> {
        let mut call = self.about;
        let function = [
            ("name", Value::from_text(self.name)),
            ("arguments", Value::from_text(self.arguments)),
        ];
        call.set("function", of(function));
        Value::Object(call)
    }
}
