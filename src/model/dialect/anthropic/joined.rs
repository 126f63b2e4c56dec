//! Joins Anthropic's events to one whole answer.

use std::collections::BTreeMap;

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, index, object, own_object, piece, set_all};

/// Anthropic's events so far.
#[derive(Default)]
pub(in crate::model) struct JoinedMessage {
    /// The message, as it started.
    message: Option<Object<'static>>,
    /// The blocks, by index.
    blocks: Vec<JoinedBlock>,
}

/// A block and the parts that its deltas have added.
struct JoinedBlock {
    /// The block, as it started.
    begun: Object<'static>,
    /// The added text of each member.
    texts: BTreeMap<&'static str, String>,
    /// The arguments of a tool call, as JSON text.
    input: String,
}

impl JoinedBlock {
    /// The block as a value of the whole answer.
    fn value(self) -> Result<Value<'static>, Unlike> {
        let mut block = self.begun;
        for (member, mut more) in self.texts {
            let begun = block.get(member).and_then(Value::as_str).unwrap_or_default();
            more.insert_str(0, begun);
            block.set(member, Value::from_text(more));
        }
        // The arguments come in parts, so the JSON is complete only here.
        if !self.input.is_empty() {
            let input = object(self.input.as_bytes());
            let input =
                input.map_err(|_| Unlike::Odd("what a tool is called with is no JSON object"))?;
            block.set("input", Value::Object(own_object(&input)));
        }
        Ok(Value::Object(block))
    }
}

impl JoinedMessage {
    /// Takes the data of the next event.
    ///
    /// # Errors
    /// When the data can be joined in more than one manner, or not at all.
    pub(in crate::model) fn take(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        match event.get("type").and_then(Value::as_str) {
            // These events add nothing to the document.
            Some("ping" | "message_stop" | "content_block_stop") => Ok(()),
            Some("message_start") => {
                let message = event.get("message").and_then(Value::as_object);
                // A start message with content, and a second one, have no defined meaning.
                let empty = |message: &&Object<'_>| {
                    message
                        .get("content")
                        .is_none_or(|content| *content == Value::Array(Vec::new()))
                };
                let message = message.filter(empty).filter(|_| self.message.is_none());
                self.message =
                    Some(own_object(message.ok_or(Unlike::Odd("a message begins in an odd way"))?));
                Ok(())
            }
            Some("content_block_start") => {
                let block = event.get("content_block").and_then(Value::as_object);
                // Blocks must come in order. A gap or a second start would move content between
                // blocks.
                let block = block
                    .filter(|_| index(event).is_ok_and(|index| index == self.blocks.len() as u64));
                let begun = own_object(block.ok_or(Unlike::Odd("a block begins in an odd way"))?);
                self.blocks.push(JoinedBlock {
                    begun,
                    texts: BTreeMap::new(),
                    input: String::new(),
                });
                Ok(())
            }
            Some("content_block_delta") => self.delta(event),
            Some("message_delta") => self.end(event),
            Some(_) | None => Err(Unlike::Odd("an event is not joined")),
        }
    }

    /// Adds a delta to its block.
    fn delta(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let place = usize::try_from(index(event)?).unwrap_or(usize::MAX);
        let block = self.blocks.get_mut(place).ok_or(Unlike::Odd("a block has not begun"))?;
        let delta = event
            .get("delta")
            .and_then(Value::as_object)
            .ok_or(Unlike::Odd("a delta is no object"))?;
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

    /// Takes the stop reason and the usage. The later usage replaces the members of the first one.
    fn end(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let message = self.message.as_mut().ok_or(Unlike::Odd("a message has not begun"))?;
        let mut usage =
            message.get("usage").and_then(Value::as_object).cloned().unwrap_or_default();
        // This delta contains `stop_reason` and `stop_sequence`.
        set_all(message, event.get("delta"))?;
        set_all(&mut usage, event.get("usage"))?;
        message.set("usage", Value::Object(usage));
        Ok(())
    }

    /// The whole answer.
    ///
    /// # Errors
    /// When no message has started, or the arguments of a tool call are no JSON object.
    pub(in crate::model) fn document(self) -> Result<Object<'static>, Unlike> {
        let mut message = self.message.ok_or(Unlike::Odd("a message has not begun"))?;
        let content: Result<Vec<_>, Unlike> =
            self.blocks.into_iter().map(JoinedBlock::value).collect();
        message.set("content", Value::Array(content?));
        Ok(message)
    }
}
