//! Pruning: removes the records of old epochs, and checks that the state does not need them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cache::Cache;
use super::epoch::EpochFolder;
use super::remains::{self, Records};
use super::{LogFault, LogSettings};
use crate::audit::format::envelope::Envelope;
use crate::audit::format::note::peek;
use crate::audit::read::reader;
use crate::audit::read::tiles::{self, Tiles, epoch_name};
use crate::clock::Timestamp;
use crate::durable;
use crate::merkle::proof::tree_at;
use crate::merkle::tile::{Tile, WIDTH};

/// A closed epoch that is old and not pruned yet.
#[derive(Clone, Debug)]
pub struct Old {
    /// Its number.
    pub number: u32,
    /// Its folder.
    pub folder: PathBuf,
    /// Its number of records.
    pub size: u64,
}

/// A log that no gateway writes, locked for pruning.
pub struct Pruning<'s> {
    settings: &'s LogSettings,
    cache: Option<Cache>,
    _lock: durable::Lock,
}

impl<'s> Pruning<'s> {
    /// Takes the log's lock.
    ///
    /// # Errors
    /// When a gateway has the lock.
    pub fn begin(settings: &'s LogSettings) -> Result<Self, LogFault> {
        let (newest, folder) = match tiles::epochs(&settings.dir)?.pop() {
            Some(newest) => newest,
            None => (0, settings.dir.clone()),
        };
        let lock = folder.join("lock");
        let lock = durable::Lock::take(&lock)?.ok_or(LogFault::Locked(lock))?;
        sweep(settings)?;
        let cache = Cache::existing(&settings.cache);
        let pruning = Self { settings, cache, _lock: lock };
        pruning.keep_remains(newest)?;
        Ok(pruning)
    }

    /// Writes the remains file of each pruned epoch, where only the cache has its records.
    fn keep_remains(&self, newest: u32) -> Result<(), LogFault> {
        let reach = self.reach(newest)?;
        for (number, folder) in tiles::epochs(&self.settings.dir)? {
            if number < reach
                && tiles::is_pruned(&folder)
                && !remains::is_whole(&remains::file(&self.settings.cache, number))
                && let Some(records) = self.cached(number)
            {
                remains::write(self.settings, number, &records)?;
            }
        }
        Ok(())
    }

    /// The cache's records of an epoch; `None` where the cache cannot be read.
    fn cached(&self, number: u32) -> Option<Records> {
        let mut found = Records::new();
        let read = self.cache.as_ref()?.controls(|epoch, index, bytes| {
            if epoch == number {
                found.insert(index, bytes.to_vec());
            }
            Ok::<_, LogFault>(())
        });
        matches!(read, Ok(Ok(()))).then_some(found)
    }

    /// The epochs, from the oldest, whose records are all older than `before`. The list ends at the
    /// first epoch that may not be pruned. Such epochs have a loss, or state a loss of another
    /// epoch in their first record, or are not covered by the cache.
    ///
    /// # Errors
    /// When the epochs cannot be read.
    pub fn old(&self, before: Timestamp) -> Result<Vec<Old>, LogFault> {
        let mut found = Vec::new();
        let epochs = tiles::epochs(&self.settings.dir)?;
        let Some(((newest, _), closed)) = epochs.split_last() else { return Ok(found) };
        let reach = self.reach(*newest)?;
        for (number, folder) in closed {
            if tiles::is_pruned(folder) {
                continue;
            }
            let size = self.signed(*number, folder)?;
            let (segments, _) = tiles::segments(&folder.join("journal"))?;
            // A lost epoch has no verifiable tree, and its first record alone proves the loss. Both
            // must stay.
            let lost = self.is_lost(*number);
            if size == 0
                || lost
                || !segments.is_empty()
                || *number >= reach
                || !self.may_go(*number, folder, size, before)?
            {
                break;
            }
            found.push(Old { number: *number, folder: folder.clone(), size });
        }
        Ok(found)
    }

    /// Whether the next epoch states a loss of this one, or cannot be read.
    fn is_lost(&self, number: u32) -> bool {
        let Ok(epochs) = reader::epochs(&self.settings.dir) else { return true };
        let next = epochs.iter().find(|epoch| epoch.number == number + 1);
        next.is_some_and(|next| reader::one(next, 0).map_or(true, |record| says_loss(&record)))
    }

    /// The size of the epoch's verified checkpoint; 0 where there is none.
    fn signed(&self, number: u32, folder: &Path) -> Result<u64, LogFault> {
        let Some(note) = tiles::checkpoint_note(folder)? else { return Ok(0) };
        let keys = EpochFolder::new(self.settings, number)?.known_keys(self.settings)?;
        let path = folder.join("checkpoint");
        Ok(keys.open(&note).map_err(|fault| LogFault::note(&path, fault))?.size)
    }

