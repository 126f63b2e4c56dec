//! Verifies the journal after a checkpoint, the head, and the files of an interrupted checkpoint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fault::{FaultLocation, VerifyFault};
use super::heads::{HeadContent, Since};
use super::layout::ExtraFile;
use super::{One, layout};
use crate::audit::format::event::Left;
use crate::audit::format::journal::{self, AcknowledgedTree};
use crate::audit::format::note::{Checkpoint, LogKeys};
use crate::audit::read::tiles::{self, Tiles};
use crate::durable;
use crate::merkle::proof::tree_at;
use crate::merkle::tile::{Edge, Tile, WIDTH, bundle_push, bundle_records, tile_bytes};
use crate::merkle::{Hash, Tree};

/// The verified part after the checkpoint.
pub(super) struct Walked {
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) torn: usize,
    /// The first record, where the checkpoint does not cover it.
    pub(super) first: Option<Vec<u8>>,
}

/// Verifies the records after the checkpoint `signed`, whose right edge is `edge`, and the `extra`
/// files of the next checkpoint.
pub(super) fn verify(
    one: &mut One<'_>,
    signed: &Checkpoint,
    edge: Edge,
    head: Option<&HeadContent>,
    keys: &LogKeys,
    extra: &[ExtraFile],
) -> Result<Walked, VerifyFault> {
    let journal = one.folder.join("journal");
    layout::folder(&journal)?;
    let (segments, stray) =
        if journal.is_dir() { tiles::segments(&journal)? } else { (Vec::new(), None) };
    if let Some(stray) = stray {
        return Err(VerifyFault::of(FaultLocation::file(&stray), "it is no segment of a journal"));
    }
    if !one.open
        && let Some((_, path)) = segments.first()
    {
        return Err(VerifyFault::of(
            FaultLocation::file(path),
            "a closed epoch's journal is empty",
        ));
    }
    let marks = marks(one, signed, head, keys)?;
    let mut under = Tiles::new(one.folder, signed.size);
    let first = match segments.first() {
        Some((first, _)) => *first,
        None => signed.size,
    };
    // A gap between the tiles and the journal means lost records.
    if first > signed.size {
        return Err(VerifyFault::of(
            one.record(signed.size),
            "it is neither in tiles nor in the journal",
        ));
    }
    let mut tree = tree_at(&mut under, first)?;
    // The walk of the journal checks only marks after its first record. These are below it.
    for mark in &marks {
        if mark.size <= first && tree_at(&mut under, mark.size)?.root() != mark.root {
            return Err(other_root(one, mark.size));
        }
    }
    let (mut pending, mut torn) = (Vec::new(), 0);
    for (place, (first, path)) in segments.iter().enumerate() {
        // A segment must begin with the record after the previous segment.
        if *first != tree.size() {
            return Err(VerifyFault::of(one.record(tree.size()), "the journal has a gap there"));
        }
        let last = place + 1 == segments.len();
        let (found, walk) = segment(one, path, last, &tree, &mut under, &marks)?;
        pending.extend(found);
        (tree, torn) = (walk.tree, walk.torn);
    }
    let acknowledged = AcknowledgedTree::largest(&marks);
    if tree.size() < acknowledged {
        return Err(VerifyFault::of(
            one.record(tree.size()),
            format!("the log ends before it, but {acknowledged} were acknowledged"),
        ));
    }
    // The next epoch has recorded the size that was left. More records were added later.
    if let Some(left) = &one.left
        && left.size < tree.size()
    {
        return Err(VerifyFault::of(one.record(left.size), "a loss has left no record there"));
    }
    unfinished(one, signed, edge, &pending, extra)?;
    let first = if signed.size == 0 { pending.first().cloned() } else { None };
    Ok(Walked { size: tree.size(), root: tree.root(), torn, first })
}

/// The fault of a root that differs from an acknowledged one.
fn other_root(one: &One<'_>, size: u64) -> VerifyFault {
    let what =
        format!("the root over the first {size} records is not the one that was acknowledged");
    VerifyFault::of(FaultLocation::epoch(&one.name()), what)
}

/// The size and root of a checkpoint.
const fn mark(checkpoint: &Checkpoint) -> AcknowledgedTree {
    AcknowledgedTree { size: checkpoint.size, root: checkpoint.root }
}

/// The root over the part that a loss has left; `None` where it is not a hash in base64.
fn root_of(left: &Left) -> Option<Hash> {
    STANDARD.decode(&left.root).ok()?.try_into().ok()
}

/// The checkpoint in the head. The head gets every checkpoint before the folder does, so a head
/// that still has none under the checkpoint `signed` was replaced. That is a fault.
fn head_note<'h>(
    one: &One<'_>,
    heads: &'h HeadContent,
    signed: &Checkpoint,
) -> Result<Option<Cow<'h, str>>, VerifyFault> {
    if let Some(note) = &heads.note {
        return Ok(Some(Cow::Borrowed(note)));
    }
    if signed.size == 0 {
        return Ok(None);
    }
    let Some(newer) = heads.newer() else {
        return Err(VerifyFault::of(
            FaultLocation::epoch(&one.name()),
            "the head has no checkpoint any more",
        ));
    };
    // The head of a later epoch has no checkpoint of this one.
    if newer.head.origin != signed.origin {
        return Ok(None);
    }
    Ok(newer.note.map(Cow::Owned))
}

