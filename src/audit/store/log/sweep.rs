//! What a crash has left at the tree's right edge is taken away at the next start.

use std::fs;

use super::LogFault;
use super::integrate::Checkpointer;
use crate::merkle::tile::{Tile, WIDTH};

/// Takes away what a crash has left at the tree's right edge: partial tiles of another size. Those of former checkpoints too, whose
/// removal a power cut may have undone: as far back as folders of a thousand tiles reach.
pub(super) fn sweep(checkpointer: &Checkpointer) -> Result<(), LogFault> {
    let current = Tile::partial(checkpointer.size());
    for level in std::iter::once(None).chain((0..8).map(Some)) {
        let newest = (checkpointer.size() >> (8 * u32::from(level.unwrap_or(0)))) / WIDTH;
        for thousand in [(newest / 1000).checked_sub(1), Some(newest / 1000)].into_iter().flatten()
        {
            let first = checkpointer
                .epoch
                .join(Tile { level, index: thousand * 1000, width: WIDTH }.path());
            let Some(folder) = first.parent() else { continue };
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let index =
                    name.to_str().and_then(|name| name.strip_suffix(".p")?.parse::<u64>().ok());
                if let Some(index) = index {
                    sweep_one(checkpointer, (level, thousand * 1000 + index), &current)?;
                }
            }
        }
    }
    Ok(())
}

/// The partial tiles of one place.
fn sweep_one(
    checkpointer: &Checkpointer,
    (level, index): (Option<u8>, u64),
    current: &[Tile],
) -> Result<(), LogFault> {
    let folder = checkpointer.epoch.join(Tile { level, index, width: WIDTH }.path() + ".p");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let width = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        let tile = Tile { level, index, width };
        if !current.contains(&tile) {
            checkpointer.take_away(tile)?;
        }
    }
    // Made before the file that was to be in it.
    let _ = fs::remove_dir(&folder);
    Ok(())
}
