//! The events of a stream as one whole answer.

use std::collections::BTreeMap;

use crate::json::{self, Object, Value};
use crate::model::progress::Progress;
use crate::model::sse::{self, Splitter};
use crate::model::{Dialect, Operation};

use super::{Unlike, object, of, text};

/// Members of a delta that are texts in pieces.
const TEXTS: [&str; 4] = ["content", "reasoning", "reasoning_content", "refusal"];
/// Choices, calls and blocks of one answer.
const PARTS_MAX: u64 = 1_024;
/// Members of an answer beside those, and of its usage: each is looked up among the others.
const NAMES_MAX: usize = 256;

/// The document that says what the events say. Only events that every reader puts together in the same way are: texts, calls, finish
/// reasons, usage.
///
/// # Errors
/// When they are others, or end before the answer is complete.
pub fn joined(operation: Operation, events: &[u8]) -> Result<Vec<u8>, Unlike> {
    let (mut splitter, mut all) = (Splitter::default(), Vec::new());
    splitter.push(events, |event| all.push(event.to_vec())).map_err(|_| Unlike::Odd("an event is too long"))?;
    all.push(splitter.rest());
    let dialect = operation.dialect();
    let (mut progress, mut chat, mut message) = (Progress::default(), Chat::default(), Message::default());
    for event in &all {
        let Some(data) = sse::data(event).filter(|data| !data.trim_ascii().is_empty()) else { continue };
        progress.read(dialect, &data);
        if progress.failed {
            return Err(Unlike::Odd("the server tells of an error"));
        }
        if data.trim_ascii() == b"[DONE]" {
            continue;
        }
        let data = object(&data)?;
        match dialect {
            Dialect::OpenAi => chat.take(&data, operation == Operation::ChatCompletions)?,
            Dialect::Anthropic => message.take(&data)?,
        }
    }
    if !progress.is_complete() {
        return Err(Unlike::Cut);
    }
    let document = match dialect {
        Dialect::OpenAi => chat.document(operation == Operation::ChatCompletions),
        Dialect::Anthropic => message.document()?,
    };
    let mut out = Vec::new();
    json::write(&Value::Object(document), &mut out);
    Ok(out)
}

/// The same value, of bytes of its own.
fn own(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(truth) => Value::Bool(*truth),
        Value::Number(number) => Value::Number(number.to_string().into()),
        Value::String(text) => Value::from_text(text.to_string()),
        Value::Array(items) => Value::Array(items.iter().map(own).collect()),
        Value::Object(object) => Value::Object(own_object(object)),
    }
}

