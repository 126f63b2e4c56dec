//! A copy of a log that somebody may be writing: at the most older than the log, never torn. No lock is taken.
//!
//! The head is read first, so that whatever it acknowledges is there whole when the rest is read. Full tiles never change again.
//! Partial tiles and segments go away when the next checkpoint has made them needless; then they are read anew, with that one.
//! Of the journal nothing is taken beyond what head and checkpoint acknowledge: it may be half written.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::format::head::{Head, HeadNote};
use crate::audit::format::journal;
use crate::audit::format::note::{NoteFault, peek};
use crate::audit::read::tiles::{self, epoch_number};
use crate::durable;
use crate::merkle::tile::{Tile, WIDTH};

/// How often something may change while it is read.
const TRIES: usize = 50;
/// The pause before a head is read again that was older than its epoch's first checkpoint.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a log cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// A file.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// The head.
    #[error("{}: no whole head stands there", .0.display())]
    Head(PathBuf),
    /// A checkpoint.
    #[error("{}: {fault}", path.display())]
    Note {
        /// Where it was found.
        path: PathBuf,
        /// What is wrong with it.
        fault: NoteFault,
    },
    /// What was read is gone again and again.
    #[error("{} lacks what its checkpoint needs, or changes faster than it can be copied: token-shield audit verify says more", .0.display())]
    Restless(PathBuf),
}

/// New private files, and the folders whose names must be synced for them.
#[derive(Default)]
pub struct Sink {
    folders: BTreeSet<PathBuf>,
}

