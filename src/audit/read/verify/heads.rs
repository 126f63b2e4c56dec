//! Data that an epoch is compared with: the head, an earlier checkpoint, and its own first record.

use std::fs;
use std::path::Path;

use super::fault::{FaultLocation, VerifyFault};
use super::{Nobody, TRIES};
use crate::audit::format::event::{Event, Left, Previous};
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::{Head, HeadNote};
use crate::audit::format::journal;
use crate::audit::format::note::{Checkpoint, LogKeys, peek};
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles};
use crate::durable;

/// The content of the head.
pub(super) struct HeadContent {
    pub(super) head: Head,
    pub(super) note: Option<String>,
}

impl HeadContent {
    /// Reads and decodes the head's file.
    pub(super) fn read(path: &Path) -> Result<Self, VerifyFault> {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        let head = Head::decode(&bytes)
            .map_err(|fault| VerifyFault::of(FaultLocation::file(path), fault))?;
        Ok(Self { head, note: HeadNote::decode(&bytes).map(|note| note.note) })
    }
}

/// An earlier checkpoint, after its signature was verified.
pub(super) struct Since(pub(super) Checkpoint);

impl Since {
    /// Decodes a checkpoint, and verifies its signatures.
    pub(super) fn read(note: &str, keys: &[LogKeys]) -> Result<Self, VerifyFault> {
        let fault = |fault| {
            VerifyFault::of(FaultLocation::log(), format!("the former checkpoint: {fault}"))
        };
        // The origin selects the keys. Only `open` proves it.
        let origin = peek(note).map_err(fault)?.origin;
        let keys = keys.iter().find(|keys| keys.origin == origin);
        let keys =
            keys.ok_or_else(|| fault(crate::audit::format::note::NoteFault::NoKeys(origin)))?;
        Ok(Self(keys.open(note).map_err(fault)?))
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
        self.reason.strip_prefix("after-loss: ").map(str::to_owned)
    }
}

/// The first record of an epoch, where it has one.
pub(super) fn first_record(folder: &Path) -> Result<Option<Begins>, VerifyFault> {
    let mut snapshot = tiles::snapshot(folder)?;
    for _ in 0..TRIES {
        let under = snapshot
            .note
            .as_deref()
            .and_then(|note| peek(note).ok())
            .map_or(0, |checkpoint| checkpoint.size);
        // The first record is in a tile as soon as a checkpoint covers it, and before that in the
        // journal.
        let found = if under > 0 {
            Tiles::new(folder, under).record(0).map(Some).map_err(VerifyFault::from)
        } else {
            first(folder)
        };
        // A new checkpoint may have removed the bundle or the segment meanwhile.
        let now = tiles::snapshot(folder)?;
        if now == snapshot || matches!(found, Ok(Some(_))) {
            return Ok(found?.and_then(|bytes| match Record::decode(&bytes, &Nobody) {
                Ok(Some(Record { event: Event::Epoch { previous, reason, left }, .. })) => {
                    Some(Begins { previous, reason, left })
                }
                _ => None,
            }));
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
