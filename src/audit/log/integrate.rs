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

use super::LogFault;
use super::cache::Cache;
use super::queue::{SealerEnd, Shared};
use crate::audit::head::HeadNote;
use crate::audit::note::{Checkpoint, LogSigner};
use crate::audit::outside::Outside;
use crate::durable::{self, Disk};
use crate::merkle::tile::{Edge, Tile, bundle_push, tile_bytes};
use crate::seeded::{Seed, has};

/// Runs until the log is over.
pub(super) fn run(shared: &Shared, sealer: Sealer) {
    let _end = SealerEnd(shared);
    // Dropped before the end is told: who waited for it may open the cache.
    let mut sealer = sealer;
    while let Some(records) = shared.due() {
        match sealer.seal(&records, None) {
            Ok(()) => {
                shared.checkpointed(sealer.size(), sealer.bundle.len());
                if let Err(fault) = sealer.trim(shared) {
                    return shared.fail(fault);
                }
            }
            // The records stay in the journal, and are tried again.
            Err(LogFault::NoSpace(fault)) => shared.not_checkpointed(records, &fault),
            Err(fault) => return shared.fail(fault),
        }
    }
    sealer.end();
}

/// What is needed to go from one checkpoint to the next.
pub(super) struct Sealer {
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
}

/// A file that a checkpoint needs.
type Planned = (Tile, Vec<u8>);

impl Sealer {
    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Puts `records` behind what is there, under the checkpoint `note` or a new one.
    pub(super) fn seal(&mut self, records: &[Vec<u8>], note: Option<&str>) -> Result<(), LogFault> {
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
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: edge.size(), root: edge.tree().root() };
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
        if has(Seed::CheckpointBeforeTiles) {
            self.publish(&note)?;
        }
        // Crash here: the head has a note that the checkpoint has not. A start writes what follows anew, from the journal.
        self.write_files(&planned)?;
        // Crash here: tiles that no checkpoint covers yet. A start writes them anew.
        self.publish(&note)?;
        // Crash here: partial tiles of the former checkpoint, and a journal that begins too early. A start takes them away.
        for tile in before.into_iter().filter(|tile| !now.contains(tile)) {
            self.take_away(tile)?;
        }
        self.remember(records, &checkpoint);
        (self.edge, self.bundle) = (edge, bundle);
        Ok(())
    }

    fn keep_note(&mut self, note: &str) -> Result<(), LogFault> {
        let kept = HeadNote { note: note.to_owned(), write: self.notes + 1 };
        let write = self.disk.write(&self.head, &kept.encode(), kept.offset());
        write.and_then(|()| self.disk.sync(&self.head)).map_err(durable::Fault::of("write", &self.head_path))?;
        self.notes += 1;
        Ok(())
    }

    fn write_files(&self, planned: &[Planned]) -> Result<(), LogFault> {
        let mut folders = BTreeSet::new();
        let mut open = Vec::with_capacity(planned.len());
        for (tile, bytes) in planned {
            let path = self.epoch.join(tile.path());
            self.make_folders(&path, &mut folders)?;
            let written = self.disk.create(&path).and_then(|file| self.disk.write(&file, bytes, 0).map(|()| file));
            open.push((written.map_err(|error| room(durable::Fault::of("write", &path)(error)))?, path));
        }
        // All are on their way before the first is waited for.
        for (file, path) in open.iter().filter(|_| !has(Seed::TilesNotSynced)) {
            self.disk.sync(file).map_err(|error| room(durable::Fault::of("sync", path)(error)))?;
        }
        for folder in folders.into_iter().filter(|_| !has(Seed::NamesNotSynced)) {
            self.disk.sync_dir(&folder).map_err(durable::Fault::of("sync", &folder))?;
        }
        Ok(())
    }

    /// Makes the folders above `path`, as far as the epoch's, and notes all whose names must be synced.
    fn make_folders(&self, path: &Path, folders: &mut BTreeSet<PathBuf>) -> Result<(), LogFault> {
        let above: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| *folder != self.epoch).collect();
        if let Some(parent) = above.first()
            && !parent.is_dir()
        {
            for folder in above.iter().rev() {
                self.disk.make_dir(folder).map_err(|error| room(durable::Fault::of("make", folder)(error)))?;
            }
            folders.insert(self.epoch.clone());
            folders.extend(above.iter().map(|folder| (*folder).to_owned()));
        }
        folders.extend(above.first().map(|parent| (*parent).to_owned()));
        Ok(())
    }

    /// Puts the note in the checkpoint's place.
    fn publish(&self, note: &str) -> Result<(), LogFault> {
        let (passing, path) = (self.tmp.join("checkpoint"), self.epoch.join("checkpoint"));
        let written = self.disk.create(&passing).and_then(|file| {
            self.disk.write(&file, note.as_bytes(), 0)?;
            self.disk.sync(&file)
        });
        written.map_err(|error| room(durable::Fault::of("write", &passing)(error)))?;
        self.disk.rename(&passing, &path).map_err(|error| room(durable::Fault::of("replace", &path)(error)))?;
        Ok(self.disk.sync_dir(&self.epoch).map_err(durable::Fault::of("sync", &self.epoch))?)
    }

    /// Takes a partial tile of a former checkpoint away, and its folder, which holds no other.
    pub(super) fn take_away(&self, tile: Tile) -> Result<(), LogFault> {
        let path = self.epoch.join(tile.path());
        self.disk.unlink(&path).map_err(durable::Fault::of("remove", &path))?;
        if let Some(folder) = path.parent() {
            // It stays where another partial tile is in it.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Takes the journal's segments away that the checkpoint has made needless.
    fn trim(&self, shared: &Shared) -> Result<(), LogFault> {
        for path in shared.trimmable(self.size()) {
            self.disk.unlink(&path).map_err(durable::Fault::of("remove", &path))?;
        }
        Ok(())
    }

    /// Keeps what the books are made of at hand for the next start.
    fn remember(&mut self, records: &[Vec<u8>], checkpoint: &Checkpoint) {
        let Some(cache) = &mut self.cache else { return };
        let first = checkpoint.size - records.len() as u64;
        let control = |record: &Vec<u8>| Outside::read(record).is_ok_and(|outside| !outside.is_passing());
        let controls = (first..).zip(records).filter(|(_, record)| control(record));
        cache.add(self.number, controls.map(|(index, record)| (index, record.as_slice())), checkpoint);
    }

    /// The last word: what was remembered is on the disk.
    pub(super) fn end(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.settle();
        }
    }
}

/// A full disk is no failure: it passes.
fn room(fault: durable::Fault) -> LogFault {
    let full = matches!(fault.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full { LogFault::NoSpace(fault) } else { LogFault::Disk(fault) }
}
