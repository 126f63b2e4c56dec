//! Durable records that no checkpoint covers yet, and the time of the next checkpoint.

use std::time::Duration;

/// The minimum interval between checkpoints, except at a close.
pub(super) const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// With this many waiting records, a checkpoint waits neither for more bytes nor for its age.
const CHECKPOINT_RECORDS: usize = 1024;
/// A checkpoint writes the bundle that is not full again. It waits until this many times the
/// bundle's bytes are new, so that the rewrite stays a small part of the work.
const CHECKPOINT_GROWTH: usize = 3;
/// The maximum age of a record without a checkpoint.
const CHECKPOINT_AGE: Duration = Duration::from_secs(300);
/// The interval of retries of a checkpoint or reserve that found the disk full.
pub(super) const ROOM_EVERY: Duration = Duration::from_secs(1);
/// The interval of retries of a checkpoint that found another resource short.
pub(super) const SHORT_EVERY: Duration = Duration::from_millis(100);
/// The maximum of bytes that wait for a checkpoint. At this limit the journal waits too.
pub(super) const PENDING_BYTES_MAX: usize = 64 << 20;

/// The number of bytes of all these records.
pub(super) fn bytes_of(records: &[Vec<u8>]) -> usize {
    records.iter().map(Vec::len).sum()
}

/// Durable records that no checkpoint covers yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) records: Vec<Vec<u8>>,
    pub(super) bytes: usize,
    /// The monotonic time since which the oldest of them waits.
    pub(super) since: Option<Duration>,
    /// Bytes of the bundle that is not full.
    pub(super) ragged: usize,
    /// The earliest monotonic time of the next checkpoint.
    pub(super) not_before: Duration,
    /// A caller has requested a checkpoint.
    pub(super) wanted: bool,
}

impl Pending {
    /// The time until a checkpoint is due; `None` where no record waits.
    pub(super) fn due_in(&self, now: Duration, closing: bool) -> Option<Duration> {
        let since = self.since?;
        // At a close the checkpoint is due at once, even after a shortage: the process is about to
        // end. Above the record limit, it waits at most [`ROOM_EVERY`].
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
