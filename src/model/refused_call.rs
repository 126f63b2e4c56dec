//! The end of an answer whose tool call is refused: a text replaces the call, and the answer ends
//! as usual. So an agent reads the reason, and can continue.

use super::Operation;
use super::convert::object;
use super::dialect::{Dialect, RefusedCalls};
use super::event::StreamEvent;
use super::tools::Tools;
use crate::json::{self, Value};

/// The part of a stream that its end depends on.
pub(super) struct SentTurn(Option<RefusedCalls>);

impl SentTurn {
    /// A stream of the dialect, at its beginning.
    pub(super) fn new(dialect: Dialect) -> Self {
        Self(dialect.refused_calls())
    }

    /// Reads an event of the server. `sent` is true when the caller gets it now.
    pub(super) fn read(&mut self, event: &StreamEvent<'_>, sent: bool) {
        // An event that is no object has no call, and ends no block.
        if let Some(turn) = &mut self.0
            && let Ok(data) = object(event.data().trim_ascii())
        {
            turn.read(&data, sent);
        }
    }

    /// The events that end the answer with `text` in place of the call; `None` if the dialect has
    /// no such end.
    pub(super) fn end(&mut self, text: &str) -> Option<Vec<u8>> {
        Some(self.0.as_mut()?.end(text))
    }
}

/// Evaluates the calls of a whole answer up to the first refused one. The result of `text` replaces
/// that call and the parts after it. Returns `None` if every call passes, if `text` has no result,
/// or if the answer has another form.
pub fn whole<T: Tools>(
    operation: Operation,
    answer: &[u8],
    tools: &mut T,
    text: &dyn Fn(&T) -> Option<String>,
) -> Option<Vec<u8>> {
    // Most configs name no tools.
    if !tools.any() {
        return None;
    }
    let mut answer = object(answer).ok()?;
    operation.dialect().replace_refused(&mut answer, tools, text)?;
    let mut out = Vec::new();
    json::write(&Value::Object(answer), &mut out);
    Some(out)
}
