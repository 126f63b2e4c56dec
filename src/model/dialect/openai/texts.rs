//! The names of members that hold texts in OpenAI's answers. The names of all dialects apply to
//! every answer, because servers mix the dialects.

/// Members that must not occur twice.
pub(in crate::model::dialect) const ONCE: [&str; 5] =
    ["function_call", "input", "logprobs", "tool_calls", "usage"];

/// Members that clients join or show.
pub(in crate::model::dialect) const SHOWN: [&str; 11] = [
    "choices",
    "content",
    "delta",
    "error",
    "finish_reason",
    "index",
    "message",
    "reasoning",
    "reasoning_content",
    "refusal",
    "text",
];

/// Members that hold no text for the user, at any depth.
pub(in crate::model::dialect) const NO_TEXTS: [&str; 8] =
    ["arguments", "data", "event", "function_call", "input", "logprobs", "tool_calls", "usage"];

/// Members whose strings are no texts.
pub(in crate::model::dialect) const LABELS: [&str; 15] = [
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
    "system_fingerprint",
    "tool_call_id",
    "type",
];

/// Members whose strings do not count as text of the answer.
pub(in crate::model::dialect) const UNCOUNTED: [&[u8]; 6] =
    [b"finish_reason", b"id", b"index", b"logprobs", b"role", b"type"];

/// Members in which every string is a text, because they report an error. Servers with FastAPI send
/// `detail`.
pub(in crate::model::dialect) const ERRORS: [&str; 3] = ["detail", "error", "errors"];

/// The member `object` with this value marks an answer that is an error as a whole. vLLM sends it.
pub(in crate::model::dialect) const ERROR_OBJECT: (&[u8], &[u8]) = (b"object", b"\"error\"");

/// The types of the parts of a text.
pub(in crate::model::dialect) const PARTS: [&str; 1] = ["text"];

/// The member whose items are the choices.
pub(in crate::model::dialect) const CHOICES: &str = "choices";
