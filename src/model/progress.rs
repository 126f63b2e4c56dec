//! How far a stream has come: how much text it has brought, what it has reported, and whether it is complete.

use std::collections::BTreeSet;

use super::Dialect;
use super::peek::{items, member, members};
use super::usage::{self, Usage};
use crate::json::{self, Limits, Value};

/// Members whose strings say what something is; they are no text of the answer.
const NO_TEXT: [&[u8]; 9] =
    [b"finish_reason", b"id", b"index", b"logprobs", b"role", b"signature", b"stop_reason", b"stop_sequence", b"type"];

/// What has come of one stream.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The highest usage that was reported.
    pub(super) usage: Option<Usage>,
    /// Bytes of the answer's text in UTF-8: content, reasoning, what tools are called with.
    pub(super) text: u64,
    /// The same when usage was reported last.
    pub(super) text_at_usage: u64,
    /// The dialect's last event has come (`[DONE]`, `message_stop`).
    pub(super) ended: bool,
    /// The server itself has reported an error.
    pub(super) failed: bool,
    /// Choices that have begun, and those of them that have a finish reason.
    begun: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

impl Progress {
    /// True once nothing is missing: the last event, a finish reason for every choice, or the server's own error. Some servers leave
    /// the last event out.
    pub(super) fn is_complete(&self) -> bool {
        self.ended || self.failed || (!self.begun.is_empty() && self.begun == self.finished)
    }

    /// Reads the data of an event; false when it must not reach a caller who did not ask for usage.
    pub(super) fn read(&mut self, dialect: Dialect, data: &[u8]) -> bool {
        match dialect {
            Dialect::OpenAi => self.openai(data),
            Dialect::Anthropic => {
                self.anthropic(data);
                true
            }
        }
    }

    fn openai(&mut self, data: &[u8]) -> bool {
        if data.trim_ascii() == b"[DONE]" {
            self.ended = true;
            return true;
        }
        let (mut reported, mut choices, mut error) = (None, None, false);
        members(data, |name, value| match name {
            b"usage" => reported = Some(value),
            b"choices" => choices = Some(value.trim_ascii()),
            b"error" => error = value.trim_ascii() != b"null",
            b"object" => error |= value.trim_ascii() == b"\"error\"",
            _ => {}
        });
        let mut any = false;
        items(choices.unwrap_or_default(), |choice| {
            any = true;
            self.choice(choice);
        });
        self.failed |= error;
        let Some(usage) = reported.and_then(usage::read) else { return true };
        self.report(usage);
        any || choices.is_none()
    }

    fn choice(&mut self, choice: &[u8]) {
        let (mut index, mut finished) = (0, false);
        members(choice, |name, value| match name {
            b"index" => index = number(value).unwrap_or(0),
            b"finish_reason" => finished = !matches!(value.trim_ascii(), b"null" | b"\"\""),
            b"delta" | b"message" | b"text" => self.text += text(value.trim_ascii()),
            _ => {}
        });
        if !self.begun.contains(&index) {
            self.begun.insert(index);
        }
        if finished {
            self.finished.insert(index);
        }
    }

    fn anthropic(&mut self, data: &[u8]) {
        let (mut kind, mut message, mut delta, mut block, mut reported) = (None, None, None, None, None);
        members(data, |name, value| match name {
            b"type" => kind = Some(value.trim_ascii()),
            b"message" => message = Some(value),
            b"delta" => delta = Some(value.trim_ascii()),
            b"content_block" => block = Some(value.trim_ascii()),
            b"usage" => reported = Some(value),
            _ => {}
        });
        let begun = message.and_then(|message| member(message, "content")).map_or(0, text);
        self.text += begun + delta.map_or(0, text) + block.map_or(0, text);
        let holder = match kind {
            Some(b"\"message_start\"") => {
                self.begun.insert(0);
                message.and_then(|message| member(message, "usage"))
            }
            Some(b"\"message_delta\"") => {
                let reason = delta.and_then(|delta| member(delta, "stop_reason"));
                if reason.is_some_and(|reason| reason.trim_ascii() != b"null") {
                    self.finished.insert(0);
                }
                reported
            }
            Some(b"\"message_stop\"") => {
                self.ended = true;
                None
            }
            Some(b"\"error\"") => {
                self.failed = true;
                None
            }
            Some(_) | None => None,
        };
        if let Some(usage) = holder.and_then(usage::read) {
            self.report(usage);
        }
    }

