//! The watch's thread: detects changed files, and a sync that does not return.

use std::fs;
use std::io;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use super::pending::ROOM_EVERY;
use super::queue::{QueueState, SharedQueue};
use super::{CHECKPOINT_MAX, LogFault, SYNC_MAX};
use crate::durable::{self, Changed};
use crate::merkle::tile::{Tile, WIDTH};

/// The interval of the checks of the files and the running sync.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Full tiles that each check covers: all of a million records within 16 seconds.
const TILES_AT_ONCE: u64 = 64;

impl SharedQueue {
    /// The watch's loop. Files that another program changes, and a sync that does not return, fail
    /// the log.
    pub(super) fn watch(&self) {
        let _end = WatchEnd(self);
        let (mut looked, mut place) = (None, 0);
        loop {
            let running = |inner: &mut QueueState| !inner.over();
            let waited = self.over.wait_timeout_while(self.lock(), WATCH_EVERY, running);
            let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if inner.over() {
                return;
            }
            // The files are copied, and checked without the lock: a check may block on a slow disk.
            let now = self.clock.monotonic();
            let longer = |since: Option<Duration>, most| {
                since.is_some_and(|since| now.saturating_sub(since) > most)
            };
            let hung = longer(inner.writing_since, SYNC_MAX)
                || longer(inner.checkpoint_since, CHECKPOINT_MAX);
            let mut watched = inner.watched.clone();
            watched.extend(inner.segments.iter().map(|(_, segment)| segment.clone()));
            watched.extend(inner.checkpoint_files.iter().cloned());
            let signed = inner.state.signed;
            drop(inner);
            if looked.is_none_or(|at| now.saturating_sub(at) > ROOM_EVERY) {
                looked = Some(now);
                self.take_room();
            }
            // A segment that is missing may have been trimmed since the copy.
            let ours = |file: &durable::Identity| {
                let inner = self.lock();
                inner.watched.contains(file)
                    || inner.checkpoint_files.contains(file)
                    || inner.segments.iter().any(|(_, segment)| segment == file)
            };
            // A check that fails for a shortage proves no change.
            let changed = watched.iter().find_map(|file| {
                file.check().err().filter(|changed| !changed.passes() && ours(file))
            });
            let changed = changed.or_else(|| self.missing_tile(signed, &mut place));
            self.vkeys.keep();
            // Reads the clock, so that each step of it is noticed even while no event is recorded.
            let _ = self.clock.now();
            if let Some(fault) = hung.then_some(LogFault::Hung).or(changed.map(LogFault::from)) {
                self.fail(fault);
            }
        }
    }

    /// A full tile or bundle under a checkpoint of `signed` records that is missing. Each call
    /// checks some of them, beginning after `place`.
    fn missing_tile(&self, signed: u64, place: &mut u64) -> Option<Changed> {
        let full = signed / WIDTH;
        for _ in 0..TILES_AT_ONCE.min(full) {
            *place = (*place + 1) % full;
            let bundle = Tile { level: None, index: *place, width: WIDTH };
            // A tile of each level above the bundle, but only full ones: partial tiles are replaced
            // by checkpoints.
            let above = (0..7_u8).map(|level| (level, *place >> (8 * u32::from(level))));
            let above =
                above.filter(|(level, index)| *index < signed >> (8 * (u32::from(*level) + 1)));
            let above =
                above.map(|(level, index)| Tile { level: Some(level), index, width: WIDTH });
            for tile in std::iter::once(bundle).chain(above) {
                let path = self.epoch.join(tile.path());
                let gone = fs::symlink_metadata(&path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if gone {
                    return Some(Changed::Missing(path));
                }
            }
        }
        None
    }
}

/// Fails the log where the watch panics: without a watch, no process may write it.
struct WatchEnd<'a>(&'a SharedQueue);

impl Drop for WatchEnd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(LogFault::Stopped);
        }
    }
}
