//! The tokens that an answer used, as its server reports them.

mod whole;

pub use whole::{heard, of};

/// The tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The tokens of the prompt, including those read from a cache or written to it.
    pub input: u64,
    /// The tokens of the answer, including reasoning.
    pub output: u64,
    /// The reasoning tokens among them, as the server reports. The server may keep their text.
    pub reasoning: u64,
}

/// The limits of usage that follow from the sent request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The length of the body in bytes.
    pub bytes: u64,
    /// The cap on output tokens for all choices together; `None` for operations without output
    /// tokens.
    pub output_tokens: Option<u64>,
}

/// The configured maximum lengths of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// The bytes of text for each output token.
    pub each: u64,
    /// The bytes of the whole answer, if there is no cap on tokens or the answer does not stream.
    pub bytes: u64,
    /// The bytes of one event of a stream.
    pub event: usize,
}

/// The bytes that every answer may have in addition to those of its tokens.
const TEXT_SPARE: u64 = 1 << 20;
/// The maximum ratio of a stream's length to its text: names, log probabilities and pings need the
/// rest.
const AROUND: u64 = 32;

/// The maximum length of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The bytes of text.
    pub text: u64,
    /// The bytes in total.
    pub bytes: u64,
}

impl AnswerLimits {
    /// The limits for the answer to a request.
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

/// The content of an answer that matters for usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The last usage that the server reported.
    pub usage: Option<Usage>,
    /// The bytes of the answer's text in UTF-8.
    pub text: u64,
    /// The bytes of text that came after the last usage.
    pub since_usage: u64,
    /// Whether the answer is complete.
    pub complete: bool,
}

/// The source of a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageSource {
    /// The server's usage of the complete answer.
    Reported,
    /// The last usage before the answer ended early, plus the bytes of text that came after it.
    Running,
    /// Bytes, because there is no plausible usage. Every token has at least one byte.
    Bound,
}

impl UsageSource {
    /// The name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Running => "running",
            Self::Bound => "bound",
        }
    }
}

/// The number of tokens that a server's template, tools and images may add to a body. With more,
/// its report is implausible.
const INPUT_OVERHEAD: u64 = 4_096;
/// The same for each byte of the body.
const INPUT_EACH: u64 = 8;

/// The number of tokens that an answer may have in addition to those of its text. These are special
/// tokens, such as the end and those around tool calls.
const OUTPUT_SPARE: u64 = 256;

/// The implausible values in a server's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absurd {
    /// More input than the sent body can have.
    Input,
    /// More output than the request's cap.
    OverCap,
    /// More output than the answer has bytes of text. Every token has at least one byte. A server
    /// that keeps its reasoning and does not count it separately looks the same. So such a report
    /// is accepted up to the cap.
    OverText,
}

impl Absurd {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Input, Self::OverCap, Self::OverText];

    /// The name in metrics and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::OverCap => "over-cap",
            Self::OverText => "over-text",
        }
    }
}

/// Finds an implausible value in a server's report.
#[must_use]
pub fn absurd(sent: Sent, heard: &Heard) -> Option<Absurd> {
    let told = heard.usage?;
    // A server may keep the text of its reasoning, so reasoning tokens need no bytes.
    let text_max = heard.text.saturating_add(told.reasoning).saturating_add(OUTPUT_SPARE);
    match sent.output_tokens {
        _ if told.input > sent.input_max() => Some(Absurd::Input),
        Some(cap) if told.output > cap => Some(Absurd::OverCap),
        _ if told.output > text_max => Some(Absurd::OverText),
        _ => None,
    }
}

impl Sent {
    /// The maximum plausible number of input tokens.
    const fn input_max(self) -> u64 {
        self.bytes.saturating_mul(INPUT_EACH).saturating_add(INPUT_OVERHEAD)
    }
}

/// The usage that is recorded. A report is accepted if it is plausible. Its input must be above
/// zero and possible for the body. Its output must be within the cap, and above zero if there is
/// text. Otherwise the bytes of the body and of the text are counted.
#[must_use]
pub fn settle(sent: Sent, heard: &Heard) -> (Usage, UsageSource) {
    // Without a cap, the text limits the output that a report can claim. A server may keep the text
    // of its reasoning.
    let cap = match (sent.output_tokens, heard.usage) {
        (Some(cap), _) => cap,
        (None, Some(told)) => {
            heard.text.saturating_add(told.reasoning).saturating_add(OUTPUT_SPARE)
        }
        (None, None) => heard.text.saturating_add(OUTPUT_SPARE),
    };
    // An upper bound: every token has at least one byte.
    let bound = Usage { input: sent.bytes, output: heard.text.min(cap), reasoning: 0 };
    let Some(told) = heard
        .usage
        .filter(|told| (1..=sent.input_max()).contains(&told.input) && told.output <= cap)
    else {
        return (bound, UsageSource::Bound);
    };
    match heard.complete {
        // A server that reports no output for a text would let the agent use tokens without a
        // count.
        true if told.output == 0 && heard.text > 0 => (bound, UsageSource::Bound),
        true => (told, UsageSource::Reported),
        false => {
            // The answer ended early, so the last report does not include the text after it.
            let output = told.output.saturating_add(heard.since_usage).min(cap);
            (Usage { output, ..told }, UsageSource::Running)
        }
    }
}

impl Usage {
    /// The highest value of each number. Streams report in parts and repeat.
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
        // Reasoning that the server does not show is output too.
        let hidden = Heard {
            usage: Some(Usage { input: 9, output: 5_000, reasoning: 4_980 }),
            text: 20,
            ..endless
        };
        let uncapped = settle(Sent { output_tokens: None, ..SENT }, &hidden);
        assert_eq!(uncapped.1, UsageSource::Reported);
    }

    #[test]
    fn what_came_behind_the_last_usage_counts_by_its_bytes() {
        check(Some((9, 5)), 20, false, (9, 25, UsageSource::Running));
        check(Some((9, 5)), 70, false, (9, 50, UsageSource::Running));
        check(None, 20, false, (100, 20, UsageSource::Bound));
    }
}
