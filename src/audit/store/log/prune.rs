//! Old epochs without their records: what is removed, and that the books lose nothing by it.

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

/// A closed epoch, old and not pruned yet.
#[derive(Clone, Debug)]
pub struct Old {
    /// Its number.
    pub number: u32,
    /// Its folder.
    pub folder: PathBuf,
    /// How many records it has.
    pub size: u64,
}

/// A log that no gateway writes.
pub struct Pruning<'s> {
    settings: &'s LogSettings,
    cache: Option<Cache>,
    _lock: durable::Lock,
}

impl<'s> Pruning<'s> {
    /// Takes the log's lock.
    ///
    /// # Errors
    /// When a gateway has it.
    pub fn begin(settings: &'s LogSettings) -> Result<Self, LogFault> {
        let (newest, folder) =
            tiles::epochs(&settings.dir)?.pop().unwrap_or_else(|| (0, settings.dir.clone()));
        let lock = folder.join("lock");
        let lock = durable::Lock::take(&lock)?.ok_or(LogFault::Locked(lock))?;
        sweep(settings)?;
        let cache = if settings.cache.exists() { Cache::open(&settings.cache, true) } else { None };
        let pruning = Self { settings, cache, _lock: lock };
        pruning.keep_remains(newest)?;
        Ok(pruning)
    }

    /// Writes what the books need of pruned epochs, where the cache alone has it.
    fn keep_remains(&self, newest: u32) -> Result<(), LogFault> {
        let reach = self.reach(newest)?;
        for (number, folder) in tiles::epochs(&self.settings.dir)? {
            let is_missing = || !remains::is_whole(&remains::file(&self.settings.cache, number));
            if number < reach
                && tiles::is_pruned(&folder)
                && is_missing()
                && let Some(records) = self.cached(number)
            {
                remains::write(self.settings, number, &records)?;
            }
        }
        Ok(())
    }

    /// What the cache has of an epoch; `None` where it cannot be read.
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

    /// The epochs, from the oldest on, all of whose records are from before `before`. It ends at the first that may not be
    /// pruned: one of which something was lost, or whose first record alone says that; and one that the cache does not cover.
    ///
    /// # Errors
    /// When they cannot be read.
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

    /// Whether the epoch behind that one says that something of it was lost, or cannot be read.
    fn is_lost(&self, number: u32) -> bool {
        let Ok(epochs) = reader::epochs(&self.settings.dir) else { return true };
        let next = epochs.iter().find(|epoch| epoch.number == number + 1);
        next.is_some_and(|next| reader::one(next, 0).map_or(true, |record| says_loss(&record)))
    }

    fn signed(&self, number: u32, folder: &Path) -> Result<u64, LogFault> {
        let Some(note) = tiles::checkpoint_note(folder)? else { return Ok(0) };
        let keys = EpochFolder::new(self.settings, number)?.known_keys(self.settings)?;
        let path = folder.join("checkpoint");
        Ok(keys.open(&note).map_err(|fault| LogFault::Note { path, fault })?.size)
    }

    /// The epoch in which the cache ends: it has all before that. 0 where it is not of this log.
    fn reach(&self, newest: u32) -> Result<u32, LogFault> {
        let stamp =
            self.cache.as_ref().and_then(Cache::stamp).filter(|stamp| stamp.epoch <= newest);
        let Some(stamp) = stamp else { return Ok(0) };
        let folder = self.settings.dir.join(epoch_name(stamp.epoch));
        let size = self.signed(stamp.epoch, &folder)?;
        let same = size >= stamp.size
            && tree_at(&mut Tiles::new(&folder, size), stamp.size)?.root() == stamp.root;
        Ok(if same { stamp.epoch } else { 0 })
    }

    /// Whether all records of that epoch are old enough, and the cache has every one that the books are made of.
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
            let fault = |fault| LogFault::Record { epoch: epoch_name(number), index, fault };
            let envelope = Envelope::read(&bytes).map_err(fault)?;
            let loss = envelope.kind == "epoch" && says_loss(&bytes);
            if loss || envelope.moment().map_err(fault)? >= before {
                return Ok(false);
            }
            if !envelope.is_transient() && kept.get(&index) != Some(&bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the records of that epoch away, and the full tiles over them, of which the checkpoint's root does not need one.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn take_away(&self, old: &Old) -> Result<(), LogFault> {
        // First: without it no cache could be made anew.
        let records = self.cached(old.number).ok_or_else(|| LogFault::Pruned {
            epoch: epoch_name(old.number),
            cache: self.settings.cache.clone(),
        })?;
        remains::write(self.settings, old.number, &records)?;
        let tmp = self.settings.dir.join("tmp");
        durable::make_private_dir(&tmp)?;
        let (entries, temporary) = (
            old.folder.join("tile/entries"),
            tmp.join(format!("pruned-{}", epoch_name(old.number))),
        );
        // All at once: an epoch has its records or it has none. What a former try has left is of the same records.
        let _ = fs::remove_dir_all(&temporary);
        fs::rename(&entries, &temporary).map_err(durable::DiskFault::of("move", &entries))?;
        durable::sync_dir(&old.folder.join("tile"))?;
        durable::sync_dir(&tmp)?;
        // Crash here: an epoch that is pruned, with tiles that it does not need, and a folder in tmp. The next run sweeps.
        finish(&temporary, &old.folder, old.size)
    }
}

/// Whether the first record of an epoch says that something was lost of the one before.
pub(super) fn says_loss(record: &[u8]) -> bool {
    String::from_utf8_lossy(record).contains(r#""reason":"after-loss: "#)
}

/// Removes what was moved aside, and the full tiles of hashes, of which the checkpoint's root does not need one.
fn finish(temporary: &Path, epoch: &Path, size: u64) -> Result<(), LogFault> {
    let gone = |path: &Path, done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(durable::DiskFault::of("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    };
    for level in 0..7_u8 {
        for index in 0..(size >> (8 * (u32::from(level) + 1))) {
            let path = epoch.join(Tile { level: Some(level), index, width: WIDTH }.path());
            gone(&path, fs::remove_file(&path))?;
        }
    }
    // Last: as long as it is there, a run was interrupted.
    Ok(gone(temporary, fs::remove_dir_all(temporary))?)
}

/// Finishes what an interrupted run has left.
fn sweep(settings: &LogSettings) -> Result<(), LogFault> {
    for (number, folder) in
        tiles::epochs(&settings.dir)?.into_iter().filter(|(_, folder)| tiles::is_pruned(folder))
    {
        let temporary = settings.dir.join("tmp").join(format!("pruned-{}", epoch_name(number)));
        if temporary.exists() {
            let size = tiles::checkpoint_note(&folder)?
                .and_then(|note| peek(&note).ok())
                .map_or(0, |checkpoint| checkpoint.size);
            finish(&temporary, &folder, size)?;
        }
    }
    Ok(())
}
