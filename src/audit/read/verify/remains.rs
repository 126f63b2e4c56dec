//! Checks the remaining tiles of a pruned epoch against each other, as far as possible.

use std::collections::BTreeMap;
use std::path::Path;

use super::fault::{FaultLocation, VerifyFault};
use crate::audit::read::tiles::Tiles;
use crate::merkle::tile::{Tile, WIDTH};
use crate::merkle::{Hash, perfect_root};

/// Checks that every existing tile has the hashes of the tiles below it, where those all exist.
pub(super) fn agree(tiles: &Tiles, folder: &Path) -> Result<(), VerifyFault> {
    // The hashes of the next level by their index, computed from the tiles of this level.
    let mut below: BTreeMap<u64, Hash> = BTreeMap::new();
    for level in 0..8_u8 {
        let count = tiles.size() >> (8 * u32::from(level));
        let mut known = std::mem::take(&mut below);
        for index in 0..count.div_ceil(WIDTH) {
            let width = (count - index * WIDTH).min(WIDTH);
            let tile = Tile { level: Some(level), index, width };
            let path = folder.join(tile.path());
            // A prune removes full tiles only. A missing partial tile is a fault, which `hashes`
            // reports.
            if width == WIDTH && !path.exists() {
                continue;
            }
            for (place, hash) in (index * WIDTH..).zip(tiles.hashes(tile)?) {
                if *known.entry(place).or_insert(hash) != hash {
                    return Err(VerifyFault::of(
                        FaultLocation::file(&path),
                        "it has not the hashes of the tiles below it",
                    ));
                }
            }
        }
        for index in 0..count / WIDTH {
            let hashes: Vec<Hash> =
                known.range(index * WIDTH..(index + 1) * WIDTH).map(|(_, hash)| *hash).collect();
            if hashes.len() as u64 == WIDTH {
                below.extend(perfect_root(&hashes).map(|root| (index, root)));
            }
        }
    }
    Ok(())
}
