//! Tool calls in the events of all dialects. A server may mix dialects, and a client of one dialect
//! may read members of another.

use super::{anthropic, ollama, openai, responses};
use crate::model::tools::calls::StreamCalls;
use crate::model::tools::{ToolCallFault, Tools};
use crate::model::tree::JsonView;

pub(in crate::model) use responses::calls::{LocalCall, local_call};

/// Whether the call readers look at a member.
pub(in crate::model) fn is_watched(name: &str) -> bool {
    openai::calls::WATCHED.contains(&name)
        || anthropic::calls::WATCHED.contains(&name)
        || ollama::calls::WATCHED.contains(&name)
        || responses::calls::WATCHED.contains(&name)
}

/// The state of one stream from which the dialects join its calls.
#[derive(Default)]
pub(in crate::model) struct CallReaders {
    /// The blocks of Anthropic's dialect. OpenAI's needs no other state than the calls.
    blocks: anthropic::calls::Blocks,
    /// The calls of Ollama's dialect.
    lines: ollama::calls::LineCalls,
    /// The items of the Responses dialect.
    items: responses::calls::Items,
}

impl CallReaders {
    /// Adds the parts of calls in an event. `name` is the name of the event. Returns false where
    /// the answer must end.
    ///
    /// # Errors
    /// When clients could join the parts in different ways.
    pub(in crate::model) fn read(
        &mut self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        name: Option<&str>,
        tools: &mut dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        if !openai::calls::read(calls, event, tools)? {
            return Ok(false);
        }
        if !self.lines.read(calls, event, tools)? {
            return Ok(false);
        }
        if !self.blocks.read(calls, event, name, tools)? {
            return Ok(false);
        }
        self.items.read(calls, event, tools)
    }
}
