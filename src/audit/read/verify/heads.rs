//! Data that an epoch is compared with: the head, an earlier checkpoint, and its own first record.

use std::fs;
use std::path::{Path, PathBuf};

use super::fault::{FaultLocation, VerifyFault};
use super::{Nobody, TRIES};
use crate::audit::format::event::{Event, Left, Previous};
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::{Head, HeadNote};
use crate::audit::format::journal;
use crate::audit::format::note::{Checkpoint, LogKeys, NoteFault, peek, peek_size};
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles};
use crate::durable;

/// The content of the head.
pub(super) struct HeadContent {
    path: PathBuf,
    pub(super) head: Head,
    /// The newest checkpoint. A head has none before the first checkpoint of its epoch.
    pub(super) note: Option<String>,
}

impl HeadContent {
    /// Reads and decodes the head's file.
    pub(super) fn read(path: &Path) -> Result<Self, VerifyFault> {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        let head = Head::decode(&bytes)
            .map_err(|fault| VerifyFault::of(FaultLocation::file(path), fault))?;
        let note = HeadNote::decode(&bytes).map(|note| note.note);
        Ok(Self { path: path.to_owned(), head, note })
    }

    /// Reads the head again, after its epoch has got a checkpoint. The head gets every checkpoint
    /// before the folder does, so one without a checkpoint was read before the first one, or during
    /// its write. `None` where the head still has no checkpoint, and is not that of a later epoch.
    pub(super) fn newer(&self) -> Option<Self> {
        for _ in 0..TRIES {
            if let Ok(newer) = Self::read(&self.path) {
                // A number that cannot be read is no later epoch.
                let is_later =
                    tiles::epoch_in(&newer.head.origin) > tiles::epoch_in(&self.head.origin);
                let is_complete = newer.note.is_some() && newer.head.origin == self.head.origin;
                if is_complete || is_later {
                    return Some(newer);
                }
            }
            // A read is not atomic: the write of the checkpoint may be in progress.
            std::thread::yield_now();
        }
        None
    }
}

/// An earlier checkpoint, after its signature was verified.
pub(super) struct Since(pub(super) Checkpoint);

impl Since {
    /// Decodes a checkpoint, and verifies its signatures.
    pub(super) fn read(note: &str, keys: &[LogKeys]) -> Result<Self, VerifyFault> {
        match Self::open(note, keys) {
            Ok(checkpoint) => Ok(Self(checkpoint)),
            Err(fault) => Err(VerifyFault::of(
                FaultLocation::log(),
                format!("the former checkpoint: {fault}"),
            )),
        }
    }

    /// The checkpoint in a note, under the keys of its origin.
    fn open(note: &str, keys: &[LogKeys]) -> Result<Checkpoint, NoteFault> {
        // The origin selects the keys. Only `open` proves it.
        let origin = peek(note)?.origin;
        LogKeys::of_origin(keys, &origin)?.open(note)
    }
}

/// The content of an epoch's first record.
pub(super) struct Begins {
    pub(super) previous: Previous,
    pub(super) reason: String,
    pub(super) left: Option<Left>,
}

impl Begins {
    /// The operator's reason, where the record states a loss.
    pub(super) fn lost(&self) -> Option<String> {
        Some(self.reason.strip_prefix("after-loss: ")?.to_owned())
    }

    /// The content of a record; `None` where it is not the first record of an epoch.
    fn of(record: &[u8]) -> Option<Self> {
        match Record::decode(record, &Nobody) {
            Ok(Some(Record { event: Event::Epoch { previous, reason, left }, .. })) => {
                Some(Self { previous, reason, left })
            }
            _ => None,
        }
    }
}

/// The first record of an epoch, where it has one.
pub(super) fn first_record(folder: &Path) -> Result<Option<Begins>, VerifyFault> {
    let mut snapshot = tiles::snapshot(folder)?;
    for _ in 0..TRIES {
        let under = peek_size(snapshot.note.as_deref());
        // The first record is in a tile as soon as a checkpoint covers it, and before that in the
        // journal.
        let found = if under > 0 {
            match Tiles::new(folder, under).record(0) {
                Ok(record) => Ok(Some(record)),
                Err(fault) => Err(fault.into()),
            }
        } else {
            first(folder)
        };
        // A new checkpoint may have removed the bundle or the segment meanwhile.
        let now = tiles::snapshot(folder)?;
        if now == snapshot || matches!(found, Ok(Some(_))) {
            return Ok(found?.and_then(|record| Begins::of(&record)));
        }
        snapshot = now;
    }
    Err(VerifyFault::of(FaultLocation::file(folder), "it changes faster than it can be read"))
}

/// The first record of a journal whose first segment begins with index 0.
fn first(folder: &Path) -> Result<Option<Vec<u8>>, VerifyFault> {
    let journal = folder.join("journal");
    let (segments, _) = tiles::segments(&journal)?;
    let Some((0, path)) = segments.first() else { return Ok(None) };
    let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
    let mut found = None;
    // A defect in the segment is reported when the segment is verified.
    let _ = journal::walk(&bytes, &crate::merkle::Tree::new(), &[], true, |_, record| {
        found.get_or_insert_with(|| record.to_vec());
        Ok::<_, RecordFault>(())
    });
    Ok(found)
}
