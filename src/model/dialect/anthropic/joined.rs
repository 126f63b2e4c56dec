//! Joins Anthropic's events to one whole answer.

use std::collections::BTreeMap;

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, index, object, own_object, piece_at, set_all};

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
            if let Some(begun) = block.text(member) {
                more.insert_str(0, begun);
            }
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
        match event.text("type") {
            // These events add nothing to the document.
            Some("ping" | "message_stop" | "content_block_stop") => Ok(()),
            Some("message_start") => self.begin(event),
            Some("content_block_start") => self.begin_block(event),
            Some("content_block_delta") => self.delta(event),
            Some("message_delta") => self.end(event),
            Some(_) | None => Err(Unlike::Odd("an event is not joined")),
        }
    }

    /// Takes the start message. A start message with content, and a second one, have no defined
    /// meaning.
    fn begin(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        match event.object("message") {
            Some(message) if !has_content(message) && self.message.is_none() => {
                self.message = Some(own_object(message));
                Ok(())
            }
            Some(_) | None => Err(Unlike::Odd("a message begins in an odd way")),
        }
    }

    /// Takes the start of a block. Blocks must come in order. A gap or a second start would move
    /// content between blocks.
    fn begin_block(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let next = self.blocks.len() as u64;
        match event.object("content_block") {
            Some(block) if index(event) == Ok(next) => {
                self.blocks.push(JoinedBlock {
                    begun: own_object(block),
                    texts: BTreeMap::new(),
                    input: String::new(),
                });
                Ok(())
            }
            Some(_) | None => Err(Unlike::Odd("a block begins in an odd way")),
        }
    }

    /// Adds a delta to its block.
    fn delta(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let place = usize::try_from(index(event)?).unwrap_or(usize::MAX);
        let Some(block) = self.blocks.get_mut(place) else {
            return Err(Unlike::Odd("a block has not begun"));
        };
        let Some(delta) = event.object("delta") else {
            return Err(Unlike::Odd("a delta is no object"));
        };
        let (member, more) = match delta.text("type") {
            Some("text_delta") => ("text", piece_at(delta, "text")?),
            Some("thinking_delta") => ("thinking", piece_at(delta, "thinking")?),
            Some("signature_delta") => ("signature", piece_at(delta, "signature")?),
            Some("input_json_delta") => {
                block.input.push_str(piece_at(delta, "partial_json")?);
                return Ok(());
            }
            Some(_) | None => return Err(Unlike::Odd("a delta is not joined")),
        };
        block.texts.entry(member).or_default().push_str(more);
        Ok(())
    }

    /// Takes the stop reason and the usage. The later usage replaces the members of the first one.
    fn end(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        let Some(message) = &mut self.message else {
            return Err(Unlike::Odd("a message has not begun"));
        };
        let mut usage = match message.object("usage") {
            Some(usage) => usage.clone(),
            None => Object::new(),
        };
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
        let mut content = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            content.push(block.value()?);
        }
        message.set("content", Value::Array(content));
        Ok(message)
    }
}

/// Whether a start message has content other than an empty array.
fn has_content(message: &Object<'_>) -> bool {
    match message.get("content") {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
        None => false,
    }
}
