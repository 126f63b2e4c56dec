//! Reads an epoch's folder: its checkpoint, its tiles, its bundles of records. It writes no file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::merkle::proof::Nodes;
use crate::merkle::tile::{Tile, WIDTH, bundle_records, tile_hashes};
use crate::merkle::{Hash, perfect_root};

/// The reasons why a part of a tree cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TileFault {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// The file has another number of hashes or records than its name states.
    #[error("{} is not what its name says (records from {first} on)", path.display())]
    Width {
        /// The file.
        path: PathBuf,
        /// The first record that the file covers.
        first: u64,
    },
    /// The record is not in the tree.
    #[error("there is no record {index}: the checkpoint covers {size}")]
    Beyond {
        /// The requested index.
        index: u64,
        /// The number of records.
        size: u64,
    },
}

/// The tree of a checkpoint of `size` records in the folder `epoch`.
#[derive(Clone, Debug)]
pub struct Tiles {
    epoch: PathBuf,
    size: u64,
    /// The bundle that was read last: callers read records in order.
    last: Option<(u64, Vec<Vec<u8>>)>,
    /// The tile that was read last.
    tile: Option<(Tile, Vec<Hash>)>,
}

impl Tiles {
    /// The tree of `size` records in `epoch`.
    #[must_use]
    pub fn new(epoch: &Path, size: u64) -> Self {
        Self { epoch: epoch.to_owned(), size, last: None, tile: None }
    }

    /// The number of records.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The tile's or bundle's bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bytes(&self, tile: Tile) -> Result<Vec<u8>, TileFault> {
        let path = self.epoch.join(tile.path());
        Ok(fs::read(&path).map_err(durable::DiskFault::of("read", &path))?)
    }

    /// The number of hashes or records in the file of that level and index.
    fn width(&self, level: u8, index: u64) -> u64 {
        ((self.size >> (8 * u32::from(level))) - index * WIDTH).min(WIDTH)
    }

    /// The fault of a file with a wrong number of entries.
    fn fault(&self, tile: Tile) -> TileFault {
        let first = tile.index.saturating_mul(WIDTH) << (8 * u32::from(tile.level.unwrap_or(0)));
        TileFault::Width { path: self.epoch.join(tile.path()), first }
    }

    /// A tile's hashes.
    ///
    /// # Errors
    /// When it cannot be read, or has a wrong number of hashes.
    pub fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, TileFault> {
        tile_hashes(&self.bytes(tile)?, tile.width).ok_or_else(|| self.fault(tile))
    }

    /// The records of a bundle.
    ///
    /// # Errors
    /// When it cannot be read, or has a wrong number of records.
    pub fn bundle(&self, index: u64) -> Result<Vec<Vec<u8>>, TileFault> {
        let tile = Tile { level: None, index, width: self.width(0, index) };
        let mut records = Vec::new();
        for record in bundle_records(&self.bytes(tile)?) {
            let Ok(record) = record else { return Err(self.fault(tile)) };
            records.push(record.to_vec());
        }
        if records.len() as u64 == tile.width { Ok(records) } else { Err(self.fault(tile)) }
    }

    /// The records of a bundle. One read of a bundle serves all its 256 records.
    fn last_bundle(&mut self, index: u64) -> Result<&[Vec<u8>], TileFault> {
        let last = match self.last.take() {
            Some((known, records)) if known == index => (known, records),
            _ => (index, self.bundle(index)?),
        };
        let (_, records) = self.last.insert(last);
        Ok(records)
    }

    /// A tile's hashes. The tile that was read last is not read again.
    fn last_tile(&mut self, tile: Tile) -> Result<&[Hash], TileFault> {
        let last = match self.tile.take() {
            Some((known, hashes)) if known == tile => (known, hashes),
            _ => (tile, self.hashes(tile)?),
        };
        let (_, hashes) = self.tile.insert(last);
        Ok(hashes)
    }

    /// One record.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn record(&mut self, index: u64) -> Result<Vec<u8>, TileFault> {
        let size = self.size;
        if index >= size {
            return Err(TileFault::Beyond { index, size });
        }
        let place = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
        match self.last_bundle(index / WIDTH)?.get(place) {
            Some(record) => Ok(record.clone()),
            None => Err(TileFault::Beyond { index, size }),
        }
    }
}

impl Nodes for Tiles {
    type Fault = TileFault;

