//! The progress of a stream: the amount of text, the reported usage, and whether it is complete.
//! The dialects fill it.

use std::collections::BTreeSet;

use super::usage::Usage;

/// A copy of an answer's text. The events of a response repeat it several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// The deltas.
    Deltas,
    /// Each text as a whole.
    Texts,
    /// Each part as a whole.
    Parts,
    /// Each item as a whole.
    Items,
    /// The response as a whole.
    Response,
}

/// The progress of one stream.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The highest usage that was reported.
    pub(super) usage: Option<Usage>,
    /// The bytes of the answer's text in UTF-8: content, reasoning, arguments of tool calls.
    pub(super) text: u64,
    /// The bytes of text in each copy of the answer, if its events repeat the text.
    copies: [u64; 5],
    /// The value of `text` at the last report of usage.
    pub(super) text_at_usage: u64,
    /// The dialect's last event has come (`[DONE]`, `message_stop`).
    pub(super) ended: bool,
    /// The server has reported an error.
    pub(super) failed: bool,
    /// The choices that have started, and the choices with a finish reason.
    begun: BTreeSet<u64>,
    /// The choices with a finish reason.
    finished: BTreeSet<u64>,
}

impl Progress {
    /// True once the stream is complete: the last event, a finish reason for every choice, or an
    /// error of the server has come. Some servers do not send the last event.
    pub(super) fn is_complete(&self) -> bool {
        self.ended || self.failed || (!self.begun.is_empty() && self.begun == self.finished)
    }

    /// Adds bytes of text to a copy. The longest copy counts as the answer's text, so that a server
    /// hides nothing in a copy that others leave out.
    pub(super) fn copy(&mut self, copy: Copy, bytes: u64) {
        let place = match copy {
            Copy::Deltas => 0,
            Copy::Texts => 1,
            Copy::Parts => 2,
            Copy::Items => 3,
            Copy::Response => 4,
        };
        if let Some(sum) = self.copies.get_mut(place) {
            *sum = sum.saturating_add(bytes);
            self.text = self.text.max(*sum);
        }
    }

    /// Records that a part of the choice has come.
    pub(super) fn begin(&mut self, choice: u64) {
        if !self.begun.contains(&choice) {
            self.begun.insert(choice);
        }
    }

    /// Records that the choice has a finish reason.
    pub(super) fn finish(&mut self, choice: u64) {
        self.finished.insert(choice);
    }

    /// Records a usage report. Reports come in parts and repeat, so the highest numbers count.
    pub(super) fn report(&mut self, usage: Usage) {
        self.usage = Some(self.usage.map_or(usage, |known| known.highest(usage)));
        // Text that comes later is not included in this report.
        self.text_at_usage = self.text;
    }
}
