//! The tree in files of 256 hashes: tiles after C2SP tlog-tiles.

use super::{Hash, Tree, leaf_hash, perfect_root};

/// The hashes in a full tile, and the records in a full bundle.
pub const WIDTH: u64 = 256;

/// A file of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// The level: 0 is the level of the leaf hashes. `None` for a bundle of records.
    pub level: Option<u8>,
    /// The number within the level.
    pub index: u64,
    /// The number of hashes or records in it, 1 to 256.
    pub width: u64,
}

impl Tile {
    /// The path below an epoch's folder.
    #[must_use]
    pub fn path(&self) -> String {
        let level = self.level.map_or_else(|| "entries".to_owned(), |level| level.to_string());
        let index = index_path(self.index);
        if self.width == WIDTH {
            format!("tile/{level}/{index}")
        } else {
            format!("tile/{level}/{index}.p/{}", self.width)
        }
    }

    /// The tile at a path, where it is the path of one.
    #[must_use]
    pub fn read(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let level = if level == "entries" { None } else { Some(level.parse().ok()?) };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, WIDTH),
        };
        let index = number.split('/').try_fold(0_u64, |index, group| {
            let digits: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
            index.checked_mul(1000)?.checked_add(digits)
        })?;
        // Only the canonical spelling is accepted, because several texts could parse to one tile
        // (`+1`, leading zeros).
        let tile = Self { level, index, width };
        (tile.path() == path && (1..=WIDTH).contains(&width)).then_some(tile)
    }

    /// The partial tiles and the partial bundle at the right edge of a tree of `size` leaves, from
    /// the leaves upwards.
    #[must_use]
    pub fn partial(size: u64) -> Vec<Self> {
        let mut found = Vec::new();
        // Eight levels of 256 are enough for 2^64 leaves.
        for level in 0..8_u8 {
            let count = size >> (8 * u32::from(level));
            if count == 0 {
                break;
            }
            let (index, width) = (count / WIDTH, count % WIDTH);
            if width > 0 {
                found.push(Self { level: Some(level), index, width });
                if level == 0 {
                    found.push(Self { level: None, index, width });
                }
            }
        }
        found
    }
}

/// The number of a tile as tlog-tiles writes it: groups of three digits, and an `x` before all but
/// the last one.
#[must_use]
pub fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// The right edge of a tree: the hashes of each level's partial tile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// The number of leaves.
    size: u64,
    /// The hashes of the partial tile of each level, from the leaves upwards.
    levels: Vec<Vec<Hash>>,
}

/// A tile of hashes that is now full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// The level.
    pub level: u8,
    /// The number within the level.
    pub index: u64,
    /// The 256 hashes.
    pub hashes: Vec<Hash>,
}

impl Edge {
    /// The edge of the empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, levels: Vec::new() }
    }

    /// The edge of a tree of `size` leaves. `read` reads its partial tiles.
    ///
    /// # Errors
    /// The faults of `read`. It must return exactly the hashes of the tile.
    pub fn load<E>(
        size: u64,
        mut read: impl FnMut(Tile) -> Result<Vec<Hash>, E>,
    ) -> Result<Self, E> {
        let mut levels = Vec::new();
        for level in 0..8_u8 {
            let count = size >> (8 * u32::from(level));
            if count == 0 {
                break;
            }
            let width = count % WIDTH;
            let tile = Tile { level: Some(level), index: count / WIDTH, width };
            // An empty partial tile is not a file.
            levels.push(if width == 0 { Vec::new() } else { read(tile)? });
        }
        Ok(Self { size, levels })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a record. Returns the tiles that it makes full.
    pub fn push(&mut self, record: &[u8]) -> Vec<FullTile> {
        self.push_leaf(leaf_hash(record))
    }

    /// Appends the record with this leaf hash. Returns the tiles that it makes full.
    pub fn push_leaf(&mut self, leaf: Hash) -> Vec<FullTile> {
        let mut full = Vec::new();
        let mut hash = leaf;
        let mut index = self.size;
        for level in 0..8_u8 {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::with_capacity(256));
            }
            let Some(tile) = self.levels.get_mut(usize::from(level)) else { break };
            tile.push(hash);
            if tile.len() < 256 {
                break;
            }
            let hashes = std::mem::replace(tile, Vec::with_capacity(256));
            // 256 hashes are a perfect subtree, whose root goes to the next level.
            let Some(above) = perfect_root(&hashes) else { break };
            index /= WIDTH;
            full.push(FullTile { level, index, hashes });
            hash = above;
        }
        self.size += 1;
        full
    }

    /// The partial tiles.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        Tile::partial(self.size).into_iter().filter_map(|tile| {
            let hashes = self.levels.get(usize::from(tile.level?))?;
            Some((tile, hashes.as_slice()))
        })
    }

    /// The tree with this edge.
    #[must_use]
    pub fn tree(&self) -> Tree {
        let mut peaks = Vec::new();
        // The highest level has the largest subtrees, which come first.
        for level in self.levels.iter().rev() {
            let mut rest = level.as_slice();
            while !rest.is_empty() {
                let (subtree, behind) = rest.split_at(1 << rest.len().ilog2());
                peaks.extend(perfect_root(subtree));
                rest = behind;
            }
        }
        Tree::of_peaks(self.size, peaks).unwrap_or_default()
    }
}

