//! Tool calls in Anthropic's events: blocks that start, get deltas, and stop.

use std::collections::BTreeSet;

use crate::model::tools::calls::{CallForm, CallId, CallPart, StreamCalls};
use crate::model::tools::{ToolCallFault, Tools, typed};
use crate::model::tree::JsonView;

/// The maximum number of blocks in one answer.
const BLOCKS_MAX: u64 = 65_536;
/// The members that this file reads.
pub(in crate::model::dialect) const WATCHED: [&str; 9] = [
    "content",
    "content_block",
    "delta",
    "index",
    "input",
    "message",
    "name",
    "partial_json",
    "type",
];
/// The events that this file reads.
const KINDS: [&str; 6] = [
    "content_block_delta",
    "content_block_start",
    "content_block_stop",
    "error",
    "message_start",
    "message_stop",
];
/// The type of deltas that contain a part of a call.
const JSON_DELTA: &str = "input_json_delta";

/// The blocks of one stream so far.
#[derive(Default)]
pub(in crate::model::dialect) struct Blocks {
    /// The number of blocks that have started.
    count: u64,
    /// The open blocks. There can be several, because llama.cpp stops all of them at the end.
    open: BTreeSet<u64>,
}

/// The id of the call in a block.
const fn id(number: u64) -> CallId {
    CallId { choice: CallId::BLOCKS, former: false, number }
}

impl Blocks {
    /// Adds the parts of calls in an event. `name` is the name of the event. Returns false where
    /// the answer must end.
    ///
    /// # Errors
    /// When clients could join the parts in different ways.
    pub(in crate::model::dialect) fn read(
        &mut self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        name: Option<&str>,
        tools: &mut dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        // Some clients use the type and others use the name. A difference would hide a call.
        let kind = match (event.text("type"), name) {
            (Some(kind), Some(name)) if kind != name && KINDS.contains(&name) => {
                return Err(ToolCallFault::Odd);
            }
            (kind, name) => kind.or(name),
        };
        match kind {
            // Content in the start message would bypass the checks of blocks. Clients may show it.
            Some("message_start") if has_content(event) => Err(ToolCallFault::Odd),
            Some("content_block_start") => self.begin(calls, event, tools),
            Some("content_block_delta") => self.add(calls, event, tools),
            Some("content_block_stop") => {
                let number = self.opened(event)?;
                self.open.remove(&number);
                Ok(calls.end(|of| *of == id(number), tools))
            }
            Some("message_stop" | "error") => Ok(calls.end(|_| true, tools)),
            Some(_) | None => Ok(true),
        }
    }

    /// Starts a block. Its index must be the next one, whatever the block contains.
    fn begin(
        &mut self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        tools: &dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        let number = typed::number(event)?.ok_or(ToolCallFault::Odd)?;
        // After a gap or a repeated index, clients could assign deltas to different blocks.
        if number != self.count || number >= BLOCKS_MAX {
            return Err(ToolCallFault::Odd);
        }
        self.open.insert(number);
        self.count += 1;
        // A block with a name is a call, whatever its type: clients may look only at the name.
        if let Some(block) = typed::object(event, "content_block")?
            && block.get("name").is_some()
        {
            calls.piece(id(number), CallForm::Block, &CallPart::of(block)?, tools)?;
        }
        Ok(true)
    }

    /// Adds a delta to an open block.
    fn add(
        &self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        tools: &dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        let json = partial_json(event)?;
        let number = self.opened(event)?;
        // Some clients use the index, and others use the block that started last.
        if !json.is_empty() && number + 1 != self.count {
            return Err(ToolCallFault::Odd);
        }
        calls.piece(id(number), CallForm::Block, &CallPart::json(json), tools)?;
        Ok(true)
    }

    /// The index of the event's block, which must be open.
    fn opened(&self, event: JsonView<'_>) -> Result<u64, ToolCallFault> {
        match typed::number(event)? {
            Some(number) if self.open.contains(&number) => Ok(number),
            Some(_) | None => Err(ToolCallFault::Odd),
        }
    }
}

/// Whether a start message has content.
fn has_content(event: JsonView<'_>) -> bool {
    let Some(message) = event.get("message") else { return false };
    let Some(content) = message.get("content") else { return false };
    content.items().next().is_some()
}

/// The part of a call in a delta; empty for other deltas.
fn partial_json(event: JsonView<'_>) -> Result<&str, ToolCallFault> {
    let Some(delta) = typed::object(event, "delta")? else { return Ok("") };
    let json = typed::text(delta, "partial_json")?;
    // Some clients ignore a delta of another type, and others read it.
    if json.is_some() && typed::text(delta, "type")? != Some(JSON_DELTA) {
        return Err(ToolCallFault::Odd);
    }
    Ok(json.unwrap_or_default())
}
