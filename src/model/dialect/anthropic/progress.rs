//! Reads usage, stop reasons, errors and the end of the stream from Anthropic's events.

use crate::model::dialect::length::text_length;
use crate::model::dialect::read_usage;
use crate::model::event::StreamEvent;
use crate::model::progress::Progress;
use crate::model::raw_json::member;
use crate::model::tree::JsonTree;
use crate::model::values::{InPlace, Values as _};

/// A message has only one choice, with this index.
const CHOICE: u64 = 0;

/// Whether the name of an event is equal to the type in its data.
pub(in crate::model::dialect) fn is_named(name: Option<&str>, data: &JsonTree<'_>) -> bool {
    // Every event of this dialect has a name.
    let Some(name) = name else { return false };
    let Some(kind) = data.member(data.root(), b"type") else { return false };
    // Compares the raw bytes. A type with JSON escapes is refused, because clients decode it.
    let Some(kind) = data.raw(kind).trim_ascii().strip_prefix(b"\"") else { return false };
    kind.strip_suffix(b"\"") == Some(name.as_bytes())
}

/// Reads an event into `progress`.
pub(in crate::model::dialect) fn read(progress: &mut Progress, event: &StreamEvent<'_>) {
    let Some(data) = event.tree() else { return };
    let (mut kind, mut message, mut delta, mut block, mut reported) =
        (None, None, None, None, None);
    data.members(data.root(), |name, value| match name {
        b"type" => kind = Some(data.raw(value).trim_ascii()),
        b"message" => message = Some(value),
        b"delta" => delta = Some(value),
        b"content_block" => block = Some(value),
        b"usage" => reported = Some(value),
        _ => {}
    });
    // All three members may contain text that the client shows, whatever the type of the event.
    let content = message.and_then(|message| data.member(message, b"content"));
    for text in [content, delta, block].into_iter().flatten() {
        progress.text += text_length(data, text);
    }
    let usage = match kind {
        Some(b"\"message_start\"") => {
            progress.begin(CHOICE);
            message.and_then(|message| data.member(message, b"usage"))
        }
        Some(b"\"message_delta\"") => {
            let reason = delta.and_then(|delta| data.member(delta, b"stop_reason"));
            if reason.is_some_and(|reason| data.raw(reason).trim_ascii() != b"null") {
                progress.finish(CHOICE);
            }
            reported
        }
        Some(b"\"message_stop\"") => {
            progress.ended = true;
            None
        }
        Some(b"\"error\"") => {
            progress.failed = true;
            None
        }
        Some(_) | None => None,
    };
    if let Some(usage) = usage.and_then(|usage| read_usage(data.raw(usage))) {
        progress.report(usage);
    }
}

/// The bytes of text in a whole answer.
pub(in crate::model::dialect) fn text_of_whole(answer: &[u8]) -> u64 {
    member(answer, "content").map_or(0, |content| text_length(&InPlace(answer), content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::framing::sse::EventLines;
    use crate::model::tree::TreeMemory;

    #[track_caller]
    fn check(events: &[&str], complete: bool, text: u64) {
        let mut progress = Progress::default();
        for data in events {
            let event = format!("data: {data}\n\n");
            let lines = EventLines::read(event.as_bytes());
            read(&mut progress, &StreamEvent::read(&lines, TreeMemory::default()));
        }
        assert_eq!((progress.is_complete(), progress.text), (complete, text), "{events:?}");
    }

    #[test]
    fn messages_are_complete_with_their_stop_reason() {
        let begin =
            r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}"#;
        let delta = concat!(
            r#"{"type":"content_block_delta","index":0,"#,
            r#""delta":{"type":"text_delta","text":"four"}}"#
        );
        check(&[begin, delta], false, 4);
        check(
            &[begin, delta, r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#],
            true,
            4,
        );
        check(&[begin, delta, r#"{"type":"message_stop"}"#], true, 4);
        check(&[begin, r#"{"type":"error","error":{"type":"overloaded_error"}}"#], true, 0);
    }
}
