//! Reads usage, errors and the end of the answer from Ollama's lines.

use crate::model::dialect::length::text_length;
use crate::model::event::StreamEvent;
use crate::model::progress::Progress;
use crate::model::raw_json::member;
use crate::model::usage::Usage;
use crate::model::values::{InPlace, Values as _};

use super::texts::{ANSWERS, ends_answer};
use super::usage::{INPUT, OUTPUT};

/// An answer has only one choice, with this index.
const CHOICE: u64 = 0;

/// Reads a line into `progress`.
pub(in crate::model::dialect) fn read(progress: &mut Progress, line: &StreamEvent<'_>) {
    let Some(data) = line.tree() else { return };
    let (mut input, mut output, mut done) = (None, None, false);
    data.members(data.root(), |name, value| {
        let raw = data.raw(value);
        if ANSWERS.contains(&name) {
            progress.text += text_length(data, value);
        } else if name == INPUT.as_bytes() {
            input = number(raw);
        } else if name == OUTPUT.as_bytes() {
            output = number(raw);
        } else if name == b"error" {
            progress.failed |= raw.trim_ascii() != b"null";
        }
        done |= ends_answer(name, raw);
    });
    progress.begin(CHOICE);
    if let Some(usage) = reported(input, output) {
        progress.report(usage);
    }
    if done {
        progress.finish(CHOICE);
        progress.ended = true;
    }
}

/// The usage that the two numbers report. Without both there is no report.
fn reported(input: Option<u64>, output: Option<u64>) -> Option<Usage> {
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage { input: input.unwrap_or(0), output: output.unwrap_or(0), reasoning: 0 })
}

/// A number in raw JSON; `None` if it is no unsigned integer.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// The usage of a whole answer.
pub(in crate::model::dialect) fn usage_of_whole(answer: &[u8]) -> Option<Usage> {
    let at = |name| member(answer, name).and_then(number);
    reported(at(INPUT), at(OUTPUT))
}

/// The bytes of text in a whole answer.
pub(in crate::model::dialect) fn text_of_whole(answer: &[u8]) -> u64 {
    let mut text = 0;
    for name in ["message", "response", "thinking"] {
        if let Some(value) = member(answer, name) {
            text += text_length(&InPlace(answer), value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::framing::sse::EventLines;
    use crate::model::tree::TreeMemory;

    fn progress(lines: &[&str]) -> Progress {
        let mut progress = Progress::default();
        for line in lines {
            let event = format!("data: {line}\n\n");
            let event = EventLines::read(event.as_bytes());
            read(&mut progress, &StreamEvent::read(&event, TreeMemory::default()));
        }
        progress
    }

    #[test]
    fn the_line_with_done_completes_an_answer() {
        let piece = r#"{"message":{"role":"assistant","content":"four"},"done":false}"#;
        let end = concat!(
            r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","#,
            r#""prompt_eval_count":3,"eval_count":1}"#
        );
        let begun = progress(&[piece]);
        assert!(!begun.is_complete() && !begun.ended);
        let ended = progress(&[piece, end]);
        assert!(ended.is_complete() && ended.ended && !ended.failed);
        assert_eq!(ended.usage, Some(Usage { input: 3, output: 1, reasoning: 0 }));
        assert_eq!(ended.text, 4);
        assert!(progress(&[r#"{"error":"no memory"}"#]).failed);
    }

    #[test]
    fn thinking_and_calls_are_text_of_the_answer() {
        let chat = concat!(
            r#"{"message":{"role":"assistant","thinking":"ab","content":"c","#,
            r#""tool_calls":[{"function":{"name":"d","arguments":{"x":"ef"}}}]},"done":false}"#
        );
        assert_eq!(progress(&[chat]).text, 6);
        assert_eq!(text_of_whole(chat.as_bytes()), 6);
        let generated = r#"{"response":"ab","thinking":"c","context":[1,2],"done":true}"#;
        assert_eq!(progress(&[generated]).text, 3);
        assert_eq!(text_of_whole(generated.as_bytes()), 3);
    }
}