/// The sizes of the tree whose roots are known.
fn marks(
    one: &One<'_>,
    signed: &Checkpoint,
    head: Option<&HeadContent>,
    keys: &LogKeys,
) -> Result<Vec<AcknowledgedTree>, VerifyFault> {
    let mut marks = vec![mark(signed)];
    if let Some(heads) = head {
        marks.push(AcknowledgedTree { size: heads.head.size, root: heads.head.root });
        if let Some(note) = head_note(one, heads, signed)? {
            let noted = keys.open(&note).map_err(|fault| {
                VerifyFault::of(
                    FaultLocation::epoch(&one.name()),
                    format!("the head's checkpoint: {fault}"),
                )
            })?;
            marks.push(mark(&noted));
        }
    }
    // All records of the earlier checkpoint must still be there, in tiles or in the journal.
    if let Some(Since(since)) = one.since
        && since.origin == signed.origin
    {
        marks.push(mark(since));
    }
    if let Some(left) = &one.left {
        let Some(root) = root_of(left) else {
            return Err(VerifyFault::of(
                FaultLocation::epoch(&one.name()),
                "the record of its loss has no root of the part that is left",
            ));
        };
        marks.push(AcknowledgedTree { size: left.size, root });
    }
    Ok(marks)
}

/// Verifies a segment that follows `tree`. Returns its records after the checkpoint `under`.
fn segment(
    one: &mut One<'_>,
    path: &Path,
    last: bool,
    tree: &Tree,
    under: &mut Tiles,
    marks: &[AcknowledgedTree],
) -> Result<(Vec<Vec<u8>>, journal::SegmentContent), VerifyFault> {
    let mut bytes = read(path)?;
    let at = one.at.clone();
    loop {
        let mut pending = Vec::new();
        let walk = journal::walk(&bytes, tree, marks, last, |index, record| {
            if index >= under.size() {
                one.check_envelope(index, record)?;
                pending.push(record.to_vec());
            } else if !under.record(index).is_ok_and(|known| known == record) {
                return Err(VerifyFault::of(
                    one.record(index),
                    "the journal has another record than the tiles",
                ));
            }
            Ok(())
        });
        // The file may have been read during a write. Then a second read differs.
        let again = if walk.is_err() && last { read(path)? } else { Vec::new() };
        if walk.is_ok() || !last || again == bytes {
            return Ok((pending, walk.map_err(|fault| segment_fault(one, path, fault))?));
        }
        bytes = again;
        one.at.clone_from(&at);
    }
}

/// Converts the fault of a segment, with its location.
fn segment_fault(
    one: &One<'_>,
    path: &Path,
    fault: journal::SegmentFault<VerifyFault>,
) -> VerifyFault {
    match fault {
        journal::SegmentFault::Record { fault, .. } => fault,
        journal::SegmentFault::Damaged { index, offset, fault } => VerifyFault::of(
            one.record(index),
            format!("{} (byte {offset}): {fault}", path.display()),
        ),
        journal::SegmentFault::Head { size } => other_root(one, size),
    }
}

/// The bytes of a segment.
fn read(path: &Path) -> Result<Vec<u8>, durable::DiskFault> {
    fs::read(path).map_err(durable::DiskFault::of("read", path))
}

/// Checks the files of an interrupted checkpoint. Allowed are files that begin like the journal's
/// records, and partial tiles of the previous checkpoint. Any other file is a fault.
fn unfinished(
    one: &One<'_>,
    signed: &Checkpoint,
    mut edge: Edge,
    pending: &[Vec<u8>],
    extra: &[ExtraFile],
) -> Result<(), VerifyFault> {
    if extra.is_empty() {
        return Ok(());
    }
    let tiles = Tiles::new(one.folder, signed.size);
    let mut known: HashMap<(Option<u8>, u64), Vec<u8>> = HashMap::new();
    let mut bundle = Vec::new();
    let ragged = signed.size % 256;
    if ragged > 0 {
        tiles.bundle(signed.size / 256)?.iter().for_each(|record| bundle_push(&mut bundle, record));
    }
    for record in pending {
        bundle_push(&mut bundle, record);
        for full in edge.push(record) {
            if full.level == 0 {
                known.insert((None, full.index), std::mem::take(&mut bundle));
            }
            known.insert((Some(full.level), full.index), tile_bytes(&full.hashes));
        }
    }
    known.insert((None, edge.size() / 256), bundle);
    for (tile, hashes) in edge.partial() {
        known.insert((tile.level, tile.index), tile_bytes(hashes));
    }
    for ExtraFile { tile, path } in extra {
        let level = u32::from(tile.level.unwrap_or(0));
        let bytes = match fs::read(path) {
            // An unneeded file that was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(durable::DiskFault::of("read", path))?,
        };
        let whole = match known.get(&(tile.level, tile.index)) {
            Some(whole) => whole.clone(),
            // A partial tile of an earlier checkpoint, whose full tile exists now.
            None if tile.width < WIDTH && tile.index < layout::hashes(signed.size, level + 1) => {
                tiles.bytes(Tile { width: WIDTH, ..*tile }).unwrap_or_default()
            }
            None => {
                return Err(VerifyFault::of(FaultLocation::file(path), "it does not belong there"));
            }
        };
        let count =
            if tile.level.is_some() { whole.len() / 32 } else { bundle_records(&whole).count() };
        // A torn write leaves a prefix. More hashes than the name states, or other bytes, are a
        // fault.
        let most = if tile.level.is_some() { 32 * tile.width } else { u64::MAX };
        if !whole.starts_with(&bytes) || bytes.len() as u64 > most || tile.width > count as u64 {
            return Err(VerifyFault::of(FaultLocation::file(path), "it does not belong there"));
        }
    }
    Ok(())
}
