//! The sealer's thread: what is durable in the journal goes into tiles under a signed checkpoint.
//!
//! ```text
//! sign → note in the head, synced → tiles written and synced → `checkpoint` renamed, folder synced → journal trimmed
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

/// Runs until the log is over.
pub(super) fn run(shared: &SharedQueue, checkpointer: Checkpointer) {
    let _end = CheckpointerEnd(shared);
    // Dropped before the end is told: who waited for it may open the cache.
    let mut checkpointer = checkpointer;
    while let Some(records) = shared.due() {
        match checkpointer.sign_checkpoint(&records, None) {
            Ok(()) => {
                shared.checkpointed(checkpointer.size(), checkpointer.bundle.len());
                if let Err(fault) = checkpointer.trim(shared) {
                    return shared.fail(fault);
                }
            }
            // The records stay in the journal, and are tried again.
            Err(fault) => match fault.shortage() {
                Some(shortage) => shared.not_checkpointed(records, shortage),
                None => return shared.fail(fault),
            },
        }
    }
    checkpointer.end();
}

/// What is needed to go from one checkpoint to the next.
pub(super) struct Checkpointer {
    pub(super) disk: Arc<dyn Disk>,
    /// The epoch's folder, and its number.
    pub(super) epoch: PathBuf,
    pub(super) number: u32,
    /// Where files are written before they are renamed.
    pub(super) tmp: PathBuf,
    pub(super) origin: String,
    pub(super) signer: LogSigner,
    pub(super) head: File,
    pub(super) head_path: PathBuf,
    /// How many notes the head has seen.
    pub(super) notes: u64,
    /// What the checkpoint covers.
    pub(super) edge: Edge,
    /// The records of the bundle that is not full.
    pub(super) bundle: Vec<u8>,
    pub(super) cache: Option<Cache>,
    /// What the checkpoint stands on.
    pub(super) checkpoint_files: Vec<Identity>,
    /// The log that is being written; none while it is opened.
    pub(super) shared: Option<Arc<SharedQueue>>,
}

/// A file that a checkpoint needs.
type Planned = (Tile, Vec<u8>);

impl Checkpointer {
    /// What goes on in `epoch` from the right edge of its tree on, with the head's file and how many notes that has seen.
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

    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Puts `records` behind what is there, under the checkpoint `note` or a new one.
    pub(super) fn sign_checkpoint(
        &mut self,
        records: &[Vec<u8>],
        note: Option<&str>,
    ) -> Result<(), LogFault> {
        // What the former checkpoint stands on must be there still: nothing is signed over what is gone.
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
            // Crash before this: the journal alone. The head's note says what to finish, with the same bytes.
            Some(note) => note.to_owned(),
            None => {
                let note = self.signer.sign(&checkpoint)?;
                self.keep_note(&note)?;
                note
            }
        };
        // What the former checkpoint covers under the same name holds the same hashes. It is left alone: written anew it would be
        // empty for a while, and a crash just then would take it from a checkpoint that needs it.
        let before = Tile::partial(self.edge.size());
        let now: BTreeSet<Tile> = planned.iter().map(|(tile, _)| *tile).collect();
        planned.retain(|(tile, _)| !before.contains(tile));
        if is_armed(Failpoint::CheckpointBeforeTiles) {
            self.publish(&note)?;
        }
        // Crash here: the head has a note that the checkpoint has not. A start writes what follows anew, from the journal.
        self.release(&[]);
        let published = self.write_files(&planned).and_then(|written| {
            // Crash here: tiles that no checkpoint covers yet. A start writes them anew.
            self.publish(&note)?;
            Ok(written)
        });
        let written = published.inspect_err(|fault| {
            if fault.shortage().is_some() {
                self.give_up(&planned);
                self.release(&self.checkpoint_files);
            }
        })?;
        // Crash here: partial tiles of the former checkpoint, and a journal that begins too early. A start takes them away.
        for tile in before.into_iter().filter(|tile| !now.contains(tile)) {
            self.patiently(|| self.take_away(tile))?;
        }
        // Asked before the journal behind the checkpoint goes.
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

    /// Does a step that cannot be put off, for as long as what it needs is short. While the log is opened that ends the start.
    fn patiently<T>(&self, step: impl FnMut() -> Result<T, LogFault>) -> Result<T, LogFault> {
        let mut step = step;
        match &self.shared {
            Some(shared) => shared.patiently(LogThread::Checkpointer, step),
            None => step(),
        }
    }

    /// From now on the watch looks after these, in the place of those that the former checkpoint stood on.
    fn release(&self, checkpoint_files: &[Identity]) {
        if let Some(shared) = &self.shared {
            shared.lock().checkpoint_files = checkpoint_files.to_vec();
        }
    }

    /// Takes away the partial tiles of a checkpoint that did not come to be: the next one has others.
    fn give_up(&self, planned: &[Planned]) {
        for (tile, _) in planned.iter().filter(|(tile, _)| tile.width < 256) {
            // What is left is taken away at the next start.
            let _ = self.take_away(*tile);
        }
    }

    fn keep_note(&mut self, note: &str) -> Result<(), LogFault> {
        let kept = HeadNote { note: note.to_owned(), write: self.notes + 1 };
        let write = self.disk.write(&self.head, &kept.encode(), kept.offset());
        write.and_then(|()| self.disk.sync(&self.head)).map_err(step("write", &self.head_path))?;
        self.notes += 1;
        Ok(())
    }

    /// Writes the files of a checkpoint, and gives what was written.
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
        // All are on their way before the first is waited for.
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

    /// Makes the folders above `path`, as far as the epoch's, and notes all whose names must be synced.
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

    /// Puts the note in the checkpoint's place.
    fn publish(&self, note: &str) -> Result<(), LogFault> {
        let (temporary, path) = (self.tmp.join("checkpoint"), self.epoch.join("checkpoint"));
        // It holds nothing for long: one that was taken away is made again.
        self.disk.make_dir(&self.tmp).map_err(step("make", &self.tmp))?;
        let written = self.disk.create(&temporary).and_then(|file| {
            self.disk.write(&file, note.as_bytes(), 0)?;
            self.disk.sync(&file)
        });
        written.map_err(step("write", &temporary))?;
        self.disk.rename(&temporary, &path).map_err(step("replace", &path))?;
        // From here on the checkpoint is there: what covers it stays.
        self.patiently(|| self.disk.sync_dir(&self.epoch).map_err(step("sync", &self.epoch)))
    }

    /// Takes a partial tile of a former checkpoint away, and its folder, which holds no other.
    pub(super) fn take_away(&self, tile: Tile) -> Result<(), LogFault> {
        let path = self.epoch.join(tile.path());
        self.disk.unlink(&path).map_err(step("remove", &path))?;
        if let Some(folder) = path.parent() {
            // It stays where another partial tile is in it.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Takes the journal's segments away that the checkpoint has made needless.
    fn trim(&self, shared: &SharedQueue) -> Result<(), LogFault> {
        for path in shared.trimmable(self.size()) {
            self.patiently(|| self.disk.unlink(&path).map_err(step("remove", &path)))?;
        }
        Ok(())
    }

    /// Keeps what the books are made of at hand for the next start.
    fn remember(&mut self, records: &[Vec<u8>], checkpoint: &Checkpoint) {
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

    /// The last word: what was remembered is on the disk.
    pub(super) fn end(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.settle();
        }
    }
}

/// The fault of a step that may be tried again where what it needs is short.
fn step(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogFault {
    let fault = durable::DiskFault::of(doing, path);
    move |error| LogFault::of_step(fault(error))
}
