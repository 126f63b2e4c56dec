//! The files and folders that the newest checkpoint depends on. They must be unchanged before the
//! journal's segments below the checkpoint are removed.

use std::path::Path;

use super::LogFault;
use crate::durable::{Changed, DiskFault, Identity};
use crate::merkle::tile::{Tile, WIDTH};

/// The folders that every tree has.
const FOLDERS: [&str; 3] = ["tile", "tile/entries", "tile/0"];

/// The tiles and bundles at the right edge of a tree of `size` leaves: the partial ones, and the
/// newest full one of each level.
fn edge(size: u64) -> Vec<Tile> {
    let mut found = Tile::partial(size);
    // A level has 8 bits of the index. Level 7 would need 2^64 records before its first full tile.
    for level in 0..7_u8 {
        let Some(index) = (size >> (8 * (u32::from(level) + 1))).checked_sub(1) else { break };
        found.push(Tile { level: Some(level), index, width: WIDTH });
        if level == 0 {
            found.push(Tile { level: None, index, width: WIDTH });
        }
    }
    found
}

/// The current identities of all files that a checkpoint of `size` records in the folder `epoch`
/// depends on.
pub(super) fn look(epoch: &Path, size: u64) -> Result<Vec<Identity>, LogFault> {
    if size == 0 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for folder in FOLDERS {
        // Folders grow with each checkpoint, so only their inode is compared, and never their
        // length.
        found.push(at(&epoch.join(folder), Identity::growing)?);
    }
    for tile in edge(size) {
        found.push(at(&epoch.join(tile.path()), Identity::at)?);
    }
    found.push(at(&epoch.join("checkpoint"), Identity::at)?);
    Ok(found)
}

/// The identity of one path. A missing file is a change; any other fault of the check may be a
/// shortage.
fn at(
    path: &Path,
    look: impl FnOnce(&Path) -> Result<Identity, DiskFault>,
) -> Result<Identity, LogFault> {
    look(path).map_err(|fault| {
        if fault.error.kind() == std::io::ErrorKind::NotFound {
            LogFault::Changed(Changed::Missing(path.to_owned()))
        } else {
            LogFault::of_change(Changed::Unreadable(fault))
        }
    })
}

/// Checks that all of them are unchanged.
pub(super) fn check(checkpoint_files: &[Identity]) -> Result<(), LogFault> {
    checkpoint_files.iter().try_for_each(|file| file.check().map_err(LogFault::of_change))
}

/// Checks that the folders of `before` are the same as in `now`. A replaced folder would contain
/// only the newest tiles.
pub(super) fn same_folders(before: &[Identity], now: &[Identity]) -> Result<(), LogFault> {
    for folder in before {
        if folder.grows() && !now.iter().any(|file| file.is_same(folder)) {
            return Err(LogFault::Changed(Changed::Replaced(folder.path().to_owned())));
        }
    }
    Ok(())
}
