//! Reads the journal at a start: checks each segment, and repairs the last one.

use std::fs::{self, File};
use std::path::PathBuf;

use super::heads::StoredHead;
use super::{CheckpointState, Torn, open_for_writing, u64_of};
use crate::audit::format::envelope::{ALWAYS_PLAIN, Envelope};
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::HeadFault;
use crate::audit::format::journal::{self, SegmentFault};
use crate::audit::read::tiles::Tiles;
use crate::audit::store::log::writer::{SEGMENT_BYTES, Segment};
use crate::audit::store::log::{LogFault, LogSettings};
use crate::durable::{self, Disk, Identity};
use crate::merkle::Tree;

/// All segments, after their checks.
pub(super) struct ReadJournal {
    pub(super) tree: Tree,
    /// All segments but the last.
    pub(super) segments: Vec<(u64, Identity)>,
    pub(super) last: Option<Last>,
    pub(super) last_first: u64,
    /// The records without a checkpoint.
    pub(super) pending: Vec<Vec<u8>>,
}

/// The last segment, as it was found.
pub(super) struct Last {
    path: PathBuf,
    bytes: Vec<u8>,
    walk: journal::SegmentContent,
}

/// The state of the checks from one segment to the next.
struct SegmentReader<'j> {
    basis: &'j CheckpointState,
    /// The number of records that are signed or acknowledged.
    acknowledged: u64,
    /// Whether the log's payloads are encrypted.
    encrypted: bool,
    /// The tiles of the records under the checkpoint.
    under: Tiles,
}

impl SegmentReader<'_> {
    /// Reads a segment that follows `tree`, and adds its records without a checkpoint to `pending`.
    fn walk(
        &mut self,
        bytes: &[u8],
        tree: &Tree,
        is_last: bool,
        pending: &mut Vec<Vec<u8>>,
    ) -> Result<journal::SegmentContent, SegmentFault<RecordFault>> {
        let basis = self.basis;
        journal::walk(bytes, tree, &basis.marks, is_last, |index, record| {
            self.take(index, record, pending)
        })
    }

    /// Checks a record. Adds it to `pending` where no checkpoint covers it.
    fn take(
        &mut self,
        index: u64,
        record: &[u8],
        pending: &mut Vec<Vec<u8>>,
    ) -> Result<(), RecordFault> {
        if index < self.basis.signed.size {
            return match self.under.record(index) {
                Ok(covered) if covered == record => Ok(()),
                Ok(_) | Err(_) => Err(RecordFault::Form),
            };
        }
        // A process with write access to the folder could add such records.
        if index >= self.acknowledged {
            own(record, self.encrypted)?;
        }
        pending.push(record.to_vec());
        Ok(())
    }
}

/// Reads all segments. Each must continue the tree, and the tree must reach every acknowledged size
/// with its root.
pub(super) fn read_journal(
    paths: &[(u64, PathBuf)],
    basis: &CheckpointState,
    heads: &StoredHead,
    settings: &LogSettings,
) -> Result<ReadJournal, LogFault> {
    let signed = basis.signed.size;
    let first = match paths.first() {
        Some((first, _)) => *first,
        None => signed,
    };
    if first > signed {
        return Err(LogFault::Gap { signed, first });
    }
    let acknowledged = basis.acknowledged();
    let tree = basis.tree_at(first)?;
    let mut read = ReadJournal {
        tree,
        segments: Vec::new(),
        last: None,
        last_first: signed,
        pending: Vec::new(),
    };
    let under = Tiles::new(&basis.folder, signed);
    let mut reader = SegmentReader { basis, acknowledged, encrypted: settings.encrypted, under };
    for (place, (first, path)) in paths.iter().enumerate() {
        if *first != read.tree.size() {
            return Err(LogFault::Stray(path.clone()));
        }
        let mut bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        let is_last = place + 1 == paths.len();
        let before = read.pending.len();
        let mut walked = reader.walk(&bytes, &read.tree, is_last, &mut read.pending);
        if let Err(SegmentFault::Record { fault: RecordFault::Unacknowledged, index, offset }) =
            walked
        {
            tracing::warn!(
                index,
                "a record was cut off that states a prune: it was not acknowledged, so no record \
                 was removed"
            );
            // Treats the batch as incomplete. It is the last one: its writer waits for it.
            let rest = bytes.split_off(offset);
            read.pending.truncate(before);
            walked = reader.walk(&bytes, &read.tree, is_last, &mut read.pending);
            if let Ok(walk) = &mut walked {
                walk.torn = rest.len();
            }
            bytes.extend(rest);
        }
        let walk = walked.map_err(|fault| LogFault::Damaged { path: path.clone(), fault })?;
        read.tree = walk.tree.clone();
        if is_last {
            read.last_first = *first;
            read.last = Some(Last { path: path.clone(), bytes, walk });
        } else {
            let file = File::open(path).map_err(durable::DiskFault::of("open", path))?;
            read.segments.push((*first, Identity::of(&file, path)?));
        }
    }
    if read.tree.size() < acknowledged {
        return Err(LogFault::Behind { size: read.tree.size(), acknowledged });
    }
    // The walk of the journal does not reach a mark inside the tiles.
    let head = &heads.head;
    if head.size <= first && basis.tree_at(head.size)?.root() != head.root {
        return Err(LogFault::HeadDamaged { path: settings.head.clone(), fault: HeadFault });
    }
    Ok(read)
}

/// Checks that an unacknowledged record was written by this gateway: only a process with the record
/// keys can encrypt one. Kinds that are always plain do not change the state. `pruned` states that
/// records may be missing, so records are removed only after it was acknowledged.
fn own(bytes: &[u8], encrypted: bool) -> Result<(), RecordFault> {
    let envelope = Envelope::read(bytes)?;
    match envelope.kind {
        "pruned" => Err(RecordFault::Unacknowledged),
        kind if !encrypted || ALWAYS_PLAIN.contains(&kind) || envelope.encrypted().is_some() => {
            Ok(())
        }
        _ => Err(RecordFault::Unsealed),
    }
}

impl Last {
    /// The bytes that are cut off, where there are some.
    pub(super) fn torn(&self) -> Option<Torn> {
        let (offset, bytes) = (u64_of(self.walk.end), u64_of(self.walk.torn));
        (bytes > 0).then(|| Torn { segment: self.path.clone(), offset, bytes })
    }

    /// Repairs the segment: whole batches, then zeros, in full length and synced.
    pub(super) fn mend(self, disk: &dyn Disk) -> Result<Segment, LogFault> {
        let Self { path, mut bytes, walk } = self;
        let file = open_for_writing(&path)?;
        let length = bytes.len();
        let (kept, behind) = bytes.split_at_mut(walk.end);
        behind.fill(0);
        let beyond_head = kept.len() > walk.acknowledged_end;
        bytes.resize(length.max(SEGMENT_BYTES), 0);
        if beyond_head || walk.torn > 0 || length < SEGMENT_BYTES {
            // All bytes are written again, even correct ones. After a failed sync, the bytes that
            // were read may exist only in memory, and another sync would report success. Crash
            // here: the next start finds no more than this one, and repairs it.
            let rest = bytes.get(walk.acknowledged_end..).unwrap_or_default();
            disk.write(&file, rest, u64_of(walk.acknowledged_end))
                .map_err(durable::DiskFault::of("mend", &path))?;
            disk.sync(&file).map_err(durable::DiskFault::of("sync", &path))?;
        }
        let identity = Identity::of(&file, &path)?;
        Ok(Segment { file, identity, end: u64_of(walk.end) })
    }
}
