//! What an answer would have tools called with: found in whole answers, put together from the pieces of streams, and held back until it
//! is judged. Nothing of it is ever changed: a call goes on byte for byte, or the answer ends.

pub(super) mod calls;
mod gate;
mod names;
pub(super) mod typed;
mod whole;

pub(super) use gate::{Gate, Passage};
pub use whole::whole;

use super::unreadable::Unreadable;

/// StreamCalls of one answer that are kept apart.
const CALLS_MAX: usize = 1_024;
/// Bytes of events that are held back at once.
const HELD_MAX: usize = 4 << 20;

/// What a tool is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// What should be a JSON document.
    Json(&'a [u8]),
    /// Text of no form (OpenAI's `custom` tools).
    Text(&'a str),
}

/// Who judges calls.
pub trait Tools {
    /// Whether there are tools whose calls are judged.
    fn any(&self) -> bool {
        false
    }

    /// Whether the answer has ended before its end: nothing more goes on.
    fn ended(&self) -> bool {
        false
    }

    /// Whether calls of that tool are.
    fn judges(&self, _tool: &str) -> bool {
        false
    }

    /// A whole call of such a tool. False where the answer ends here.
    fn call(&mut self, _tool: &str, _arguments: Arguments<'_>) -> bool {
        true
    }
}

impl Tools for () {}

/// Why a stream with tool calls cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolCallFault {
    /// It cannot be looked through.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// More is called than can be kept apart or held.
    #[error("the answer calls more than {CALLS_MAX} tools, or with more than {HELD_MAX} bytes")]
    TooMuch,
    /// Pieces that readers would put together in different ways: of a call that was judged already, of a name whose first pieces went
    /// on, of calls or blocks that are not counted from zero one by one.
    #[error("the pieces of its tool calls can be put together in different ways")]
    Odd,
}

#[cfg(test)]
mod tests;
