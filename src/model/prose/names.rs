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
/// Members that hold what is no text for a reader, at any depth.
const OTHERS: [&str; 9] =
    ["arguments", "data", "event", "function_call", "input", "logprobs", "partial_json", "tool_calls", "usage"];
/// Members whose own strings are no texts.
const OWN: [&str; 18] = [
    "code",
    "created",
    "encrypted_content",
    "finish_reason",
    "id",
    "index",
    "model",
    "name",
    "object",
    "param",
    "role",
    "service_tier",
    "signature",
    "stop_reason",
    "stop_sequence",
    "system_fingerprint",
    "tool_call_id",
    "type",
];

/// Whether a member is no text for a reader, or its insides are not.
pub(super) fn is_no_text(name: &str, value: &[u8]) -> bool {
    let whole = || !matches!(value.first(), Some(b'{' | b'['));
    OTHERS.contains(&name) || (OWN.contains(&name) && whole())
}

/// Whether nothing but its case could make it another name.
pub(super) fn is_lower(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}
