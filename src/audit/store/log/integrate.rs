//! The checkpointer's thread: writes the journal's records into tiles under a signed checkpoint.
//!
//! ```text
//! sign → note in the head, synced → tiles written and synced → `checkpoint` renamed, folder synced
//!      → journal trimmed
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::epoch::EpochFolder;
use super::queue::{CheckpointerEnd, SharedQueue};
use super::shortage::LogThread;
use super::{LogFault, LogSettings, checkpoint_files};
use crate::audit::format::envelope::Envelope;
use crate::audit::format::head::HeadNote;
use crate::audit::format::note::{Checkpoint, LogSigner};
use crate::durable::{self, Disk, Identity};
use crate::failpoint::{Failpoint, is_armed};
use crate::merkle::tile::{Edge, Tile, bundle_push, tile_bytes};

/// Runs until the log has ended or failed.
pub(super) fn run(shared: &SharedQueue, checkpointer: Checkpointer) {
    let _end = CheckpointerEnd(shared);
    // Dropped before `_end` reports the end: a caller that waits for it may open the cache.
    let mut checkpointer = checkpointer;
    while let Some(records) = shared.due() {
        match checkpointer.sign_checkpoint(&records, None) {
            Ok(()) => {
                shared.checkpointed(checkpointer.size(), checkpointer.bundle.len());
                if let Err(fault) = checkpointer.trim(shared) {
                    return shared.fail(fault);
                }
            }
            // The records stay in the journal. The next checkpoint tries again.
            Err(fault) => match fault.shortage() {
                Some(shortage) => shared.not_checkpointed(records, shortage),
                None => return shared.fail(fault),
            },
        }
    }
    checkpointer.end();
}

/// The state from one checkpoint to the next.
pub(super) struct Checkpointer {
    pub(super) disk: Arc<dyn Disk>,
    /// The epoch's folder.
    pub(super) epoch: PathBuf,
    /// The epoch's number.
    pub(super) number: u32,
    /// The folder of files that are renamed later.
    pub(super) tmp: PathBuf,
    pub(super) origin: String,
    pub(super) signer: LogSigner,
    pub(super) head: File,
    pub(super) head_path: PathBuf,
    /// The number of notes that were written to the head.
    pub(super) notes: u64,
    /// The right edge of the tree that the checkpoint covers.
    pub(super) edge: Edge,
    /// The records of the bundle that is not full.
    pub(super) bundle: Vec<u8>,
    pub(super) cache: Option<Cache>,
    /// The files that the checkpoint depends on.
    pub(super) checkpoint_files: Vec<Identity>,
    /// The queue of the log that is being written; `None` while the log is opened.
    pub(super) shared: Option<Arc<SharedQueue>>,
}

/// A file of a checkpoint, and its content.
type Planned = (Tile, Vec<u8>);

impl Checkpointer {
    /// Continues `epoch` from the right edge of its tree, with the head's file and its number of
    /// notes.
    pub(super) fn new(
        settings: &LogSettings,
        epoch: &EpochFolder,
        disk: Arc<dyn Disk>,
        signer: LogSigner,
        (head, notes): (File, u64),
        (edge, bundle): (Edge, Vec<u8>),
    ) -> Self {
        Self {
            disk,
            epoch: epoch.folder.clone(),
            number: epoch.number,
            tmp: settings.dir.join("tmp"),
            origin: epoch.origin.clone(),
            signer,
            head,
            head_path: settings.head.clone(),
            notes,
            edge,
            bundle,
            cache: None,
            checkpoint_files: Vec::new(),
            shared: None,
        }
    }

