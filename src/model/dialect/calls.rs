//! Tool calls in the events of all dialects together: a server may mix them, and clients of one dialect may read what another has.

use super::{anthropic, openai};
use crate::model::tools::calls::StreamCalls;
use crate::model::tools::{ToolCallFault, Tools};
use crate::model::tree::JsonView;

/// Whether a member is looked at for calls.
pub(in crate::model) fn is_watched(name: &str) -> bool {
    openai::calls::WATCHED.contains(&name) || anthropic::calls::WATCHED.contains(&name)
}

/// What the dialects keep of one stream to put its calls together.
#[derive(Default)]
pub(in crate::model) struct CallReaders {
    blocks: anthropic::calls::Blocks,
}

impl CallReaders {
    /// Adds the pieces of calls that an event has; `name` is the event's own. False where the answer ends here.
    ///
    /// # Errors
    /// When readers would put the pieces together in different ways.
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
        self.blocks.read(calls, event, name, tools)
    }
}
