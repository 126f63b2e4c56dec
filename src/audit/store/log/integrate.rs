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

use super::cache::{Cache, is_control};
use super::epoch::EpochFolder;
use super::queue::{CheckpointerEnd, SharedQueue};
use super::shortage::LogThread;
use super::steps::{step, write_synced};
use super::{LogFault, LogSettings, checkpoint_files};
use crate::audit::format::head::HeadNote;
use crate::audit::format::note::{Checkpoint, LogSigner};
use crate::durable::{Disk, Identity};
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
struct PlannedFile {
    tile: Tile,
    bytes: Vec<u8>,
}

/// The point from which a checkpointer continues an epoch.
pub(super) struct CheckpointStart {
    /// The head's file.
    pub(super) head: File,
    /// The number of notes in the head.
    pub(super) notes: u64,
    /// The right edge of the tree.
    pub(super) edge: Edge,
    /// The records of the bundle that is not full.
    pub(super) bundle: Vec<u8>,
}

/// Adds `records` to a tree with that right edge. Returns the files that this fills, and the
/// partial ones at the new edge.
fn plan(edge: &mut Edge, bundle: &mut Vec<u8>, records: &[Vec<u8>]) -> Vec<PlannedFile> {
    let mut planned = Vec::new();
    for record in records {
        bundle_push(bundle, record);
        for full in edge.push(record) {
            if full.level == 0 {
                let tile = Tile { level: None, index: full.index, width: 256 };
                planned.push(PlannedFile { tile, bytes: std::mem::take(bundle) });
            }
            let tile = Tile { level: Some(full.level), index: full.index, width: 256 };
            planned.push(PlannedFile { tile, bytes: tile_bytes(&full.hashes) });
        }
    }
    for (tile, hashes) in edge.partial() {
        planned.push(PlannedFile { tile, bytes: tile_bytes(hashes) });
    }
    for tile in Tile::partial(edge.size()) {
        if tile.level.is_none() {
            planned.push(PlannedFile { tile, bytes: bundle.clone() });
        }
    }
    planned
}

impl Checkpointer {
    /// Continues `epoch` from `start`.
    pub(super) fn new(
        settings: &LogSettings,
        epoch: &EpochFolder,
        disk: Arc<dyn Disk>,
        signer: LogSigner,
        start: CheckpointStart,
    ) -> Self {
        let CheckpointStart { head, notes, edge, bundle } = start;
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
        let mut planned = plan(&mut edge, &mut bundle, records);
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
        let now: BTreeSet<Tile> = planned.iter().map(|file| file.tile).collect();
        planned.retain(|file| !before.contains(&file.tile));
        // A fault for tests: a checkpoint that is visible before its tiles.
        if is_armed(Failpoint::CheckpointBeforeTiles) {
            self.publish(&note)?;
        }
        // Crash here: the head has a note that the checkpoint has not. A start writes the following
        // files again, from the journal.
        self.release(&[]);
        let written = match self.write_and_publish(&planned, &note) {
            Ok(written) => written,
            Err(fault) => {
                if fault.shortage().is_some() {
                    self.give_up(&planned);
                    self.release(&self.checkpoint_files);
                }
                return Err(fault);
            }
        };
        // Crash here: partial tiles of the previous checkpoint, and a journal that begins too
        // early. A start removes both.
        for tile in before {
            if !now.contains(&tile) {
                self.patiently(|| self.take_away(tile))?;
            }
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
    fn give_up(&self, planned: &[PlannedFile]) {
        for file in planned {
            if file.tile.width < 256 {
                // The next start removes a tile that stays.
                let _ = self.take_away(file.tile);
            }
        }
    }

    /// Writes the note into the head, in the slot that the older note has, and syncs it.
    fn keep_note(&mut self, note: &str) -> Result<(), LogFault> {
        let kept = HeadNote { note: note.to_owned(), write: self.notes + 1 };
        write_synced(&*self.disk, &self.head, &kept.encode(), kept.offset())
            .map_err(step("write", &self.head_path))?;
        self.notes += 1;
        Ok(())
    }

    /// Writes the files of a checkpoint, and then the checkpoint with the note. Returns the files'
    /// identities.
    fn write_and_publish(
        &self,
        planned: &[PlannedFile],
        note: &str,
    ) -> Result<Vec<Identity>, LogFault> {
        let written = self.write_files(planned)?;
        // Crash here: tiles that no checkpoint covers yet. A start writes them again.
        self.publish(note)?;
        Ok(written)
    }

    /// Writes the files of a checkpoint. Returns their identities.
    fn write_files(&self, planned: &[PlannedFile]) -> Result<Vec<Identity>, LogFault> {
        let mut folders = BTreeSet::new();
        let mut open = Vec::with_capacity(planned.len());
        for PlannedFile { tile, bytes } in planned {
            let path = self.epoch.join(tile.path());
            self.make_folders(&path, &mut folders)?;
            let file = self.create_with(&path, bytes).map_err(step("write", &path))?;
            open.push((file, path));
        }
        // All writes are issued before the first sync, so that the disk can do them together.
        for (file, path) in &open {
            if !is_armed(Failpoint::TilesNotSynced) {
                self.disk.sync(file).map_err(step("sync", path))?;
            }
        }
        for folder in folders {
            if !is_armed(Failpoint::NamesNotSynced) {
                self.disk.sync_dir(&folder).map_err(step("sync", &folder))?;
            }
        }
        let mut written = Vec::with_capacity(open.len());
        for (file, path) in &open {
            written.push(Identity::of(file, path).map_err(LogFault::of_step)?);
        }
        Ok(written)
    }

    /// Creates a file with that content, without a sync.
    fn create_with(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let file = self.disk.create(path)?;
        self.disk.write(&file, bytes, 0)?;
        Ok(file)
    }

    /// Makes the folders from the epoch's folder down to `path`. Adds all folders with new names to
    /// `folders`, for a sync.
    fn make_folders(&self, path: &Path, folders: &mut BTreeSet<PathBuf>) -> Result<(), LogFault> {
        let above: Vec<&Path> =
            path.ancestors().skip(1).take_while(|folder| *folder != self.epoch).collect();
        let Some(parent) = above.first() else { return Ok(()) };
        if !parent.is_dir() {
            for folder in above.iter().rev() {
                self.disk.make_dir(folder).map_err(step("make", folder))?;
            }
            folders.insert(self.epoch.clone());
            for folder in &above {
                folders.insert((*folder).to_owned());
            }
        }
        folders.insert((*parent).to_owned());
        Ok(())
    }

    /// Writes the checkpoint with the note, by an atomic rename.
    fn publish(&self, note: &str) -> Result<(), LogFault> {
        let (temporary, path) = (self.tmp.join("checkpoint"), self.epoch.join("checkpoint"));
        // The folder has only temporary files. It is made again if it was removed.
        self.disk.make_dir(&self.tmp).map_err(step("make", &self.tmp))?;
        let file =
            self.create_with(&temporary, note.as_bytes()).map_err(step("write", &temporary))?;
        self.disk.sync(&file).map_err(step("write", &temporary))?;
        drop(file);
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
        let mut controls = Vec::new();
        for (index, record) in (first..).zip(records) {
            if is_control(record) {
                controls.push((index, record));
            }
        }
        cache.add(self.number, controls, checkpoint);
    }

    /// Syncs the cache at the end of the thread.
    pub(super) fn end(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.settle();
        }
    }
}
