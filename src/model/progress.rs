//! How far a stream has come: how much text it has brought, what it has reported, and whether it is complete. The dialects fill it in.

use std::collections::BTreeSet;

use super::usage::Usage;

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

    /// Something of that choice has come.
    pub(super) fn begin(&mut self, choice: u64) {
        if !self.begun.contains(&choice) {
            self.begun.insert(choice);
        }
    }

    /// That choice has a finish reason.
    pub(super) fn finish(&mut self, choice: u64) {
        self.finished.insert(choice);
    }

    /// The server has reported usage: reports come in parts and repeat, so the highest numbers count.
    pub(super) fn report(&mut self, usage: Usage) {
        self.usage = Some(self.usage.map_or(usage, |known| known.highest(usage)));
        self.text_at_usage = self.text;
    }
}
