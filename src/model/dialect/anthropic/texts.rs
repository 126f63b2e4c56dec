//! The names of members that hold texts in Anthropic's answers. The names of all dialects apply to
//! every answer, because servers mix the dialects.

use crate::model::raw_json::member;

/// Members that must not occur twice.
pub(in crate::model::dialect) const ONCE: [&str; 3] = ["input", "partial_json", "usage"];

/// Members that clients join or show.
pub(in crate::model::dialect) const SHOWN: [&str; 8] =
    ["content", "content_block", "delta", "error", "index", "message", "text", "thinking"];

/// Members that hold no text for the user, at any depth.
pub(in crate::model::dialect) const NO_TEXTS: [&str; 4] =
    ["data", "input", "partial_json", "usage"];

/// Members whose strings are no texts.
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

/// The types of the parts of a text.
pub(in crate::model::dialect) const PARTS: [&str; 1] = ["text"];

/// The suffixes of event types that start a text or add to it.
const ADDING: [&str; 2] = ["_delta", "_start"];

/// The part of an event's type that all events of one text have in common.
pub(in crate::model) fn base_type(kind: &str) -> &str {
    for end in ADDING {
        if let Some(base) = kind.strip_suffix(end) {
            return base;
        }
    }
    kind
}

/// The path name of a member that leads to a text. A block starts in `content_block`, and deltas
/// add to it in `delta`. Both have one path.
pub(in crate::model) fn path_name(name: &str) -> &str {
    if name == "content_block" { "delta" } else { name }
}

/// Whether an event of that type ends all texts.
pub(in crate::model::dialect) fn ends_texts(kind: &str) -> bool {
    matches!(kind, "content_block_stop" | "message_stop")
}

/// An event that adds to the text that `json` starts; `None` if `json` starts no block. It is
/// needed because a block must not start twice.
pub(in crate::model) fn addition(json: &[u8], key: &str) -> Option<Vec<u8>> {
    if member(json, "type")? != b"\"content_block_start\"" {
        return None;
    }
    let index = std::str::from_utf8(member(json, "index")?.trim_ascii()).ok()?;
    // Only digits are accepted, because `parse` also accepts a sign.
    let index: u64 = if index.bytes().all(|byte| byte.is_ascii_digit()) {
        index.parse().ok()?
    } else {
        return None;
    };
    let delta = format!(r#"{{"type":"{key}_delta","{key}":""}}"#);
    let data = format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#);
    Some(format!("event: content_block_delta\ndata: {data}\n\n").into_bytes())
}