    /// The number of records under the checkpoint.
    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Adds `records` to the tree, under the checkpoint `note` or a new one.
    pub(super) fn sign_checkpoint(
        &mut self,
        records: &[Vec<u8>],
        note: Option<&str>,
    ) -> Result<(), LogFault> {
        // A signature over lost records would hide the loss.
        checkpoint_files::check(&self.checkpoint_files)?;
        let (mut edge, mut bundle) = (self.edge.clone(), self.bundle.clone());
        let mut planned: Vec<Planned> = Vec::new();
        for record in records {
            bundle_push(&mut bundle, record);
            for full in edge.push(record) {
                if full.level == 0 {
                    let tile = Tile { level: None, index: full.index, width: 256 };
                    planned.push((tile, std::mem::take(&mut bundle)));
                }
                let tile = Tile { level: Some(full.level), index: full.index, width: 256 };
                planned.push((tile, tile_bytes(&full.hashes)));
            }
        }
        let partial = edge.partial().map(|(tile, hashes)| (tile, tile_bytes(hashes)));
        planned.extend(partial);
        let ragged = Tile::partial(edge.size()).into_iter().filter(|tile| tile.level.is_none());
        planned.extend(ragged.map(|tile| (tile, bundle.clone())));
        let checkpoint =
            Checkpoint { origin: self.origin.clone(), size: edge.size(), root: edge.tree().root() };
        let note = match note {
            // Crash before this: the journal alone. After it, the head's note states what to
            // finish, with the same bytes.
            Some(note) => note.to_owned(),
            None => {
                let note = self.signer.sign(&checkpoint)?;
                self.keep_note(&note)?;
                note
            }
        };
        // A rewrite of a tile with the same name would make it empty for a moment. A crash then
        // would damage a checkpoint that needs it.
        let before = Tile::partial(self.edge.size());
        let now: BTreeSet<Tile> = planned.iter().map(|(tile, _)| *tile).collect();
        planned.retain(|(tile, _)| !before.contains(tile));
        // A fault for tests: a checkpoint that is visible before its tiles.
        if is_armed(Failpoint::CheckpointBeforeTiles) {
            self.publish(&note)?;
        }
        // Crash here: the head has a note that the checkpoint has not. A start writes the following
        // files again, from the journal.
        self.release(&[]);
        let published = self.write_files(&planned).and_then(|written| {
            // Crash here: tiles that no checkpoint covers yet. A start writes them again.
            self.publish(&note)?;
            Ok(written)
        });
        let written = published.inspect_err(|fault| {
            if fault.shortage().is_some() {
                self.give_up(&planned);
                self.release(&self.checkpoint_files);
            }
        })?;
        // Crash here: partial tiles of the previous checkpoint, and a journal that begins too
        // early. A start removes both.
        for tile in before.into_iter().filter(|tile| !now.contains(tile)) {
            self.patiently(|| self.take_away(tile))?;
        }
        // Checked while the journal still has a second copy of the records.
        self.checkpoint_files = self.patiently(|| {
            checkpoint_files::check(&written)?;
            let now = checkpoint_files::look(&self.epoch, edge.size())?;
            checkpoint_files::same_folders(&self.checkpoint_files, &now)?;
            Ok(now)
        })?;
        self.release(&self.checkpoint_files);
        self.remember(records, &checkpoint);
        (self.edge, self.bundle) = (edge, bundle);
        Ok(())
    }

    /// Repeats a step that may not be skipped while a resource is short. While the log is opened, a
    /// shortage ends the start instead.
    fn patiently<T>(&self, step: impl FnMut() -> Result<T, LogFault>) -> Result<T, LogFault> {
        let mut step = step;
        match &self.shared {
            Some(shared) => shared.patiently(LogThread::Checkpointer, step),
            None => step(),
        }
    }

    /// Replaces the list of checkpoint files that the watch checks.
    fn release(&self, checkpoint_files: &[Identity]) {
        if let Some(shared) = &self.shared {
            shared.lock().checkpoint_files = checkpoint_files.to_vec();
        }
    }

    /// Removes the partial tiles of a checkpoint that failed. The next checkpoint has others.
    fn give_up(&self, planned: &[Planned]) {
        for (tile, _) in planned.iter().filter(|(tile, _)| tile.width < 256) {
            // The next start removes a tile that stays.
            let _ = self.take_away(*tile);
        }
    }

    /// Writes the note into the head, in the slot that the older note has, and syncs it.
    fn keep_note(&mut self, note: &str) -> Result<(), LogFault> {
        let kept = HeadNote { note: note.to_owned(), write: self.notes + 1 };
        let write = self.disk.write(&self.head, &kept.encode(), kept.offset());
        write.and_then(|()| self.disk.sync(&self.head)).map_err(step("write", &self.head_path))?;
        self.notes += 1;
        Ok(())
    }

