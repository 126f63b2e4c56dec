//! Checks that a log's folder contains only known files. An unknown file could hide data, or show
//! that another program writes there.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::fault::{FaultLocation, VerifyFault};
use crate::audit::read::tiles::epoch_number;
use crate::durable;
use crate::merkle::tile::{Tile, WIDTH};

/// Lists a folder in order. A symbolic link is a fault: its target is not in the checked folder.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, VerifyFault> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(durable::DiskFault::of("list", folder))? {
        let entry = entry.map_err(durable::DiskFault::of("list", folder))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            return Err(VerifyFault::of(FaultLocation::file(&path), "it is a symbolic link"));
        }
        found.push((entry.file_name().to_string_lossy().into_owned(), path));
    }
    found.sort();
    Ok(found)
}

/// The fault of an unknown file.
fn stray(path: &Path) -> VerifyFault {
    VerifyFault::of(FaultLocation::file(path), "it does not belong there")
}

/// Checks the folder of all epochs.
pub(super) fn top(dir: &Path) -> Result<(), VerifyFault> {
    let (mut expected, mut epochs) = (1, 0);
    for (name, path) in list(dir)? {
        match name.as_str() {
            "tmp" => {}
            "reserve" => zeros(&path)?,
            epoch => {
                // The list is sorted, and the names have a fixed width. So the epochs come in
                // order.
                let number = epoch_number(epoch).ok_or_else(|| stray(&path))?;
                // The first epoch may have any number: an archive or an export can begin later.
                if number != expected && expected != 1 {
                    return Err(VerifyFault::of(
                        FaultLocation::epoch(epoch),
                        "the epoch before it is missing",
                    ));
                }
                expected = number + 1;
                epochs += 1;
                self::epoch(&path)?;
            }
        }
    }
    if epochs == 0 {
        Err(VerifyFault::of(
            FaultLocation::file(dir),
            "there is no epoch: it is not the folder of a log",
        ))
    } else {
        Ok(())
    }
}

/// Checks the names in an epoch's folder.
fn epoch(folder: &Path) -> Result<(), VerifyFault> {
    for (name, path) in list(folder)? {
        match name.as_str() {
            "tile" | "journal" if path.is_dir() => {}
            "checkpoint" if path.is_file() => {}
            // The lock is an empty file; content in it would be hidden data.
            "lock" if fs::metadata(&path).is_ok_and(|about| about.len() == 0) => {}
            _ => return Err(stray(&path)),
        }
    }
    Ok(())
}

/// Checks that `path`, if it exists, is a folder without symbolic links.
pub(super) fn folder(path: &Path) -> Result<(), VerifyFault> {
    if path.is_dir() || !path.exists() {
        if path.exists() {
            list(path)?;
        }
        return Ok(());
    }
    Err(stray(path))
}

/// Checks that the reserve contains only zeros.
fn zeros(path: &Path) -> Result<(), VerifyFault> {
    let mut file = File::open(path).map_err(durable::DiskFault::of("open", path))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut piece).map_err(durable::DiskFault::of("read", path))?;
        if read == 0 {
            return Ok(());
        }
        // No checkpoint covers this file, so any other content could be hidden data.
        if piece.iter().take(read).any(|byte| *byte != 0) {
            return Err(VerifyFault::of(FaultLocation::file(path), "the reserve is not zeros"));
        }
    }
}

/// The number of hashes that a tree of `size` records has on a level of its tiles.
pub(super) fn hashes(size: u64, level: u32) -> u64 {
    size.checked_shr(8 * level).unwrap_or(0)
}

/// Whether a tree of `size` records has that file.
fn belongs(tile: Tile, size: u64) -> bool {
    let count = hashes(size, u32::from(tile.level.unwrap_or(0)));
    (tile.width == WIDTH && tile.index < count / WIDTH) || Tile::partial(size).contains(&tile)
}

/// Lists the files below a folder. The folder may be removed meanwhile, with the last partial tile
/// of an earlier checkpoint.
fn below(folder: &Path, path: &str, found: &mut Vec<(String, PathBuf)>) -> Result<(), VerifyFault> {
    let listed = match list(folder) {
        // A gateway may remove a partial tile with its folder during the listing.
        Err(_) if !folder.exists() => return Ok(()),
        listed => listed?,
    };
    for (name, entry) in listed {
        let path = format!("{path}/{name}");
        if entry.is_dir() {
            below(&entry, &path, found)?;
        } else {
            found.push((path, entry));
        }
    }
    Ok(())
}

/// A file of an interrupted checkpoint.
pub(super) struct ExtraFile {
    pub(super) tile: Tile,
    pub(super) path: PathBuf,
}

/// Checks that every name below `tile` is a tile's name. Returns the files that a tree of `size`
/// records does not have: those of an interrupted checkpoint. Other functions check the content,
/// and that no tile is missing.
pub(super) fn extra(folder: &Path, size: u64) -> Result<Vec<ExtraFile>, VerifyFault> {
    let mut found = Vec::new();
    if folder.join("tile").exists() {
        below(&folder.join("tile"), "tile", &mut found)?;
    }
    let mut extra = Vec::new();
    for (name, path) in found {
        let tile = Tile::read(&name).ok_or_else(|| stray(&path))?;
        if !belongs(tile, size) {
            extra.push(ExtraFile { tile, path });
        }
    }
    Ok(extra)
}
