//! Tiles that are left of an epoch whose records were moved away: as far as they can be, they are held against each other.

use std::collections::BTreeMap;
use std::path::Path;

use super::fault::{FaultLocation, VerifyFault};
use crate::audit::read::tiles::Tiles;
use crate::merkle::tile::{Tile, WIDTH};
use crate::merkle::{Hash, perfect_root};

/// That every tile that is there has the hashes of those below it, where those are all there.
pub(super) fn agree(tiles: &Tiles, folder: &Path) -> Result<(), VerifyFault> {
    // The hashes of a level by their place, as the tiles below give them.
    let mut below: BTreeMap<u64, Hash> = BTreeMap::new();
    for level in 0..8_u8 {
        let count = tiles.size() >> (8 * u32::from(level));
        let mut known = std::mem::take(&mut below);
        for index in 0..count.div_ceil(WIDTH) {
            let width = (count - index * WIDTH).min(WIDTH);
            let tile = Tile { level: Some(level), index, width };
            let path = folder.join(tile.path());
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