/// The bytes of a tile.
#[must_use]
pub fn tile_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes in the bytes of a tile; `None` where their number is not `width`.
#[must_use]
pub fn tile_hashes(bytes: &[u8], width: u64) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && hashes.len() as u64 == width).then(|| hashes.to_vec())
}

/// Appends a record to a bundle.
pub fn bundle_push(bundle: &mut Vec<u8>, record: &[u8]) {
    // A record has at most 65,535 bytes.
    let length = u16::try_from(record.len()).unwrap_or(u16::MAX);
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(record);
}

/// The records in the bytes of a bundle. The last item is `Err` where the bytes end inside a
/// record.
pub fn bundle_records(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Uneven>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((record, after)) = first_record(rest) else {
            // The iteration ends after the fault.
            rest = &[];
            return Some(Err(Uneven));
        };
        rest = after;
        Some(Ok(record))
    })
}

/// The first record in the bytes of a bundle, and the bytes after it. `None` where the bytes end
/// inside the record.
fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// A bundle ends inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it ends in the middle of a record")]
pub struct Uneven;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn paths_are_those_of_the_standard() {
        let path = |level, index, width| Tile { level, index, width }.path();
        assert_eq!(path(Some(0), 0, 256), "tile/0/000");
        assert_eq!(path(Some(2), 1_234_067, 256), "tile/2/x001/x234/067");
        assert_eq!(path(None, 1000, 17), "tile/entries/x001/000.p/17");
    }

    #[test]
    fn an_edge_is_the_tree_and_comes_back_from_its_tiles() {
        let (mut edge, mut tree) = (Edge::new(), Tree::new());
        let mut files: BTreeMap<(u8, u64), Vec<Hash>> = BTreeMap::new();
        for number in 0..66_000_u64 {
            let record = number.to_be_bytes();
            for full in edge.push(&record) {
                files.insert((full.level, full.index), full.hashes);
            }
            tree.push(&record);
            if number % 977 == 0 || (65_530..65_540).contains(&number) {
                assert_eq!(edge.tree(), tree, "size {}", number + 1);
                let loaded = Edge::load(edge.size(), |tile| {
                    let found = edge
                        .partial()
                        .find(|(known, _)| *known == tile)
                        .map(|(_, hashes)| hashes.to_vec());
                    found.ok_or(tile)
                });
                assert_eq!(loaded.map(|loaded| loaded.tree()), Ok(tree.clone()));
            }
        }
        assert_eq!(files.keys().filter(|(level, _)| *level == 0).count(), 257);
        assert_eq!(files.keys().filter(|(level, _)| *level == 1).count(), 1);
    }

    #[test]
    fn bundles_come_back_or_are_uneven() {
        let mut bundle = Vec::new();
        for record in [&b"one"[..], b"", b"three"] {
            bundle_push(&mut bundle, record);
        }
        let records: Result<Vec<_>, _> = bundle_records(&bundle).collect();
        assert_eq!(records, Ok(vec![&b"one"[..], b"", b"three"]));
        for cut in 1..bundle.len() {
            let read: Result<Vec<_>, _> = bundle_records(&bundle[..cut]).collect();
            assert!(read.is_err() || cut == 5 || cut == 7, "{cut}");
        }
    }
}
