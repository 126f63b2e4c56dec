//! The tool calls of an answer. They are found in whole answers, joined from the parts of streams,
//! and held back until they are checked. A call is never changed: it is forwarded byte for byte, or
//! the answer ends.

pub(super) mod calls;
mod gate;
mod names;
pub(super) mod typed;
mod whole;

pub(super) use gate::{Gate, Passage};
pub(super) use whole::CallsOf;
pub use whole::whole;

use super::unreadable::Unreadable;

/// The maximum number of calls in one answer that are kept separately.
const CALLS_MAX: usize = 1_024;
/// The maximum number of bytes of events that are held back at once.
const HELD_MAX: usize = 4 << 20;

/// The arguments of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// Bytes that should be a JSON document.
    Json(&'a [u8]),
    /// Text without a defined form (OpenAI's `custom` tools).
    Text(&'a str),
}

/// The check of tool calls.
pub trait Tools {
    /// Whether the calls of any tool are checked.
    fn any(&self) -> bool {
        false
    }

    /// Whether the answer has ended early. Then no more bytes are sent.
    fn ended(&self) -> bool {
        false
    }

    /// Whether calls of that tool are checked.
    fn judges(&self, _tool: &str) -> bool {
        false
    }

    /// Checks a complete call of such a tool. Returns false where the answer must end.
    fn call(&mut self, _tool: &str, _arguments: Arguments<'_>) -> bool {
        true
    }
}

impl Tools for () {}

/// The reasons why a stream with tool calls must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolCallFault {
    /// It cannot be searched.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It has more calls than can be kept separately, or more bytes than can be held.
    #[error("the answer calls more than {CALLS_MAX} tools, or with more than {HELD_MAX} bytes")]
    TooMuch,
    /// Clients could join the parts in different ways. One example is a later part of a call that
    /// was already checked. Another is a name of which the first parts were already sent. A third
    /// is calls or blocks that are not counted from zero in steps of one.
    #[error("the pieces of its tool calls can be put together in different ways")]
    Odd,
}

#[cfg(test)]
mod tests;