fn own_object(object: &Object<'_>) -> Object<'static> {
    object.iter().map(|(name, value)| (name.to_owned().into(), own(value))).collect()
}

/// Puts the members of `more`, where that is an object, into `object`.
fn set_all(object: &mut Object<'static>, more: Option<&Value<'_>>) -> Result<(), Unlike> {
    let Some(more) = more.and_then(Value::as_object) else { return Ok(()) };
    if object.len() + more.len() > NAMES_MAX {
        return Err(Unlike::Odd("it has too many members"));
    }
    more.iter().for_each(|(name, value)| object.set(name.to_owned(), own(value)));
    Ok(())
}

fn index(object: &Object<'_>) -> Result<u64, Unlike> {
    let index = object.get("index").map_or(Some(0), Value::as_u64);
    index.filter(|index| *index < PARTS_MAX).ok_or(Unlike::Odd("an index is none"))
}

fn piece<'v>(value: &'v Value<'_>) -> Result<&'v str, Unlike> {
    value.as_str().ok_or(Unlike::Odd("a piece of a text is none"))
}

/// OpenAI's chunks so far.
#[derive(Default)]
struct Chat {
    /// The members beside choices, as the first chunk has them.
    top: Object<'static>,
    usage: Option<Value<'static>>,
    choices: BTreeMap<u64, Choice>,
}

#[derive(Default)]
struct Choice {
    role: Option<String>,
    texts: BTreeMap<&'static str, String>,
    calls: BTreeMap<u64, Call>,
    reason: Option<Value<'static>>,
}

#[derive(Default)]
struct Call {
    /// Its id and type.
    about: Object<'static>,
    name: String,
    arguments: String,
}

impl Chat {
    fn take(&mut self, chunk: &Object<'_>, chat: bool) -> Result<(), Unlike> {
        for (name, value) in chunk.iter() {
            match (name, value) {
                ("choices", Value::Array(choices)) => {
                    for choice in choices {
                        let choice = choice.as_object().ok_or(Unlike::Odd("a choice is no object"))?;
                        self.choices.entry(index(choice)?).or_default().take(choice, chat)?;
                    }
                }
                ("choices", _) => return Err(Unlike::Odd("its choices are no array")),
                ("usage", Value::Null) => {}
                ("usage", usage) => self.usage = Some(own(usage)),
                (name, value) if self.top.get(name).is_none() => {
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

    fn document(self, chat: bool) -> Object<'static> {
        let mut document = self.top;
        if chat {
            document.set("object", text("chat.completion"));
        }
        let choices = self.choices.into_iter().map(|(index, choice)| choice.value(index, chat));
        document.set("choices", Value::Array(choices.collect()));
        self.usage.into_iter().for_each(|usage| document.set("usage", usage));
        document
    }
}

impl Choice {
    fn take(&mut self, choice: &Object<'_>, chat: bool) -> Result<(), Unlike> {
        for (name, value) in choice.iter() {
            match (name, value) {
                ("index", _) | (_, Value::Null) => {}
                ("finish_reason", reason) => self.reason = Some(own(reason)),
                ("delta", Value::Object(delta)) if chat => self.delta(delta)?,
                ("text", said) if !chat => self.texts.entry("text").or_default().push_str(piece(said)?),
                _ => return Err(Unlike::Odd("a choice has a member that is not joined")),
            }
        }
        Ok(())
    }

    fn delta(&mut self, delta: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in delta.iter() {
            match (name, value) {
                (_, Value::Null) => {}
                ("role", role) => self.role = Some(piece(role)?.to_owned()),
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        let call = call.as_object().ok_or(Unlike::Odd("a tool call is no object"))?;
                        self.calls.entry(index(call)?).or_default().take(call)?;
                    }
                }
                (name, said) => {
                    let known = TEXTS.into_iter().find(|known| *known == name);
                    let known = known.ok_or(Unlike::Odd("a delta has a member that is not joined"))?;
                    self.texts.entry(known).or_default().push_str(piece(said)?);
                }
            }
        }
        Ok(())
    }

    fn value(mut self, index: u64, chat: bool) -> Value<'static> {
        let reason = self.reason.unwrap_or(Value::Null);
        let index = ("index", Value::from_u64(index));
        if !chat {
            let said = self.texts.remove("text").unwrap_or_default();
            return of([index, ("text", Value::from_text(said)), ("finish_reason", reason)]);
        }
        let mut message = Object::new();
        message.set("role", Value::from_text(self.role.unwrap_or_else(|| "assistant".to_owned())));
        message.set("content", self.texts.remove("content").map_or(Value::Null, Value::from_text));
        self.texts.into_iter().for_each(|(name, said)| message.set(name, Value::from_text(said)));
        if !self.calls.is_empty() {
            message.set("tool_calls", Value::Array(self.calls.into_values().map(Call::value).collect()));
        }
        of([index, ("message", Value::Object(message)), ("finish_reason", reason)])
    }
}

impl Call {
    fn take(&mut self, call: &Object<'_>) -> Result<(), Unlike> {
        for (name, value) in call.iter() {
            match (name, value) {
                ("index", _) | (_, Value::Null) => {}
                ("id" | "type", value) => {
                    // A piece that repeats it, or has none, says nothing new.
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
                            _ => return Err(Unlike::Odd("a tool call has a member that is not joined")),
                        }
                    }
                }
                _ => return Err(Unlike::Odd("a tool call has a member that is not joined")),
            }
        }
        Ok(())
    }

    fn value(self) -> Value<'static> {
        let mut call = self.about;
        let function = [("name", Value::from_text(self.name)), ("arguments", Value::from_text(self.arguments))];
        call.set("function", of(function));
        Value::Object(call)
    }
}