    /// Writes the files of a checkpoint. Returns their identities.
    fn write_files(&self, planned: &[Planned]) -> Result<Vec<Identity>, LogFault> {
        let mut folders = BTreeSet::new();
        let mut open = Vec::with_capacity(planned.len());
        for (tile, bytes) in planned {
            let path = self.epoch.join(tile.path());
            self.make_folders(&path, &mut folders)?;
            let written = self
                .disk
                .create(&path)
                .and_then(|file| self.disk.write(&file, bytes, 0).map(|()| file));
            open.push((written.map_err(step("write", &path))?, path));
        }
        // All writes are issued before the first sync, so that the disk can do them together.
        for (file, path) in open.iter().filter(|_| !is_armed(Failpoint::TilesNotSynced)) {
            self.disk.sync(file).map_err(step("sync", path))?;
        }
        for folder in folders.into_iter().filter(|_| !is_armed(Failpoint::NamesNotSynced)) {
            self.disk.sync_dir(&folder).map_err(step("sync", &folder))?;
        }
        open.iter()
            .map(|(file, path)| Identity::of(file, path).map_err(LogFault::of_step))
            .collect()
    }

    /// Makes the folders from the epoch's folder down to `path`. Adds all folders with new names to
    /// `folders`, for a sync.
    fn make_folders(&self, path: &Path, folders: &mut BTreeSet<PathBuf>) -> Result<(), LogFault> {
        let above: Vec<&Path> =
            path.ancestors().skip(1).take_while(|folder| *folder != self.epoch).collect();
        if let Some(parent) = above.first()
            && !parent.is_dir()
        {
            for folder in above.iter().rev() {
                self.disk.make_dir(folder).map_err(step("make", folder))?;
            }
            folders.insert(self.epoch.clone());
            folders.extend(above.iter().map(|folder| (*folder).to_owned()));
        }
        folders.extend(above.first().map(|parent| (*parent).to_owned()));
        Ok(())
    }

    /// Writes the checkpoint with the note, by an atomic rename.
    fn publish(&self, note: &str) -> Result<(), LogFault> {
        let (temporary, path) = (self.tmp.join("checkpoint"), self.epoch.join("checkpoint"));
        // The folder has only temporary files. It is made again if it was removed.
        self.disk.make_dir(&self.tmp).map_err(step("make", &self.tmp))?;
        let written = self.disk.create(&temporary).and_then(|file| {
            self.disk.write(&file, note.as_bytes(), 0)?;
            self.disk.sync(&file)
        });
        written.map_err(step("write", &temporary))?;
        self.disk.rename(&temporary, &path).map_err(step("replace", &path))?;
        // The checkpoint is visible from here on, so its files stay: a failed sync is retried, and
        // the tiles are not removed.
        self.patiently(|| self.disk.sync_dir(&self.epoch).map_err(step("sync", &self.epoch)))
    }

    /// Removes a partial tile of a former checkpoint, and its folder if that is empty then.
    pub(super) fn take_away(&self, tile: Tile) -> Result<(), LogFault> {
        let path = self.epoch.join(tile.path());
        self.disk.unlink(&path).map_err(step("remove", &path))?;
        if let Some(folder) = path.parent() {
            // The folder stays where another partial tile is in it.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Removes the journal's segments below the checkpoint.
    fn trim(&self, shared: &SharedQueue) -> Result<(), LogFault> {
        for path in shared.trimmable(self.size()) {
            self.patiently(|| self.disk.unlink(&path).map_err(step("remove", &path)))?;
        }
        Ok(())
    }

    /// Adds the records that the state is folded from to the cache, for the next start.
    fn remember(&mut self, records: &[Vec<u8>], checkpoint: &Checkpoint) {
        // The cache comes last: a crash before this only makes the next start read more of the log.
        let Some(cache) = &mut self.cache else { return };
        let first = checkpoint.size - records.len() as u64;
        let control = |record: &Vec<u8>| {
            Envelope::read(record).is_ok_and(|envelope| !envelope.is_transient())
        };
        let controls = (first..).zip(records).filter(|(_, record)| control(record));
        cache.add(
            self.number,
            controls.map(|(index, record)| (index, record.as_slice())),
            checkpoint,
        );
    }

    /// Syncs the cache at the end of the thread.
    pub(super) fn end(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.settle();
        }
    }
}

/// The fault of a step that may be retried where a resource is short.
fn step(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogFault {
    let fault = durable::DiskFault::of(doing, path);
    move |error| LogFault::of_step(fault(error))
}
