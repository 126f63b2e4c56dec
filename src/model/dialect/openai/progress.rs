//! Reads usage, finish reasons, errors and the end of the stream from OpenAI's events.

use crate::model::dialect::length::text_length;
use crate::model::dialect::read_usage;
use crate::model::event::StreamEvent;
use crate::model::progress::Progress;
use crate::model::raw_json::{items, member};
use crate::model::tree::{JsonTree, ValueId};
use crate::model::values::{InPlace, Values as _};

/// Whether the name of an event agrees with its data. OpenAI's events have no name, except errors.
pub(in crate::model::dialect) fn is_named(name: Option<&str>, data: &JsonTree<'_>) -> bool {
    match name {
        // `message` is the default name of an event in the HTML standard, section 9.2.
        None | Some("message") => true,
        Some(name) => name == "error" && data.member(data.root(), b"choices").is_none(),
    }
}

/// Reads an event into `progress`. Returns false when a caller that did not request usage must not
/// get the event.
pub(in crate::model::dialect) fn read(progress: &mut Progress, event: &StreamEvent<'_>) -> bool {
    progress.ended |= event.is_done();
    let Some(data) = event.tree() else { return true };
    let (mut reported, mut choices, mut error) = (None, None, false);
    data.members(data.root(), |name, value| match name {
        b"usage" => reported = Some(value),
        b"choices" => choices = Some(value),
        b"error" => error = data.raw(value).trim_ascii() != b"null",
        // vLLM reports errors as an object with `"object": "error"`.
        b"object" => error |= data.raw(value).trim_ascii() == b"\"error\"",
        _ => {}
    });
    let mut any = false;
    if let Some(choices) = choices {
        data.items(choices, |choice| {
            any = true;
            read_choice(progress, data, choice);
        });
    }
    progress.failed |= error;
    let Some(usage) = reported.and_then(|usage| read_usage(data.raw(usage))) else { return true };
    progress.report(usage);
    // A chunk with usage and an empty list of choices is the one that `include_usage` adds.
    any || choices.is_none()
}

/// Reads a choice: its index, its text, and whether it is finished.
fn read_choice(progress: &mut Progress, data: &JsonTree<'_>, choice: ValueId) {
    let (mut index, mut finished) = (0, false);
    data.members(choice, |name, value| match name {
        b"index" => index = number(data.raw(value)).unwrap_or(0),
        // Some servers send an empty finish reason in every chunk. It finishes no choice.
        b"finish_reason" => finished = !matches!(data.raw(value).trim_ascii(), b"null" | b"\"\""),
        b"delta" | b"message" | b"text" => progress.text += text_length(data, value),
        _ => {}
    });
    progress.begin(index);
    if finished {
        progress.finish(index);
    }
}

/// A number in raw JSON; `None` if it is no unsigned integer.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// The bytes of text in a whole answer.
pub(in crate::model::dialect) fn text_of_whole(answer: &[u8]) -> u64 {
    let mut text = 0;
    if let Some(choices) = member(answer, "choices") {
        items(choices, |choice| text += text_length(&InPlace(answer), choice));
    }
    text
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
    fn a_finish_reason_for_each_choice_or_the_last_event_completes_a_stream() {
        let half = concat!(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"h\u00e9"},"#,
            r#""finish_reason":null}]}"#
        );
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        check(&[half], false, 3);
        check(&[half, end], true, 3);
        check(&[half, "[DONE]"], true, 3);
        check(&[half, r#"{"error":{"message":"out of memory"}}"#], true, 3);
        check(&[half, r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#], false, 3);
        check(&[r#"{"choices":[{"index":0,"text":"abc","finish_reason":""}]}"#], false, 3);
        check(&[], false, 0);
    }

    #[test]
    fn what_tools_are_called_with_is_text_too() {
        let function = r#"{"name":"go","arguments":"{}"}"#;
        let call = format!(r#"{{"index":0,"id":"abc","type":"function","function":{function}}}"#);
        check(&[&format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{call}]}}}}]}}"#)], false, 4);
    }
}
