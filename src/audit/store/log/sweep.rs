//! Removes, at a start, the partial tiles that a crash has left at the tree's right edge.

use std::ffi::OsStr;
use std::fs;

use super::LogFault;
use super::integrate::Checkpointer;
use crate::merkle::tile::{Tile, WIDTH};

/// Removes partial tiles of a size other than the checkpoint's. Partial tiles of earlier
/// checkpoints are included: a power failure may have undone their removal. The search covers the
/// newest two folders of a thousand tiles each.
pub(super) fn sweep(checkpointer: &Checkpointer) -> Result<(), LogFault> {
    let current = Tile::partial(checkpointer.size());
    for level in std::iter::once(None).chain((0..8).map(Some)) {
        // A tile path has groups of three digits (C2SP tlog-tiles), so a folder contains a thousand
        // tiles.
        let newest = (checkpointer.size() >> (8 * u32::from(level.unwrap_or(0)))) / WIDTH;
        for thousand in [(newest / 1000).checked_sub(1), Some(newest / 1000)].into_iter().flatten()
        {
            let first = checkpointer
                .epoch
                .join(Tile { level, index: thousand * 1000, width: WIDTH }.path());
            let Some(folder) = first.parent() else { continue };
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if let Some(index) = index_of(&entry.file_name()) {
                    let full = Tile { level, index: thousand * 1000 + index, width: WIDTH };
                    sweep_one(checkpointer, full, &current)?;
                }
            }
        }
    }
    Ok(())
}

/// The index within its thousand, from the name of a folder of partial tiles: `007.p`.
fn index_of(folder: &OsStr) -> Option<u64> {
    folder.to_str()?.strip_suffix(".p")?.parse().ok()
}

/// The width of a partial tile, which is its file's name.
fn width_of(file: &OsStr) -> Option<u64> {
    file.to_str()?.parse().ok()
}

/// Removes the partial tiles of the index that the tile `full` has.
fn sweep_one(checkpointer: &Checkpointer, full: Tile, current: &[Tile]) -> Result<(), LogFault> {
    let folder = checkpointer.epoch.join(full.path() + ".p");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let tile = Tile { width: width_of(&entry.file_name()).unwrap_or(0), ..full };
        if !current.contains(&tile) {
            checkpointer.take_away(tile)?;
        }
    }
    // A crash may leave the folder without its file. A folder that is not empty stays.
    let _ = fs::remove_dir(&folder);
    Ok(())
}