impl Sink {
    /// Writes a new file, its folder too, and syncs it.
    ///
    /// # Errors
    /// When it is there already, or cannot be written.
    pub fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<(), durable::DiskFault> {
        if let Some(folder) = path.parent().filter(|folder| !self.folders.contains(*folder)) {
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

    /// Returns when the names of all files are on stable storage.
    ///
    /// # Errors
    /// When a folder cannot be synced.
    pub fn settle(&self) -> Result<(), durable::DiskFault> {
        self.folders.iter().try_for_each(|folder| durable::sync_dir(folder))
    }
}

/// A file's bytes; `None` where it is not there.
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

/// Copies the log in the folder `from` whose head is the file `head` to the folder `to`. Gives the head's bytes: they are to be
/// written last, so that a copy with a head is a whole one.
///
/// # Errors
/// When something cannot be read or written.
pub fn log(from: &Path, head: &Path, to: &Path, sink: &mut Sink) -> Result<Vec<u8>, CopyFault> {
    durable::make_private_dir(to)?;
    let mut copied = BTreeSet::new();
    for _ in 0..TRIES {
        let bytes = whole_head(head)?;
        let fault = || CopyFault::Head(head.to_owned());
        let read = Head::decode(&bytes).map_err(|_| fault())?;
        let last = read.origin.rsplit('/').next().and_then(epoch_number).ok_or_else(fault)?;
        let noted = HeadNote::decode(&bytes).and_then(|note| peek(&note.note).ok());
        let noted = noted.filter(|note| note.origin == read.origin).map(|note| note.size);
        let acknowledged =
            Acknowledged { size: read.size.max(noted.unwrap_or(0)), is_noted: noted.is_some() };
        // An epoch beyond the head's has not begun, or began after the head was read.
        let wanted = tiles::epochs(from)?.into_iter().filter(|(number, _)| *number <= last);
        let mut is_whole = true;
        for (number, folder) in wanted {
            let acknowledged = (number == last).then_some(&acknowledged);
            if copied.contains(&number) {
                continue;
            }
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

/// What the head says of its epoch.
struct Acknowledged {
    /// Records that must be there.
    size: u64,
    /// It holds a checkpoint.
    is_noted: bool,
}

/// A head that was not read in the middle of a write: of two slots one is always whole.
fn whole_head(path: &Path) -> Result<Vec<u8>, CopyFault> {
    for _ in 0..TRIES {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        if Head::decode(&bytes).is_ok() {
            return Ok(bytes);
        }
        std::thread::yield_now();
    }
    Err(CopyFault::Head(path.to_owned()))
}

/// A file of the copy that is not written yet: its path below the epoch's folder.
type CopiedFile = (PathBuf, Vec<u8>);

/// Copies a closed epoch's folder.
///
/// # Errors
/// As [`log`].
pub fn closed_epoch(from: &Path, to: &Path, sink: &mut Sink) -> Result<(), CopyFault> {
    epoch(from, to, None, sink).map(|_| ())
}

/// Copies an epoch, of which at least the `acknowledged` records must be there; `None` where it is closed. False, and nothing is
/// copied, where the first checkpoint came after the head was read: a head without it would not fit.
fn epoch(
    from: &Path,
    to: &Path,
    acknowledged: Option<&Acknowledged>,
    sink: &mut Sink,
) -> Result<bool, CopyFault> {
    durable::make_private_dir(&to.join("journal"))?;
    // Tiles below this many records are copied already.
    let mut copied = 0;
    for _ in 0..TRIES {
        let path = from.join("checkpoint");
        let note = tiles::checkpoint_note(from)?;
        let signed =
            note.as_deref().map_or(Ok(0), |note| peek(note).map(|checkpoint| checkpoint.size));
        let signed = signed.map_err(|fault| CopyFault::Note { path, fault })?;
        if copied == 0
            && signed > 0
            && acknowledged.is_some_and(|acknowledged| !acknowledged.is_noted)
        {
            return Ok(false);
        }
        if !full_tiles(from, to, (copied, signed), sink)? {
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
        sink.put(&to.join("lock"), b"")?;
        if let Some(note) = note {
            sink.put(&to.join("checkpoint"), note.as_bytes())?;
        }
        return Ok(true);
    }
    Err(CopyFault::Restless(from.to_owned()))
}

/// Copies the full tiles and bundles of a tree of `to` records that a tree of `from` has not; false where one is missing. Of an
/// epoch whose records were moved away, those that are left.
fn full_tiles(
    epoch: &Path,
    copy: &Path,
    (from, to): (u64, u64),
    sink: &mut Sink,
) -> Result<bool, CopyFault> {
    let moved = to > 0 && tiles::is_pruned(epoch);
    for level in std::iter::once(None).chain((0..7_u8).map(Some)) {
        let shift = 8 * (u32::from(level.unwrap_or(0)) + 1);
        for index in (from >> shift)..(to >> shift) {
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

/// What the next checkpoint makes needless: partial tiles, and the journal. `None` where some of it went away meanwhile.
fn transient_files(
    epoch: &Path,
    signed: u64,
    acknowledged: Option<u64>,
) -> Result<Option<Vec<CopiedFile>>, CopyFault> {
    let moved = signed > 0 && tiles::is_pruned(epoch);
    let mut files = Vec::new();
    for tile in Tile::partial(signed).into_iter().filter(|tile| !moved || tile.level.is_some()) {
        let Some(bytes) = read(&epoch.join(tile.path()))? else { return Ok(None) };
        files.push((tile.path().into(), bytes));
    }
    let folder = epoch.join("journal");
    let (segments, _) =
        if folder.is_dir() { tiles::segments(&folder)? } else { (Vec::new(), None) };
    // Behind which something was lost, a closed epoch may have a journal: all of it is taken.
    let wanted = acknowledged.map_or(u64::MAX, |size| size.max(signed));
    let mut reached = segments.first().map_or(signed, |(first, _)| *first);
    if reached > signed {
        return Ok(None);
    }
    for (first, path) in segments {
        if first >= wanted {
            break;
        }
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let (end, size) = journal::reach(&bytes, wanted);
        let kept =
            if acknowledged.is_some() { bytes.get(..end).unwrap_or_default() } else { &bytes };
        files
            .push((Path::new("journal").join(path.file_name().unwrap_or_default()), kept.to_vec()));
        reached = size.max(reached);
    }
    // Below what was acknowledged something is missing: trimmed meanwhile, and under a newer checkpoint.
    let whole = acknowledged.is_none_or(|size| reached.max(signed) >= size);
    Ok(whole.then_some(files))
}
