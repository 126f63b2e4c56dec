//! The head's file at a start: its content, its length, and its creation for a new log.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::open_for_writing;
use crate::audit::format::head::{HEAD_BYTES, Head, HeadFault, HeadNote, SLOT_BYTES};
use crate::audit::store::log::epoch::EpochFolder;
use crate::audit::store::log::{LogFault, LogSettings};
use crate::durable::{self, Disk};
use crate::merkle::Tree;

/// The content of the head's file.
pub(super) struct StoredHead {
    pub(super) head: Head,
    pub(super) note: Option<HeadNote>,
}

impl StoredHead {
    /// The number of notes that were written to the head.
    pub(super) const fn notes(&self) -> u64 {
        match &self.note {
            Some(note) => note.write,
            None => 0,
        }
    }
}

/// The head's file in its full length, and a copy for the checkpointer.
pub(super) fn open_head(disk: &dyn Disk, path: &Path) -> Result<(File, File), LogFault> {
    let file = open_for_writing(path)?;
    grow_head(disk, &file, path)?;
    let copy = file.try_clone().map_err(durable::DiskFault::of("open", path))?;
    Ok((file, copy))
}

/// Reads the head. Creates it for a log that is `new`.
pub(super) fn read_heads(
    settings: &LogSettings,
    epoch: &EpochFolder,
    new: bool,
) -> Result<StoredHead, LogFault> {
    let path = &settings.head;
    match fs::read(path) {
        Ok(mut bytes) => {
            // Older heads had no room for checkpoints.
            if bytes.len() == 2 * SLOT_BYTES {
                bytes.resize(HEAD_BYTES, 0);
            }
            let head = Head::decode(&bytes)
                .map_err(|fault| LogFault::HeadDamaged { path: path.clone(), fault })?;
            // The origin names the epoch. Another name means another log, or a gateway that was
            // renamed.
            if head.origin != epoch.origin {
                return Err(LogFault::Origin {
                    found: head.origin,
                    expected: epoch.origin.clone(),
                });
            }
            if head.size == 0 && head.root != Tree::new().root() {
                return Err(LogFault::HeadDamaged { path: path.clone(), fault: HeadFault });
            }
            Ok(StoredHead { head, note: HeadNote::decode(&bytes) })
        }
        // The head is the first file of a log, so only a log without records has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound && new && epoch.number == 1 => {
            let head =
                Head { origin: epoch.origin.clone(), size: 0, root: Tree::new().root(), write: 1 };
            durable::write_new(path, &head.first_file(), 0o600)?;
            // Crash here: a head that acknowledges no record, and no segment. The next start
            // continues from here.
            Ok(StoredHead { head, note: None })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(LogFault::HeadMissing(path.clone()))
        }
        Err(error) => Err(durable::DiskFault::of("read", path)(error).into()),
    }
}

/// Extends a head from a version without checkpoints.
fn grow_head(disk: &dyn Disk, file: &File, path: &Path) -> Result<(), LogFault> {
    let length = file.metadata().map_err(durable::DiskFault::of("look at", path))?.len();
    let whole = HEAD_BYTES as u64;
    if length < whole {
        disk.allocate(file, whole).map_err(durable::DiskFault::of("write", path))?;
        disk.sync(file).map_err(durable::DiskFault::of("write", path))?;
    }
    Ok(())
}
