//! Reads usage, status, errors and the end of the stream from the events of a response.

use super::{ADDED, DELTA};
use crate::model::dialect::length::text_length;
use crate::model::dialect::read_usage;
use crate::model::event::StreamEvent;
use crate::model::progress::{Copy, Progress};
use crate::model::raw_json::{items, member};
use crate::model::tree::{JsonTree, ValueId};
use crate::model::values::{InPlace, Values as _};

/// A response has only one choice, with this index.
const CHOICE: u64 = 0;

/// Whether the name of an event is equal to the type in its data. Some servers send no names, and
/// no client needs them.
pub(in crate::model::dialect) fn is_named(name: Option<&str>, data: &JsonTree<'_>) -> bool {
    let Some(name) = name else { return true };
    let Some(kind) = data.member(data.root(), b"type") else { return name == "error" };
    // Compares the raw bytes. A type with JSON escapes is refused, because clients decode it.
    let Some(kind) = data.raw(kind).trim_ascii().strip_prefix(b"\"") else { return false };
    kind.strip_suffix(b"\"") == Some(name.as_bytes())
}

/// Reads an event into `progress`.
pub(in crate::model::dialect) fn read(progress: &mut Progress, event: &StreamEvent<'_>) {
    progress.ended |= event.is_done();
    let Some(data) = event.tree() else { return };
    let (mut kind, mut response, mut error) = (&b""[..], None, false);
    let mut text = 0;
    data.members(data.root(), |name, value| match name {
        b"type" => kind = unquoted(data.raw(value)),
        b"response" => response = Some(value),
        b"error" => error = data.raw(value).trim_ascii() != b"null",
        b"object" => error |= data.raw(value).trim_ascii() == b"\"error\"",
        // All of these may contain text that a client shows, whatever the type of the event.
        b"arguments" | b"code" | b"delta" | b"input" | b"item" | b"part" | b"refusal" | b"text" => {
            text += text_length(data, value);
        }
        _ => {}
    });
    if kind != b"error" {
        progress.copy(copy_of(kind), text);
    }
    if let Some(response) = response {
        read_response(progress, data, response);
    }
    match kind {
        b"response.created" => progress.begin(CHOICE),
        b"response.completed" | b"response.incomplete" => {
            progress.begin(CHOICE);
            progress.finish(CHOICE);
            progress.ended = true;
        }
        b"response.failed" => {
            progress.failed = true;
            progress.ended = true;
        }
        b"error" => progress.failed = true,
        _ => progress.failed |= error,
    }
}

/// Reads the response of an event: its usage, and the repetition of all texts.
fn read_response(progress: &mut Progress, data: &JsonTree<'_>, response: ValueId) {
    if let Some(output) = data.member(response, b"output") {
        progress.copy(Copy::Response, text_length(data, output));
    }
    let usage = data.member(response, b"usage");
    if let Some(usage) = usage.and_then(|usage| read_usage(data.raw(usage))) {
        progress.report(usage);
    }
}

/// The content of a raw string; the bytes themselves if it is none.
fn unquoted(raw: &[u8]) -> &[u8] {
    let raw = raw.trim_ascii();
    match raw.strip_prefix(b"\"") {
        Some(inside) => inside.strip_suffix(b"\"").unwrap_or(inside),
        None => raw,
    }
}

/// Which copy of the answer's text an event of that type has. The events of one answer repeat its
/// text up to four times.
fn copy_of(kind: &[u8]) -> Copy {
    if kind.ends_with(DELTA.as_bytes()) || kind.ends_with(ADDED.as_bytes()) {
        return Copy::Deltas;
    }
    match kind {
        b"response.output_item.done" => Copy::Items,
        b"response.content_part.done" | b"response.reasoning_summary_part.done" => Copy::Parts,
        _ => Copy::Texts,
    }
}

/// The bytes of text in a whole answer.
pub(in crate::model::dialect) fn text_of_whole(answer: &[u8]) -> u64 {
    let mut text = 0;
    if let Some(output) = member(answer, "output") {
        items(output, |item| text += text_length(&InPlace(answer), item));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::framing::sse::EventLines;
    use crate::model::tree::TreeMemory;
    use crate::model::usage::Usage;

    #[track_caller]
    fn progress(events: &[&str]) -> Progress {
        let mut progress = Progress::default();
        for data in events {
            let event = format!("data: {data}\n\n");
            let lines = EventLines::read(event.as_bytes());
            read(&mut progress, &StreamEvent::read(&lines, TreeMemory::default()));
        }
        progress
    }

    const BEGUN: &str = r#"{"type":"response.created","response":{"output":[]}}"#;
    const DELTA: &str = r#"{"type":"response.output_text.delta","item_id":"x","delta":"four"}"#;
    const DONE: &str = r#"{"type":"response.output_text.done","item_id":"x","text":"four"}"#;

    #[test]
    fn only_the_last_event_completes_a_response() {
        assert!(!progress(&[BEGUN, DELTA, DONE]).is_complete());
        for (last, failed) in [
            (r#"{"type":"response.completed","response":{}}"#, false),
            (r#"{"type":"response.incomplete","response":{}}"#, false),
            (r#"{"type":"response.failed","response":{"error":{"message":"x"}}}"#, true),
            (r#"{"type":"error","message":"x"}"#, true),
            (r#"{"error":{"message":"x"}}"#, true),
        ] {
            let after = progress(&[BEGUN, DELTA, last]);
            assert_eq!((after.is_complete(), after.failed), (true, failed), "{last}");
        }
    }

    #[test]
    fn a_repetition_is_counted_once_and_alone() {
        let end = concat!(
            r#"{"type":"response.completed","response":{"output":[{"type":"message","id":"x","#,
            r#""content":[{"type":"output_text","text":"four"}]}],"usage":{"input_tokens":3,"#,
            r#""output_tokens":2,"output_tokens_details":{"reasoning_tokens":1}}}}"#
        );
        let after = progress(&[BEGUN, DELTA, DONE, end]);
        assert_eq!(after.text, 4);
        assert_eq!(after.usage, Some(Usage { input: 3, output: 2, reasoning: 1 }));
        // A server that sends no deltas hides nothing from the cap.
        assert_eq!(progress(&[BEGUN, end]).text, 4);
        assert_eq!(progress(&[BEGUN, DONE, DONE]).text, 8);
    }

    #[test]
    fn a_name_is_the_type_or_absent() {
        let tree = JsonTree::read(DONE.as_bytes(), TreeMemory::default());
        assert!(is_named(None, &tree) && is_named(Some("response.output_text.done"), &tree));
        assert!(!is_named(Some("response.output_text.delta"), &tree));
    }
}