    fn report(&mut self, usage: Usage) {
        self.usage = Some(self.usage.map_or(usage, |known| known.highest(usage)));
        self.text_at_usage = self.text;
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// The deepest nesting that is searched for text. The limit keeps an upstream from overflowing the stack.
const TEXT_DEPTH_MAX: u32 = 64;

/// Bytes of text in a value: all strings except those of the members in `NO_TEXT`. A value below
/// [`TEXT_DEPTH_MAX`] counts with all its bytes.
pub(super) fn text(value: &[u8]) -> u64 {
    text_within(value, TEXT_DEPTH_MAX)
}

fn text_within(value: &[u8], levels: u32) -> u64 {
    let Some(levels) = levels.checked_sub(1) else { return value.len() as u64 };
    match value.first() {
        Some(b'"') => string(value),
        Some(b'{') => {
            let mut sum = 0;
            members(value, |name, value| {
                if !NO_TEXT.contains(&name) {
                    sum += text_within(value.trim_ascii(), levels);
                }
            });
            sum
        }
        Some(b'[') => {
            let mut sum = 0;
            items(value, |item| sum += text_within(item.trim_ascii(), levels));
            sum
        }
        Some(_) | None => 0,
    }
}

/// Bytes in UTF-8 of a string of JSON.
fn string(raw: &[u8]) -> u64 {
    let written = raw.len().saturating_sub(2) as u64;
    if memchr::memchr(b'\\', raw).is_none() {
        return written;
    }
    match json::parse(raw, &Limits::deep(1)) {
        Ok(Value::String(text)) => text.len() as u64,
        Ok(_) | Err(_) => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dialect: Dialect, events: &[&str], complete: bool, text: u64) {
        let mut progress = Progress::default();
        for event in events {
            progress.read(dialect, event.as_bytes());
        }
        assert_eq!((progress.is_complete(), progress.text), (complete, text), "{events:?}");
    }

    #[test]
    fn a_finish_reason_for_each_choice_or_the_last_event_completes_a_stream() {
        let half = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"h\u00e9"},"finish_reason":null}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        check(Dialect::OpenAi, &[half], false, 3);
        check(Dialect::OpenAi, &[half, end], true, 3);
        check(Dialect::OpenAi, &[half, "[DONE]"], true, 3);
        check(Dialect::OpenAi, &[half, r#"{"error":{"message":"out of memory"}}"#], true, 3);
        check(Dialect::OpenAi, &[half, r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#], false, 3);
        check(Dialect::OpenAi, &[r#"{"choices":[{"index":0,"text":"abc","finish_reason":""}]}"#], false, 3);
        check(Dialect::OpenAi, &[], false, 0);
    }

    #[test]
    fn what_tools_are_called_with_is_text_too() {
        let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"abc","type":"function","function":{"name":"go","arguments":"{}"}}]}}]}"#;
        check(Dialect::OpenAi, &[call], false, 4);
    }

    #[test]
    fn messages_are_complete_with_their_stop_reason() {
        let begin = r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}"#;
        let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"four"}}"#;
        check(Dialect::Anthropic, &[begin, delta], false, 4);
        check(Dialect::Anthropic, &[begin, delta, r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#], true, 4);
        check(Dialect::Anthropic, &[begin, delta, r#"{"type":"message_stop"}"#], true, 4);
        check(Dialect::Anthropic, &[begin, r#"{"type":"error","error":{"type":"overloaded_error"}}"#], true, 0);
    }

    /// The deepest value that fits into one event.
    #[test]
    fn no_nesting_ends_the_process() {
        let levels = 1 << 19;
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(text(deep.as_bytes()) > 0);
        let mut shallow = String::from("\"four\"");
        for _ in 0..60 {
            shallow = format!("[{shallow}]");
        }
        assert_eq!(text(shallow.as_bytes()), 4);
    }
}
