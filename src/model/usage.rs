//! What a model used, as its server reports it.

use crate::json::{self, Limits, Object, Value};

use super::Operation;
use super::peek::{items, member};
use super::progress;

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those read from or written to a cache included.
    pub input: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
}

/// What was sent to a server, as far as it bounds what can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the body.
    pub bytes: u64,
    /// The cap on output tokens, all choices together; `None` for operations without output tokens.
    pub output_tokens: Option<u64>,
}

/// How long answers may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Bytes of text for each output token.
    pub each: u64,
    /// Bytes of the whole answer where there is no cap on tokens; bytes of an answer that does not stream in any case.
    pub bytes: u64,
}

/// Bytes that every answer may have beside those of its tokens.
const TEXT_SPARE: u64 = 1 << 20;
/// How much longer than its text a stream may be: names, log probabilities, pings.
const AROUND: u64 = 32;

/// How long one answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of text.
    pub text: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl AnswerLimits {
    /// The limits of the answer to what was sent.
    #[must_use]
    pub fn of(self, sent: Sent) -> Extent {
        match sent.output_tokens {
            Some(cap) => {
                let text = cap.saturating_mul(self.each).saturating_add(TEXT_SPARE);
                Extent { text, bytes: text.saturating_mul(AROUND) }
            }
            None => Extent { text: self.bytes, bytes: self.bytes },
        }
    }
}

/// What came back of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The last usage that the server reported.
    pub usage: Option<Usage>,
    /// Bytes of the answer's text in UTF-8.
    pub text: u64,
    /// Those of them that came behind the last usage.
    pub since_usage: u64,
    /// Whether the answer is complete.
    pub complete: bool,
}

/// Where a number of tokens comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The server's usage of the complete answer.
    Reported,
    /// The last usage before the answer was cut, and the bytes of text that came behind it.
    Running,
    /// No usage that can be believed: bytes, for no token has fewer than one.
    Bound,
}

impl Source {
    /// Its name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Running => "running",
            Self::Bound => "bound",
        }
    }
}

/// Tokens that a server's own template, tools and pictures may add to a body before its report is taken for absurd.
const INPUT_OVERHEAD: u64 = 4_096;
/// The same for each byte of the body.
const INPUT_EACH: u64 = 8;

/// What is recorded as used. A report is believed where it can be true: input that is not zero and not more than the body can be, output
/// that is within the cap, and not zero beside text. All else is silence, which counts the bytes of the body and of the text.
#[must_use]
pub fn settle(sent: Sent, heard: &Heard) -> (Usage, Source) {
    let cap = sent.output_tokens.unwrap_or(u64::MAX);
    let input_max = sent.bytes.saturating_mul(INPUT_EACH).saturating_add(INPUT_OVERHEAD);
    let bound = Usage { input: sent.bytes, output: heard.text.min(cap) };
    let Some(told) = heard.usage.filter(|told| (1..=input_max).contains(&told.input) && told.output <= cap) else {
        return (bound, Source::Bound);
    };
    match heard.complete {
        true if told.output == 0 && heard.text > 0 => (bound, Source::Bound),
        true => (told, Source::Reported),
        false => {
            let output = told.output.saturating_add(heard.since_usage).min(cap);
            (Usage { input: told.input, output }, Source::Running)
        }
    }
}

/// What a whole answer reports, and how much text it brings.
#[must_use]
pub fn heard(operation: Operation, answer: &[u8]) -> Heard {
    let mut text = 0;
    if let Some(choices) = member(answer, "choices") {
        items(choices, |choice| text += progress::text(choice));
    }
    text += member(answer, "content").map_or(0, progress::text);
    Heard { usage: of(operation, answer), text, since_usage: 0, complete: true }
}

/// What a whole answer reports; `None` where it reports nothing that can be read.
#[must_use]
pub fn of(operation: Operation, answer: &[u8]) -> Option<Usage> {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Messages => {
            member(answer, "usage").and_then(read)
        }
        Operation::ListModels | Operation::ShowModel | Operation::Me => None,
    }
}

/// Reads a usage object of any dialect.
pub(super) fn read(raw: &[u8]) -> Option<Usage> {
    let value = json::parse(raw, &Limits::deep(8)).ok()?;
    let object = value.as_object()?;
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let input = number("prompt_tokens").or_else(|| anthropic_input(object));
    let output = number("completion_tokens").or_else(|| number("output_tokens"));
    (input.is_some() || output.is_some()).then(|| Usage { input: input.unwrap_or(0), output: output.unwrap_or(0) })
}

/// Anthropic counts apart what came from a cache and what went into it.
fn anthropic_input(object: &Object<'_>) -> Option<u64> {
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let cached =
        number("cache_creation_input_tokens").unwrap_or(0).saturating_add(number("cache_read_input_tokens").unwrap_or(0));
    number("input_tokens").map(|input| input.saturating_add(cached))
}

impl Usage {
    /// Both at their highest: streams report in parts, and repeat.
    #[must_use]
    pub(super) fn highest(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Sent = Sent { bytes: 100, output_tokens: Some(50) };

    #[track_caller]
    fn check(usage: Option<(u64, u64)>, text: u64, complete: bool, expect: (u64, u64, Source)) {
        let usage = usage.map(|(input, output)| Usage { input, output });
        let (used, source) = settle(SENT, &Heard { usage, text, since_usage: text, complete });
        assert_eq!((used.input, used.output, source), expect);
    }

    #[test]
    fn reports_that_cannot_be_true_are_silence() {
        check(Some((9, 5)), 20, true, (9, 5, Source::Reported));
        check(None, 20, true, (100, 20, Source::Bound));
        check(Some((0, 5)), 20, true, (100, 20, Source::Bound));
        check(Some((9, 0)), 20, true, (100, 20, Source::Bound));
        check(Some((9, 0)), 0, true, (9, 0, Source::Reported));
        check(Some((9, 51)), 20, true, (100, 20, Source::Bound));
        check(Some((1 << 40, 5)), 20, true, (100, 20, Source::Bound));
        check(None, 70, true, (100, 50, Source::Bound));
    }

    #[test]
    fn what_came_behind_the_last_usage_counts_by_its_bytes() {
        check(Some((9, 5)), 20, false, (9, 25, Source::Running));
        check(Some((9, 5)), 70, false, (9, 50, Source::Running));
        check(None, 20, false, (100, 20, Source::Bound));
    }
}