/// Anthropic's events so far.
#[derive(Default)]
struct Message {
    message: Option<Object<'static>>,
    blocks: Vec<Block>,
}

/// One of Anthropic's blocks, and what its deltas have added.
struct Block {
    begun: Object<'static>,
    /// What goes behind its texts, by member.
    texts: BTreeMap<&'static str, String>,
    /// What a tool is called with, as JSON.
    input: String,
}

impl Block {
    fn value(self) -> Result<Value<'static>, Unlike> {
        let mut block = self.begun;
        for (member, mut more) in self.texts {
            let begun = block.get(member).and_then(Value::as_str).unwrap_or_default();
            more.insert_str(0, begun);
            block.set(member, Value::from_text(more));
        }
        if !self.input.is_empty() {
            let input = object(self.input.as_bytes());
            let input = input.map_err(|_| Unlike::Odd("what a tool is called with is no JSON object"))?;
            block.set("input", Value::Object(own_object(&input)));
        }
        Ok(Value::Object(block))
    }
}

impl Message {
    fn take(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        match event.get("type").and_then(Value::as_str) {
            Some("ping" | "message_stop" | "content_block_stop") => Ok(()),
            Some("message_start") => {
                let message = event.get("message").and_then(Value::as_object);
                let empty =
                    |message: &&Object<'_>| message.get("content").is_none_or(|content| *content == Value::Array(Vec::new()));
                let message = message.filter(empty).filter(|_| self.message.is_none());
                self.message = Some(own_object(message.ok_or(Unlike::Odd("a message begins in an odd way"))?));
                Ok(())
            }
            Some("content_block_start") => {
                let block = event.get("content_block").and_then(Value::as_object);
                let block = block.filter(|_| index(event).is_ok_and(|index| index == self.blocks.len() as u64));
                let begun = own_object(block.ok_or(Unlike::Odd("a block begins in an odd way"))?);
                self.blocks.push(Block { begun, texts: BTreeMap::new(), input: String::new() });
                Ok(())
            }
            Some("content_block_delta") => self.delta(event),
            Some("message_delta") => self.end(event),
            Some(_) | None => Err(Unlike::Odd("an event is not joined")),
        }
    }

    fn delta(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let place = usize::try_from(index(event)?).unwrap_or(usize::MAX);
        let block = self.blocks.get_mut(place).ok_or(Unlike::Odd("a block has not begun"))?;
        let delta = event.get("delta").and_then(Value::as_object).ok_or(Unlike::Odd("a delta is no object"))?;
        let said = |member: &str| piece(delta.get(member).unwrap_or(&Value::Null));
        let (member, more) = match delta.get("type").and_then(Value::as_str) {
            Some("text_delta") => ("text", said("text")?),
            Some("thinking_delta") => ("thinking", said("thinking")?),
            Some("signature_delta") => ("signature", said("signature")?),
            Some("input_json_delta") => {
                block.input.push_str(said("partial_json")?);
                return Ok(());
            }
            Some(_) | None => return Err(Unlike::Odd("a delta is not joined")),
        };
        block.texts.entry(member).or_default().push_str(more);
        Ok(())
    }

    fn end(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let message = self.message.as_mut().ok_or(Unlike::Odd("a message has not begun"))?;
        let mut usage = message.get("usage").and_then(Value::as_object).cloned().unwrap_or_default();
        set_all(message, event.get("delta"))?;
        set_all(&mut usage, event.get("usage"))?;
        message.set("usage", Value::Object(usage));
        Ok(())
    }

    fn document(self) -> Result<Object<'static>, Unlike> {
        let mut message = self.message.ok_or(Unlike::Odd("a message has not begun"))?;
        let content: Result<Vec<_>, Unlike> = self.blocks.into_iter().map(Block::value).collect();
        message.set("content", Value::Array(content?));
        Ok(message)
    }
}