    /// A node of the tree. A tile has only every eighth level, so the levels between are computed
    /// from its hashes.
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, TileFault> {
        // A tile stores the nodes of every eighth level, 256 in a row (C2SP tlog-tiles).
        let tile_level = u8::try_from(level / 8).unwrap_or(u8::MAX);
        let (first, count) = (index << (level % 8), 1_u64 << (level % 8));
        let tile = first / WIDTH;
        let tile =
            Tile { level: Some(tile_level), index: tile, width: self.width(tile_level, tile) };
        let from = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        let root = self.last_tile(tile)?.get(from..to).and_then(perfect_root);
        root.ok_or_else(|| self.fault(tile))
    }
}

/// The epochs in a log's folder, in order, with their folders.
///
/// # Errors
/// When the folder cannot be listed.
pub fn epochs(dir: &Path) -> Result<Vec<(u32, PathBuf)>, durable::DiskFault> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(durable::DiskFault::of("list", dir))? {
        let path = entry.map_err(durable::DiskFault::of("list", dir))?.path();
        if let Some(name) = file_name(&path)
            && let Some(number) = epoch_number(name)
        {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The last part of a path; `None` where it is not UTF-8.
fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The number of the epoch in an origin: `<gateway name>/<epoch>`.
#[must_use]
pub fn epoch_in(origin: &str) -> Option<u32> {
    epoch_number(origin.rsplit('/').next()?)
}

/// The number in an epoch's name, such as `e000001`.
#[must_use]
pub fn epoch_number(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix('e')?.parse().ok()?;
    // Only the canonical form is a name: `e1` must not be a second name of `e000001`.
    (epoch_name(number) == name && number > 0).then_some(number)
}

/// An epoch's name.
#[must_use]
pub fn epoch_name(number: u32) -> String {
    format!("e{number:06}")
}

/// The note in an epoch's folder; `None` where there is none yet.
///
/// # Errors
/// When it cannot be read.
pub fn checkpoint_note(epoch: &Path) -> Result<Option<String>, durable::DiskFault> {
    let path = epoch.join("checkpoint");
    match fs::read_to_string(&path) {
        Ok(note) => Ok(Some(note)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(durable::DiskFault::of("read", &path)(error)),
    }
}

/// The checkpoint and the segments of an epoch. If both are the same before and after a read, no
/// checkpoint was written in between. Also, no segment was removed that the last checkpoint covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSnapshot {
    /// The checkpoint's note.
    pub note: Option<String>,
    segments: Segments,
}

/// The current snapshot of an epoch's folder.
///
/// # Errors
/// When it cannot be read.
pub fn snapshot(epoch: &Path) -> Result<EpochSnapshot, durable::DiskFault> {
    let note = checkpoint_note(epoch)?;
    let journal = epoch.join("journal");
    let segments = if journal.is_dir() { segments(&journal)?.0 } else { Segments::new() };
    Ok(EpochSnapshot { note, segments })
}

/// Whether an epoch was pruned: it has a checkpoint, but no bundle.
#[must_use]
pub fn is_pruned(epoch: &Path) -> bool {
    let none = fs::read_dir(epoch.join("tile/entries"))
        .map_or(true, |mut entries| entries.next().is_none());
    none && epoch.join("checkpoint").exists()
}

/// The segments of a journal in order, each with the index of its first record.
pub type Segments = Vec<(u64, PathBuf)>;

/// The segments of an epoch's journal, and a file that is not a segment.
///
/// # Errors
/// When the folder cannot be listed.
pub fn segments(journal: &Path) -> Result<(Segments, Option<PathBuf>), durable::DiskFault> {
    let (mut found, mut stray) = (Vec::new(), None);
    for entry in fs::read_dir(journal).map_err(durable::DiskFault::of("list", journal))? {
        let path = entry.map_err(durable::DiskFault::of("list", journal))?.path();
        match segment_first(&path) {
            Some(first) => found.push((first, path)),
            None => stray = Some(path),
        }
    }
    found.sort_unstable();
    Ok((found, stray))
}

/// The index of a segment's first record, which is its name; `None` for a file that is not a
/// segment.
fn segment_first(path: &Path) -> Option<u64> {
    let name = file_name(path)?;
    let first: u64 = name.parse().ok()?;
    // A segment's name has exactly 20 digits, so that names sort like numbers.
    (format!("{first:020}") == name).then_some(first)
}
