//! What a model used, as its server reports it.

mod whole;

pub use whole::{heard, of};

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those read from or written to a cache included.
    pub input: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
    /// Those of them that the server says were reasoning, whose text it may keep to itself.
    pub reasoning: u64,
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
pub enum UsageSource {
    /// The server's usage of the complete answer.
    Reported,
    /// The last usage before the answer was cut, and the bytes of text that came behind it.
    Running,
    /// No usage that can be believed: bytes, for no token has fewer than one.
    Bound,
}

impl UsageSource {
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

/// Tokens that an answer may have beside those of its text: special ones, such as its end and those around tool calls.
const OUTPUT_SPARE: u64 = 256;

/// What cannot be true in a server's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absurd {
    /// More input than the body that was sent can be.
    Input,
    /// More output than the request's cap.
    OverCap,
    /// More output than the answer has bytes of text: no token has fewer than one. A server that keeps reasoning to itself
    /// without counting it apart looks like this too, so within the cap it is believed.
    OverText,
}

impl Absurd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Input, Self::OverCap, Self::OverText];

    /// Its name in metrics and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::OverCap => "over-cap",
            Self::OverText => "over-text",
        }
    }
}

/// What cannot be true in what a server reports of its answer.
#[must_use]
pub fn absurd(sent: Sent, heard: &Heard) -> Option<Absurd> {
    let told = heard.usage?;
    let text_max = heard.text.saturating_add(told.reasoning).saturating_add(OUTPUT_SPARE);
    match sent.output_tokens {
        _ if told.input > sent.input_max() => Some(Absurd::Input),
        Some(cap) if told.output > cap => Some(Absurd::OverCap),
        _ if told.output > text_max => Some(Absurd::OverText),
        _ => None,
    }
}

impl Sent {
    /// Tokens of input that can be believed.
    const fn input_max(self) -> u64 {
        self.bytes.saturating_mul(INPUT_EACH).saturating_add(INPUT_OVERHEAD)
    }
}

/// What is recorded as used. A report is believed where it can be true: input that is not zero and not more than the body can be, output
/// that is within the cap, and not zero beside text. All else is silence, which counts the bytes of the body and of the text.
#[must_use]
pub fn settle(sent: Sent, heard: &Heard) -> (Usage, UsageSource) {
    let cap = sent.output_tokens.unwrap_or_else(|| heard.text.saturating_add(OUTPUT_SPARE));
    let bound = Usage { input: sent.bytes, output: heard.text.min(cap), reasoning: 0 };
    let Some(told) = heard
        .usage
        .filter(|told| (1..=sent.input_max()).contains(&told.input) && told.output <= cap)
    else {
        return (bound, UsageSource::Bound);
    };
    match heard.complete {
        true if told.output == 0 && heard.text > 0 => (bound, UsageSource::Bound),
        true => (told, UsageSource::Reported),
        false => {
            let output = told.output.saturating_add(heard.since_usage).min(cap);
            (Usage { output, ..told }, UsageSource::Running)
        }
    }
}

impl Usage {
    /// Both at their highest: streams report in parts, and repeat.
    #[must_use]
    pub(super) fn highest(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Sent = Sent { bytes: 100, output_tokens: Some(50) };

    #[track_caller]
    fn check(
        usage: Option<(u64, u64)>,
        text: u64,
        complete: bool,
        expect: (u64, u64, UsageSource),
    ) {
        let usage = usage.map(|(input, output)| Usage { input, output, reasoning: 0 });
        let (used, source) = settle(SENT, &Heard { usage, text, since_usage: text, complete });
        assert_eq!((used.input, used.output, source), expect);
    }

    #[test]
    fn reports_that_cannot_be_true_are_silence() {
        check(Some((9, 5)), 20, true, (9, 5, UsageSource::Reported));
        check(None, 20, true, (100, 20, UsageSource::Bound));
        check(Some((0, 5)), 20, true, (100, 20, UsageSource::Bound));
        check(Some((9, 0)), 20, true, (100, 20, UsageSource::Bound));
        check(Some((9, 0)), 0, true, (9, 0, UsageSource::Reported));
        check(Some((9, 51)), 20, true, (100, 20, UsageSource::Bound));
        check(Some((1 << 40, 5)), 20, true, (100, 20, UsageSource::Bound));
        check(None, 70, true, (100, 50, UsageSource::Bound));
    }

    #[test]
    fn what_cannot_be_true_is_noticed() {
        let check = |sent, (input, output, reasoning), text, expect| {
            let usage = Some(Usage { input, output, reasoning });
            assert_eq!(
                absurd(sent, &Heard { usage, text, since_usage: 0, complete: true }),
                expect,
                "{input} {output} {text}"
            );
        };
        let wide = Sent { bytes: 100, output_tokens: Some(100_000) };
        check(SENT, (9, 5, 0), 20, None);
        check(SENT, (0, 5, 0), 20, None);
        check(SENT, (1 << 40, 5, 0), 20, Some(Absurd::Input));
        check(SENT, (9, 51, 0), 20, Some(Absurd::OverCap));
        // The end of an answer, and of each tool call, is a token without text.
        check(wide, (9, 3, 0), 2, None);
        check(wide, (9, 5_000, 0), 20, Some(Absurd::OverText));
        check(wide, (9, 5_000, 4_900), 20, None);
        check(Sent { output_tokens: None, ..SENT }, (9, 1 << 40, 0), 0, Some(Absurd::OverText));
        let endless = Heard {
            usage: Some(Usage { input: 9, output: 1 << 40, reasoning: 0 }),
            complete: true,
            ..Heard::default()
        };
        assert_eq!(settle(Sent { output_tokens: None, ..SENT }, &endless).1, UsageSource::Bound);
    }

    #[test]
    fn what_came_behind_the_last_usage_counts_by_its_bytes() {
        check(Some((9, 5)), 20, false, (9, 25, UsageSource::Running));
        check(Some((9, 5)), 70, false, (9, 50, UsageSource::Running));
        check(None, 20, false, (100, 20, UsageSource::Bound));
    }
}
