//! Copies a log that a gateway may be writing. The copy may be older than the log, but it is never
//! torn. It takes no lock.
//!
//! The head is read first. All records that it acknowledges are then complete in the files that are
//! read later. Full tiles never change. Partial tiles and segments are removed when a later
//! checkpoint replaces them. Then they are read again, with that checkpoint. From the journal, only
//! acknowledged batches are copied: later ones may be half written.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::format::head::{Head, HeadNote};
use crate::audit::format::journal;
use crate::audit::format::note::{NoteFault, peek};
use crate::audit::read::tiles;
use crate::durable;
use crate::merkle::tile::{Tile, WIDTH};

/// The number of tries when files change during a read.
const TRIES: usize = 50;
/// The pause before a head is read again. It is needed where the head is older than its epoch's
/// first checkpoint.
const PAUSE: Duration = Duration::from_millis(10);

/// The reasons why a log cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// The head is damaged.
    #[error("{}: there is no complete head", .0.display())]
    Head(PathBuf),
    /// A checkpoint is invalid.
    #[error("{}: {fault}", path.display())]
    Note {
        /// The file of the checkpoint.
        path: PathBuf,
        /// The defect.
        fault: NoteFault,
    },
    /// Files that are needed are missing in every try.
    #[error("{} lacks what its checkpoint needs, or changes faster than it can be copied: \
        token-shield audit verify says more", .0.display())]
    Restless(PathBuf),
}

/// Writes new private files, and collects the folders that need a sync.
#[derive(Default)]
pub struct Sink {
    folders: BTreeSet<PathBuf>,
}

impl Sink {
    /// Writes and syncs a new file. Makes its folder if needed.
    ///
    /// # Errors
    /// When it exists already, or cannot be written.
    pub fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<(), durable::DiskFault> {
        if let Some(folder) = path.parent()
            && !self.folders.contains(folder)
        {
            durable::make_private_dir(folder)?;
            self.folders.insert(folder.to_owned());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(durable::DiskFault::of("write", path))
    }

    /// Returns when the names of all files are durable.
    ///
    /// # Errors
    /// When a folder cannot be synced.
    pub fn settle(&self) -> Result<(), durable::DiskFault> {
        self.folders.iter().try_for_each(|folder| durable::sync_dir(folder))
    }
}

/// A file's bytes; `None` where it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, durable::DiskFault> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(durable::DiskFault::of("read", path)(error)),
    }
}

/// Copies the log in the folder `from`, with the head in the file `head`, to the folder `to`.
/// Returns the head's bytes. The caller must write them last, so that a copy with a head is
/// complete.
///
/// # Errors
/// When a file cannot be read or written.
pub fn log(from: &Path, head: &Path, to: &Path, sink: &mut Sink) -> Result<Vec<u8>, CopyFault> {
    durable::make_private_dir(to)?;
    let mut copied = BTreeSet::new();
    for _ in 0..TRIES {
        let bytes = whole_head(head)?;
        let read = Head::decode(&bytes).map_err(|_| CopyFault::Head(head.to_owned()))?;
        let Some(last) = tiles::epoch_in(&read.origin) else {
            return Err(CopyFault::Head(head.to_owned()));
        };
        let acknowledged = Acknowledged::of(&read, &bytes);
        let mut is_whole = true;
        for (number, folder) in tiles::epochs(from)? {
            // An epoch after the head's epoch has not begun, or began after the head was read.
            // A closed epoch does not change, so a retry does not copy it again.
            if number > last || copied.contains(&number) {
                continue;
            }
            let acknowledged = (number == last).then_some(&acknowledged);
            is_whole = epoch(&folder, &to.join(tiles::epoch_name(number)), acknowledged, sink)?;
            if !is_whole {
                break;
            }
            copied.insert(number);
        }
        if is_whole {
            return Ok(bytes);
        }
        std::thread::park_timeout(PAUSE);
    }
    Err(CopyFault::Restless(from.to_owned()))
}

/// The acknowledged part of the head's epoch.
struct Acknowledged {
    /// The number of records that must be there.
    size: u64,
    /// Whether the head contains a checkpoint.
    is_noted: bool,
}

impl Acknowledged {
    /// The part that a head acknowledges, with the checkpoint in the bytes of its file.
    fn of(head: &Head, bytes: &[u8]) -> Self {
        if let Some(note) = HeadNote::decode(bytes)
            && let Ok(noted) = peek(&note.note)
            && noted.origin == head.origin
        {
            return Self { size: head.size.max(noted.size), is_noted: true };
        }
        Self { size: head.size, is_noted: false }
    }
}

/// Reads a head outside of a write. One of its two slots is always whole, so a failed read means a
/// write in progress.
fn whole_head(path: &Path) -> Result<Vec<u8>, CopyFault> {
    for _ in 0..TRIES {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        // A read is not atomic: during two writes it may get both slots torn.
        if Head::decode(&bytes).is_ok() {
            return Ok(bytes);
        }
        std::thread::yield_now();
    }
    Err(CopyFault::Head(path.to_owned()))
}

