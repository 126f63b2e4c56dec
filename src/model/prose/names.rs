//! What the members of an answer are, by their names.

/// Members that may not go out twice.
pub(super) const ONCE: [&str; 6] = ["function_call", "input", "logprobs", "partial_json", "tool_calls", "usage"];
/// Members that clients put together or show.
pub(super) const SHOWN: [&str; 13] = [
    "choices",
    "content",
    "content_block",
    "delta",
    "error",
    "finish_reason",
    "index",
    "message",
    "reasoning",
    "reasoning_content",
    "refusal",
    "text",
    "thinking",
];
/// Whether a member is no text for a reader, or its insides are not.
pub(super) fn is_no_text(name: &str) -> bool {
    matches!(
        name,
        "arguments"
            | "code"
            | "created"
            | "data"
            | "encrypted_content"
            | "event"
            | "finish_reason"
            | "function_call"
            | "id"
            | "index"
            | "input"
            | "logprobs"
            | "model"
            | "name"
            | "object"
            | "param"
            | "partial_json"
            | "role"
            | "service_tier"
            | "signature"
            | "stop_reason"
            | "stop_sequence"
            | "system_fingerprint"
            | "tool_call_id"
            | "tool_calls"
            | "type"
            | "usage"
    )
}

/// Whether nothing but its case could make it another name.
pub(super) fn is_lower(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}
