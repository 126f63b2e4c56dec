//! The members of Anthropic's answers that hold texts, by their names. The names of all dialects count in every answer, because
//! servers mix them.

use crate::model::raw_json::member;

/// Members that must not be sent twice.
pub(in crate::model::dialect) const ONCE: [&str; 3] = ["input", "partial_json", "usage"];

/// Members that clients put together or show.
pub(in crate::model::dialect) const SHOWN: [&str; 8] =
    ["content", "content_block", "delta", "error", "index", "message", "text", "thinking"];

/// Members that hold no text for a reader, at any depth.
pub(in crate::model::dialect) const NO_TEXTS: [&str; 4] =
    ["data", "input", "partial_json", "usage"];

/// Members whose own strings are no texts.
pub(in crate::model::dialect) const LABELS: [&str; 10] = [
    "encrypted_content",
    "id",
    "index",
    "model",
    "name",
    "role",
    "signature",
    "stop_reason",
    "stop_sequence",
    "type",
];

/// Members whose strings do not count as text of the answer.
pub(in crate::model::dialect) const UNCOUNTED: [&[u8]; 7] =
    [b"id", b"index", b"role", b"signature", b"stop_reason", b"stop_sequence", b"type"];

/// Types of the parts of a text.
pub(in crate::model::dialect) const PARTS: [&str; 1] = ["text"];

/// How the types of events end that begin a text or add to it.
const ADDING: [&str; 2] = ["_delta", "_start"];

/// The part of an event's type that is the same in all events of one text.
pub(in crate::model) fn base_type(kind: &str) -> &str {
    for end in ADDING {
        if let Some(base) = kind.strip_suffix(end) {
            return base;
        }
    }
    kind
}

/// The name under which a member leads to a text. A block begins in `content_block`, and deltas add to it in `delta`.
pub(in crate::model) fn path_name(name: &str) -> &str {
    if name == "content_block" { "delta" } else { name }
}

/// Whether all texts end with an event of that type.
pub(in crate::model) fn ends_texts(kind: &str) -> bool {
    matches!(kind, "content_block_stop" | "message_stop")
}

/// An event that adds to the text that `json` begins; `None` where `json` begins no block. A block must not begin twice.
pub(in crate::model) fn addition(json: &[u8], key: &str) -> Option<Vec<u8>> {
    if member(json, "type")? != b"\"content_block_start\"" {
        return None;
    }
    let index = std::str::from_utf8(member(json, "index")?.trim_ascii()).ok()?;
    let index: u64 = if index.bytes().all(|byte| byte.is_ascii_digit()) {
        index.parse().ok()?
    } else {
        return None;
    };
    let data = format!(
        r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{key}_delta","{key}":""}}}}"#
    );
    Some(format!("event: content_block_delta\ndata: {data}\n\n").into_bytes())
}
