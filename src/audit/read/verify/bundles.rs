//! Verifies the records and the tiles under a checkpoint.

use super::One;
use super::fault::{FaultLocation, VerifyFault};
use super::heads::Since;
use crate::audit::format::note::Checkpoint;
use crate::audit::read::tiles::Tiles;
use crate::merkle::tile::{Edge, FullTile, Tile, WIDTH, bundle_records, tile_bytes};
use crate::merkle::{Hash, leaf_hash};

/// The index of the first record below the hash at that place of a tile.
fn record_below(tile: Tile, place: u64) -> u64 {
    let level = u32::from(tile.level.unwrap_or(0));
    (tile.index * WIDTH + place) << (8 * level)
}

impl One<'_> {
    /// Verifies every full bundle between `edge` and the checkpoint, and every full tile above
    /// them.
    pub(super) fn bundles(
        &mut self,
        edge: &mut Edge,
        signed: &Checkpoint,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), VerifyFault> {
        for bundle in edge.size() / WIDTH..signed.size / WIDTH {
            self.bundle(edge, bundle, signed)?;
            progress(edge.size(), signed.size);
        }
        Ok(())
    }

    /// Verifies the records of a bundle, and the tiles that they complete.
    pub(super) fn bundle(
        &mut self,
        edge: &mut Edge,
        bundle: u64,
        signed: &Checkpoint,
    ) -> Result<(), VerifyFault> {
        let tiles = Tiles::new(self.folder, signed.size);
        let first = bundle * WIDTH;
        let tile = Tile { level: None, index: bundle, width: (signed.size - first).min(WIDTH) };
        let bytes =
            tiles.bytes(tile).map_err(|fault| VerifyFault::of(self.record(first), fault))?;
        let leaves = tiles
            .hashes(Tile { level: Some(0), ..tile })
            .map_err(|fault| VerifyFault::of(self.record(first), fault))?;
        let mut leaves = leaves.iter();
        let mut full = Vec::new();
        for (index, record) in (first..).zip(bundle_records(&bytes)) {
            let record = record.map_err(|fault| VerifyFault::of(self.record(index), fault))?;
            let Some(leaf) = leaves.next() else {
                return Err(VerifyFault::of(
                    FaultLocation::file(&self.folder.join(tile.path())),
                    "it has more records than its name says",
                ));
            };
            // Either the record or its hash was changed. In both cases this is the first defect.
            if *leaf != leaf_hash(record) {
                return Err(VerifyFault::of(
                    self.record(index),
                    "it is not the record of its hash",
                ));
            }
            self.check_envelope(index, record)?;
            full.extend(edge.push_leaf(*leaf));
            self.was(edge, signed)?;
        }
        if edge.size() != first + tile.width {
            return Err(VerifyFault::of(self.record(edge.size()), "its bundle ends before it"));
        }
        // The leaves' own tile was just compared with the records.
        for FullTile { level, index, hashes } in full {
            if level > 0 {
                self.equal(&tiles, Tile { level: Some(level), index, width: WIDTH }, &hashes)?;
            }
        }
        Ok(())
    }

    /// Checks that the file of a tile has these hashes.
    fn equal(&self, tiles: &Tiles, tile: Tile, hashes: &[Hash]) -> Result<(), VerifyFault> {
        let bytes = tiles
            .bytes(tile)
            .map_err(|fault| VerifyFault::of(self.record(record_below(tile, 0)), fault))?;
        let expect = tile_bytes(hashes);
        if bytes == expect {
            return Ok(());
        }
        // The first wrong hash gives the first record below it, for the report.
        let same = expect.iter().zip(&bytes).take_while(|(one, other)| one == other).count();
        let what = format!("{} does not hold the hash over it", tile.path());
        Err(VerifyFault::of(self.record(record_below(tile, same as u64 / 32)), what))
    }

    /// Verifies the tiles at the right edge, and the root.
    pub(super) fn root(
        &self,
        tiles: &Tiles,
        edge: &Edge,
        signed: &Checkpoint,
    ) -> Result<(), VerifyFault> {
        for (tile, hashes) in edge.partial() {
            self.equal(tiles, tile, hashes)?;
        }
        if edge.tree().root() != signed.root {
            let what = "the root over its records is not the one that its checkpoint signs";
            return Err(VerifyFault::of(FaultLocation::epoch(&self.name()), what));
        }
        Ok(())
    }

    /// Checks that the log still has all records of the earlier checkpoint.
    fn was(&self, edge: &Edge, signed: &Checkpoint) -> Result<(), VerifyFault> {
        let Some(Since(since)) = self.since.filter(|since| since.0.origin == signed.origin) else {
            return Ok(());
        };
        if edge.size() == since.size && edge.tree().root() != since.root {
            let what = format!(
                "the first {} records are not those that the former checkpoint covers",
                since.size
            );
            return Err(VerifyFault::of(FaultLocation::epoch(&self.name()), what));
        }
        Ok(())
    }
}
