//! Verifies the journal after a checkpoint, the head, and the files of an interrupted checkpoint.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fault::{FaultLocation, VerifyFault};
use super::heads::HeadContent;
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
    (head, keys): (Option<&HeadContent>, &LogKeys),
    extra: &[(Tile, PathBuf)],
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
    let first = segments.first().map_or(signed.size, |(first, _)| *first);
    // A gap between the tiles and the journal means lost records.
    if first > signed.size {
        return Err(VerifyFault::of(
            one.record(signed.size),
            "it is neither in tiles nor in the journal",
        ));
    }
    let mut tree = tree_at(&mut under, first)?;
    // The walk of the journal checks only marks after its first record. These are below it.
    for mark in marks.iter().filter(|mark| mark.size <= first) {
        if tree_at(&mut under, mark.size)?.root() != mark.root {
            let what = format!(
                "the root over the first {} records is not the one that was acknowledged",
                mark.size
            );
            return Err(VerifyFault::of(FaultLocation::epoch(&one.name()), what));
        }
    }
    let (mut pending, mut torn) = (Vec::new(), 0);
    for (place, (first, path)) in segments.iter().enumerate() {
        // A segment must begin with the record after the previous segment.
        if *first != tree.size() {
            return Err(VerifyFault::of(one.record(tree.size()), "the journal has a gap there"));
        }
        let last = place + 1 == segments.len();
        let (found, walk) = segment(one, (path, last), &tree, (&mut under, &marks))?;
        pending.extend(found);
        (tree, torn) = (walk.tree, walk.torn);
    }
    let acknowledged = marks.iter().map(|mark| mark.size).max().unwrap_or(0);
    if tree.size() < acknowledged {
        return Err(VerifyFault::of(
            one.record(tree.size()),
            format!("the log ends before it, but {acknowledged} were acknowledged"),
        ));
    }
    // The next epoch has recorded the size that was left. More records were added later.
    if let Some(left) = one.left.as_ref().filter(|left| left.size < tree.size()) {
        return Err(VerifyFault::of(one.record(left.size), "a loss has left no record there"));
    }
    unfinished(one, signed, edge, (&pending, extra))?;
    let first = if signed.size == 0 { pending.first().cloned() } else { None };
    Ok(Walked { size: tree.size(), root: tree.root(), torn, first })
}

/// The sizes of the tree whose roots are known.
fn marks(
    one: &One<'_>,
    signed: &Checkpoint,
    head: Option<&HeadContent>,
    keys: &LogKeys,
) -> Result<Vec<AcknowledgedTree>, VerifyFault> {
    let mut marks = vec![AcknowledgedTree { size: signed.size, root: signed.root }];
    if let Some(heads) = head {
        marks.push(AcknowledgedTree { size: heads.head.size, root: heads.head.root });
        // The head gets every checkpoint before the folder does, so a head without one was
        // replaced.
        if heads.note.is_none() && signed.size > 0 {
            return Err(VerifyFault::of(
                FaultLocation::epoch(&one.name()),
                "the head has no checkpoint any more",
            ));
        }
        if let Some(note) = &heads.note {
            let noted = keys.open(note).map_err(|fault| {
                VerifyFault::of(
                    FaultLocation::epoch(&one.name()),
                    format!("the head's checkpoint: {fault}"),
                )
            })?;
            marks.push(AcknowledgedTree { size: noted.size, root: noted.root });
        }
    }
    // All records of the earlier checkpoint must still be there, in tiles or in the journal.
    let since = one.since.map(|since| &since.0).filter(|since| since.origin == signed.origin);
    marks.extend(since.map(|since| AcknowledgedTree { size: since.size, root: since.root }));
    if let Some(Left { size, root }) = &one.left {
        let root = STANDARD.decode(root).ok().and_then(|root| Hash::try_from(root).ok());
        let root = root.ok_or_else(|| {
            VerifyFault::of(
                FaultLocation::epoch(&one.name()),
                "what is said to be left of it has no root",
            )
        })?;
        marks.push(AcknowledgedTree { size: *size, root });
    }
    Ok(marks)
}

/// Verifies a segment that follows `tree`. Returns its records after the checkpoint `under`.
fn segment(
    one: &mut One<'_>,
    (path, last): (&Path, bool),
    tree: &Tree,
    (under, marks): (&mut Tiles, &[AcknowledgedTree]),
) -> Result<(Vec<Vec<u8>>, journal::SegmentContent), VerifyFault> {
    let read = || fs::read(path).map_err(durable::DiskFault::of("read", path));
    let mut bytes = read()?;
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
        let again = if walk.is_err() && last { read()? } else { Vec::new() };
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
        journal::SegmentFault::Head { size } => {
            let what = format!(
                "the root over the first {size} records is not the one that was acknowledged"
            );
            VerifyFault::of(FaultLocation::epoch(&one.name()), what)
        }
    }
}

/// Checks the files of an interrupted checkpoint. Allowed are files that begin like the journal's
/// records, and partial tiles of the previous checkpoint. Any other file is a fault.
fn unfinished(
    one: &One<'_>,
    signed: &Checkpoint,
    mut edge: Edge,
    (pending, extra): (&[Vec<u8>], &[(Tile, PathBuf)]),
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
    let full = |tile: &Tile| {
        signed.size.checked_shr(8 * (u32::from(tile.level.unwrap_or(0)) + 1)).unwrap_or(0)
    };
    for (tile, path) in extra {
        let bytes = match fs::read(path) {
            // An unneeded file that was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(durable::DiskFault::of("read", path))?,
        };
        let whole = match known.get(&(tile.level, tile.index)) {
            Some(whole) => whole.clone(),
            // A partial tile of an earlier checkpoint, whose full tile exists now.
            None if tile.width < WIDTH && tile.index < full(tile) => {
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
