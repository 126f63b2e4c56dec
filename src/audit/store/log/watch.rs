//! The watch's thread: detects changed files, and a sync that does not return.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use super::pending::ROOM_EVERY;
use super::queue::SharedQueue;
use super::{CHECKPOINT_MAX, LogFault, SYNC_MAX};
use crate::audit::store::locked::wait_at_most;
use crate::durable::{Changed, Identity};
use crate::merkle::tile::{Tile, WIDTH};

/// The interval of the checks of the files and the running sync.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Full tiles that each check covers: all of a million records within 16 seconds.
const TILES_AT_ONCE: u64 = 64;

/// Whether a step that began at `since` has run for longer than `most`. All times are monotonic.
fn is_longer(since: Option<Duration>, now: Duration, most: Duration) -> bool {
    match since {
        Some(since) => now.saturating_sub(since) > most,
        None => false,
    }
}

impl SharedQueue {
    /// The watch's loop. Files that another program changes, and a sync that does not return, fail
    /// the log.
    pub(super) fn watch(&self) {
        let _end = WatchEnd(self);
        let (mut looked, mut place) = (None, 0);
        loop {
            let inner = wait_at_most(&self.over, self.lock(), WATCH_EVERY, |inner| !inner.over());
            if inner.over() {
                return;
            }
            // The files are copied, and checked without the lock: a check may block on a slow disk.
            let now = self.clock.monotonic();
            let hung = is_longer(inner.writing_since, now, SYNC_MAX)
                || is_longer(inner.checkpoint_since, now, CHECKPOINT_MAX);
            let mut watched = inner.watched.clone();
            for (_, segment) in &inner.segments {
                watched.push(segment.clone());
            }
            watched.extend(inner.checkpoint_files.iter().cloned());
            let signed = inner.state.signed;
            drop(inner);
            if looked.is_none_or(|at| now.saturating_sub(at) > ROOM_EVERY) {
                looked = Some(now);
                self.take_room();
            }
            let changed = match self.changed_file(&watched) {
                None => self.missing_tile(signed, &mut place),
                changed => changed,
            };
            self.vkeys.keep();
            // Reads the clock, so that each step of it is noticed even while no event is recorded.
            let _ = self.clock.now();
            if hung {
                self.fail(LogFault::Hung);
            } else if let Some(changed) = changed {
                self.fail(changed.into());
            }
        }
    }

    /// The change of one of these files that is still a file of the log.
    fn changed_file(&self, watched: &[Identity]) -> Option<Changed> {
        for file in watched {
            // A check that fails for a shortage proves no change.
            if let Err(changed) = file.check()
                && !changed.passes()
                && self.is_ours(file)
            {
                return Some(changed);
            }
        }
        None
    }

    /// Whether that file is still a file of the log. A segment may have been trimmed since the list
    /// was copied.
    fn is_ours(&self, file: &Identity) -> bool {
        let inner = self.lock();
        inner.watched.contains(file)
            || inner.checkpoint_files.contains(file)
            || inner.segments.iter().any(|(_, segment)| segment == file)
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
            let mut tiles = vec![bundle];
            for level in 0..7_u8 {
                let index = *place >> (8 * u32::from(level));
                if index < signed >> (8 * (u32::from(level) + 1)) {
                    tiles.push(Tile { level: Some(level), index, width: WIDTH });
                }
            }
            for tile in tiles {
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
