//! Tool calls in Ollama's lines: `message.tool_calls`. Every call is complete in its line.

use crate::model::tools::calls::{CallForm, CallId, CallPart, StreamCalls};
use crate::model::tools::{ToolCallFault, Tools, typed};
use crate::model::tree::JsonView;

/// The members that this file reads.
pub(in crate::model::dialect) const WATCHED: [&str; 5] =
    ["arguments", "function", "message", "name", "tool_calls"];

/// The choice value of the calls in lines. No other dialect uses it.
const LINES: u64 = CallId::BLOCKS - 1;

/// The calls of one stream so far.
#[derive(Default)]
pub(in crate::model::dialect) struct LineCalls {
    /// The number of calls. Clients number them in the order of their arrival.
    count: u64,
}

impl LineCalls {
    /// Checks the calls of a line. Returns false where the answer must end.
    ///
    /// # Errors
    /// When clients could read the calls in different ways.
    pub(in crate::model::dialect) fn read(
        &mut self,
        calls: &mut StreamCalls,
        line: JsonView<'_>,
        tools: &mut dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        // In the other dialects, `message` may be a text. It is then no message with calls.
        let Some(message) = line.get("message").filter(|message| message.is_object()) else {
            return Ok(true);
        };
        let Some(list) = typed::array(message, "tool_calls")? else { return Ok(true) };
        for call in list.items() {
            if !call.is_object() {
                return Err(ToolCallFault::Odd);
            }
            let Some(function) = typed::object(call, "function")? else { continue };
            let id = CallId { choice: LINES, former: false, number: self.count };
            self.count += 1;
            calls.piece(id, CallForm::Function, &CallPart::of(function)?, tools)?;
            if !calls.end(|known| *known == id, tools) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
