//! The names of members that hold texts in Ollama's answers. The names of all dialects apply to
//! every answer, because servers mix the dialects.

/// Members that must not occur twice.
pub(in crate::model::dialect) const ONCE: [&str; 1] = ["tool_calls"];

/// Members that clients join or show.
pub(in crate::model::dialect) const SHOWN: [&str; 6] =
    ["content", "done", "error", "message", "response", "thinking"];

/// Members whose strings are no texts.
pub(in crate::model::dialect) const LABELS: [&str; 4] =
    ["created_at", "done_reason", "model", "role"];

/// The members of a line that hold the answer.
pub(in crate::model::dialect) const ANSWERS: [&[u8]; 3] = [b"message", b"response", b"thinking"];

/// Whether a member of the outermost object, with this value, ends the answer.
pub(in crate::model) fn ends_answer(name: &[u8], value: &[u8]) -> bool {
    name == b"done" && value.trim_ascii() == b"true"
}
