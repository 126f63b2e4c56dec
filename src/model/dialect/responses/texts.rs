//! The names of members that hold texts in answers of the Responses dialect. The names of all
//! dialects apply to every answer, because servers mix the dialects.

use super::{ADDED, DELTA, EVENT};

/// Members that must not occur twice.
pub(in crate::model::dialect) const ONCE: [&str; 1] = ["annotations"];

/// Members that clients join or show.
pub(in crate::model::dialect) const SHOWN: [&str; 7] =
    ["item", "output", "output_index", "part", "refusal", "response", "summary"];

/// Members whose strings are no texts.
pub(in crate::model::dialect) const LABELS: [&str; 7] =
    ["call_id", "container_id", "item_id", "obfuscation", "phase", "sequence_number", "status"];

/// Members of a response that repeat the request. No client shows them as the answer.
const ECHOED: [&str; 9] = [
    "format",
    "instructions",
    "metadata",
    "prompt",
    "prompt_cache_key",
    "safety_identifier",
    "tool_choice",
    "tools",
    "user",
];

/// Members of a call that have no name of a tool: what the caller's shell or editor is to do.
const CALLS: [&str; 2] = ["action", "operation"];

/// The ends of the types of events whose delta is a part of a tool call.
const CALL_DELTAS: [&str; 4] = ["_arguments.delta", "_code.delta", "_diff.delta", "_input.delta"];

/// The types of the events that begin a response.
const BEGINNINGS: [&str; 3] = ["response.created", "response.in_progress", "response.queued"];

/// Members whose strings do not count as text of the answer.
pub(in crate::model::dialect) const UNCOUNTED: [&[u8]; 4] =
    [b"call_id", b"encrypted_content", b"item_id", b"status"];

/// The types of the parts of a text.
pub(in crate::model::dialect) const PARTS: [&str; 1] = ["output_text"];

/// Whether a type is that of an event.
pub(in crate::model) fn is_event(kind: &str) -> bool {
    kind.starts_with(EVENT)
}

/// Whether an event adds to a text that other events continue. All other events have complete
/// texts.
pub(in crate::model) fn is_delta(kind: &str) -> bool {
    is_event(kind) && kind.ends_with(DELTA)
}

/// Whether an event begins a response, an item or a part. Its texts must be empty, because deltas
/// fill them.
pub(in crate::model) fn begins(kind: &str) -> bool {
    is_event(kind) && (kind.ends_with(ADDED) || BEGINNINGS.contains(&kind))
}

/// Whether a member of a response or of an event of that type holds no text of the answer: it
/// repeats the request, or it is a part of a tool call, which is never changed.
pub(in crate::model) fn is_apart(name: &str, kind: Option<&str>) -> bool {
    if name == "delta" {
        return kind.is_some_and(|kind| CALL_DELTAS.iter().any(|end| kind.ends_with(end)));
    }
    ECHOED.contains(&name) || CALLS.contains(&name)
}

/// Whether the path of a text leads through an event that repeats a text of earlier events.
#[must_use]
pub fn is_repeated(path: &str) -> bool {
    match path.strip_prefix(':').and_then(|path| path.split('/').next()) {
        Some(kind) => is_event(kind) && !is_delta(kind),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_of_calls_are_no_texts() {
        assert!(is_apart("delta", Some("response.function_call_arguments.delta")));
        assert!(is_apart("delta", Some("response.custom_tool_call_input.delta")));
        assert!(!is_apart("delta", Some("response.output_text.delta")));
        assert!(!is_apart("delta", None) && is_apart("tools", None));
    }

    #[test]
    fn only_deltas_are_no_repetition() {
        assert!(is_repeated(":response.output_text.done/text"));
        assert!(is_repeated(":response.completed/response/output[]:message/content"));
        assert!(!is_repeated(":response.output_text.delta/delta"));
        assert!(!is_repeated(":content_block/delta:text/text"));
        assert!(!is_repeated("/choices/delta/content"));
    }
}