/// A file of the copy that is not written yet: its path in the epoch's folder, and its bytes.
type CopiedFile = (PathBuf, Vec<u8>);

/// Copies a closed epoch's folder.
///
/// # Errors
/// As [`log`].
pub fn closed_epoch(from: &Path, to: &Path, sink: &mut Sink) -> Result<(), CopyFault> {
    epoch(from, to, None, sink)?;
    Ok(())
}

/// Copies an epoch. At least the `acknowledged` records must be there; `None` where the epoch is
/// closed. Returns false, without a copy, where the first checkpoint was written after the head was
/// read. The head would lack that checkpoint.
fn epoch(
    from: &Path,
    to: &Path,
    acknowledged: Option<&Acknowledged>,
    sink: &mut Sink,
) -> Result<bool, CopyFault> {
    durable::make_private_dir(&to.join("journal"))?;
    // Full tiles below this number of records are copied already.
    let mut copied = 0;
    for _ in 0..TRIES {
        let path = from.join("checkpoint");
        let note = tiles::checkpoint_note(from)?;
        let signed = match &note {
            Some(note) => peek(note).map_err(|fault| CopyFault::Note { path, fault })?.size,
            None => 0,
        };
        if copied == 0
            && signed > 0
            && acknowledged.is_some_and(|acknowledged| !acknowledged.is_noted)
        {
            return Ok(false);
        }
        if !full_tiles(from, to, copied..signed, sink)? {
            return Err(CopyFault::Restless(from.to_owned()));
        }
        copied = signed;
        let Some(files) =
            transient_files(from, signed, acknowledged.map(|acknowledged| acknowledged.size))?
        else {
            std::thread::yield_now();
            continue;
        };
        for (path, bytes) in files {
            sink.put(&to.join(path), &bytes)?;
        }
        // A log's folder has an empty lock file; the lock itself is not copied.
        sink.put(&to.join("lock"), b"")?;
        if let Some(note) = note {
            sink.put(&to.join("checkpoint"), note.as_bytes())?;
        }
        return Ok(true);
    }
    Err(CopyFault::Restless(from.to_owned()))
}

/// Copies the full tiles and bundles that a tree of `records.end` records has and a tree of
/// `records.start` records has not. False where one is missing. Of a pruned epoch, it copies those
/// that are left.
fn full_tiles(
    epoch: &Path,
    copy: &Path,
    records: Range<u64>,
    sink: &mut Sink,
) -> Result<bool, CopyFault> {
    let moved = records.end > 0 && tiles::is_pruned(epoch);
    for level in std::iter::once(None).chain((0..7_u8).map(Some)) {
        let shift = 8 * (u32::from(level.unwrap_or(0)) + 1);
        for index in (records.start >> shift)..(records.end >> shift) {
            let path = Tile { level, index, width: WIDTH }.path();
            match read(&epoch.join(&path))? {
                Some(bytes) => sink.put(&copy.join(&path), &bytes)?,
                None if moved => {}
                None => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// The files that a later checkpoint removes: partial tiles and the journal. `None` where some were
/// removed meanwhile.
fn transient_files(
    epoch: &Path,
    signed: u64,
    acknowledged: Option<u64>,
) -> Result<Option<Vec<CopiedFile>>, CopyFault> {
    let moved = signed > 0 && tiles::is_pruned(epoch);
    let mut files = Vec::new();
    for tile in Tile::partial(signed) {
        // The last bundle of a pruned epoch was moved away.
        if moved && tile.level.is_none() {
            continue;
        }
        let Some(bytes) = read(&epoch.join(tile.path()))? else { return Ok(None) };
        files.push((tile.path().into(), bytes));
    }
    let folder = epoch.join("journal");
    let (segments, _) =
        if folder.is_dir() { tiles::segments(&folder)? } else { (Vec::new(), None) };
    // A closed epoch with a loss may have a journal. It is copied completely.
    let wanted = acknowledged.map_or(u64::MAX, |size| size.max(signed));
    let mut reached = match segments.first() {
        Some((first, _)) => *first,
        None => signed,
    };
    if reached > signed {
        return Ok(None);
    }
    for (first, path) in segments {
        if first >= wanted {
            break;
        }
        let Some(mut bytes) = read(&path)? else { return Ok(None) };
        let (end, size) = journal::reach(&bytes, wanted);
        if acknowledged.is_some() {
            bytes.truncate(end);
        }
        files.push((format!("journal/{first:020}").into(), bytes));
        reached = size.max(reached);
    }
    // Acknowledged records are missing: the segments were trimmed meanwhile, after a newer
    // checkpoint.
    let whole = acknowledged.is_none_or(|size| reached.max(signed) >= size);
    Ok(whole.then_some(files))
}