    /// The number of the epoch in which the cache ends. It covers all epochs before. 0 where the
    /// cache is not of this log.
    fn reach(&self, newest: u32) -> Result<u32, LogFault> {
        let Some(cache) = &self.cache else { return Ok(0) };
        let Some(stamp) = cache.stamp() else { return Ok(0) };
        if stamp.epoch > newest {
            return Ok(0);
        }
        let folder = self.settings.dir.join(epoch_name(stamp.epoch));
        let size = self.signed(stamp.epoch, &folder)?;
        let same = size >= stamp.size
            && tree_at(&mut Tiles::new(&folder, size), stamp.size)?.root() == stamp.root;
        Ok(if same { stamp.epoch } else { 0 })
    }

    /// Whether all records of that epoch are old enough, and the cache has all of them that the
    /// state needs.
    fn may_go(
        &self,
        number: u32,
        folder: &Path,
        size: u64,
        before: Timestamp,
    ) -> Result<bool, LogFault> {
        let Some(kept) = self.cached(number) else { return Ok(false) };
        let mut tiles = Tiles::new(folder, size);
        for index in 0..size {
            let bytes = tiles.record(index)?;
            let envelope =
                Envelope::read(&bytes).map_err(|fault| LogFault::record(number, index, fault))?;
            // The record of a loss stays in the log, so that every verifier can find it.
            if envelope.kind == "epoch" && says_loss(&bytes) {
                return Ok(false);
            }
            let at = envelope.moment().map_err(|fault| LogFault::record(number, index, fault))?;
            if at >= before {
                return Ok(false);
            }
            if !envelope.is_transient() && kept.get(&index) != Some(&bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the records of that epoch, and the full tiles above them. The checkpoint's root is
    /// computed without these tiles.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn take_away(&self, old: &Old) -> Result<(), LogFault> {
        // The remains file is written first. Without it no cache could be rebuilt.
        let Some(records) = self.cached(old.number) else {
            return Err(LogFault::Pruned {
                epoch: epoch_name(old.number),
                cache: self.settings.cache.clone(),
            });
        };
        remains::write(self.settings, old.number, &records)?;
        let tmp = self.settings.dir.join("tmp");
        durable::make_private_dir(&tmp)?;
        let (entries, temporary) = (
            old.folder.join("tile/entries"),
            tmp.join(format!("pruned-{}", epoch_name(old.number))),
        );
        // One rename removes all records at once: an epoch has all its records or none. A folder of
        // an earlier try has the same records.
        let _ = fs::remove_dir_all(&temporary);
        fs::rename(&entries, &temporary).map_err(durable::DiskFault::of("move", &entries))?;
        durable::sync_dir(&old.folder.join("tile"))?;
        durable::sync_dir(&tmp)?;
        // Crash here: a pruned epoch with unneeded tiles, and a folder in tmp. The next run removes
        // both.
        finish(&temporary, &old.folder, old.size)
    }
}

/// Whether the first record of an epoch states a loss of the previous epoch.
pub(super) fn says_loss(record: &[u8]) -> bool {
    String::from_utf8_lossy(record).contains(r#""reason":"after-loss: "#)
}

/// Removes the moved records, and the full tiles of hashes. The checkpoint's root is computed
/// without these tiles.
fn finish(temporary: &Path, epoch: &Path, size: u64) -> Result<(), LogFault> {
    for level in 0..7_u8 {
        for index in 0..(size >> (8 * (u32::from(level) + 1))) {
            let path = epoch.join(Tile { level: Some(level), index, width: WIDTH }.path());
            removed(&path, fs::remove_file(&path))?;
        }
    }
    // The folder is removed last: while it exists, the run counts as interrupted.
    Ok(removed(temporary, fs::remove_dir_all(temporary))?)
}

/// The result of the removal of `path`. A missing file was removed by an earlier, interrupted run.
fn removed(path: &Path, done: io::Result<()>) -> Result<(), durable::DiskFault> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(durable::DiskFault::of("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The size that an epoch's checkpoint states; 0 where it cannot be decoded. Its signature is not
/// checked.
fn stated_size(epoch: &Path) -> Result<u64, LogFault> {
    let Some(note) = tiles::checkpoint_note(epoch)? else { return Ok(0) };
    let Ok(checkpoint) = peek(&note) else { return Ok(0) };
    Ok(checkpoint.size)
}

/// Finishes a run that was interrupted.
fn sweep(settings: &LogSettings) -> Result<(), LogFault> {
    for (number, folder) in tiles::epochs(&settings.dir)? {
        if !tiles::is_pruned(&folder) {
            continue;
        }
        let temporary = settings.dir.join("tmp").join(format!("pruned-{}", epoch_name(number)));
        if temporary.exists() {
            finish(&temporary, &folder, stated_size(&folder)?)?;
        }
    }
    Ok(())
}
