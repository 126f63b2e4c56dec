//! What is durable and under no checkpoint yet, and when the next checkpoint is due.

use std::time::Duration;

/// Checkpoints come at most so often, unless many records wait.
pub(super) const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// So many records wait for a checkpoint at the most.
const CHECKPOINT_RECORDS: usize = 1024;
/// A checkpoint writes the bundle that is not full anew: it waits until there is this many times as much to add.
const CHECKPOINT_GROWTH: usize = 3;
/// No record waits longer for a checkpoint.
const CHECKPOINT_AGE: Duration = Duration::from_secs(300);
/// A checkpoint or reserve that found no room is tried again so often.
pub(super) const ROOM_EVERY: Duration = Duration::from_secs(1);
/// A checkpoint that found something else short is tried again so often.
pub(super) const SHORT_EVERY: Duration = Duration::from_millis(100);
/// Bytes that wait for a checkpoint at the most; then the journal waits too.
pub(super) const PENDING_BYTES_MAX: usize = 64 << 20;

/// What is durable and under no checkpoint yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) records: Vec<Vec<u8>>,
    pub(super) bytes: usize,
    /// Since when the oldest of them waits.
    pub(super) since: Option<Duration>,
    /// Bytes of the bundle that is not full.
    pub(super) ragged: usize,
    /// When the next checkpoint may come.
    pub(super) not_before: Duration,
    /// Somebody waits for one.
    pub(super) wanted: bool,
}

impl Pending {
    /// How long until a checkpoint is due; `None` where nothing waits.
    pub(super) fn due_in(&self, now: Duration, closing: bool) -> Option<Duration> {
        let since = self.since?;
        if closing || self.records.len() >= CHECKPOINT_RECORDS {
            return Some(self.not_before.saturating_sub(now).min(if closing {
                Duration::ZERO
            } else {
                ROOM_EVERY
            }));
        }
        let soon = self.wanted || self.bytes >= CHECKPOINT_GROWTH * self.ragged;
        let at = if soon { self.not_before } else { self.not_before.max(since + CHECKPOINT_AGE) };
        Some(at.saturating_sub(now))
    }
}
