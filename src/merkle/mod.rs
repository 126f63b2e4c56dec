//! The hash tree over a log (RFC 6962 section 2.1), which grows leaf by leaf.

pub mod proof;
pub mod tile;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a leaf, a node or a root.
pub type Hash = [u8; 32];

/// The hash of one entry: SHA-256 of `0x00` and its bytes.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    // The prefix separates leaves from nodes, so that a node cannot be presented as an entry (RFC
    // 6962 section 2.1).
    sha.update([0x00]);
    sha.update(entry);
    sha.finalize().into()
}

/// The hash of two subtrees side by side: SHA-256 of `0x01`, the left hash and the right one.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut sha = Sha256::new();
    sha.update([0x01]);
    sha.update(left);
    sha.update(right);
    sha.finalize().into()
}

/// A tree that keeps only its right edge. That is enough to append leaves and to compute the root
/// at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// The roots of the perfect subtrees, one for each one bit of the size, the largest first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// The tree of that size with these roots of its perfect subtrees, the largest first. `None`
    /// where their number is not the number of one bits of the size.
    #[must_use]
    pub fn of_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()).ok()? == peaks.len()).then_some(Self { size, peaks })
    }

    /// The number of leaves, which is also the index of the next one.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends one entry.
    pub fn push(&mut self, entry: &[u8]) {
        self.push_hash(leaf_hash(entry));
    }

    /// Appends the entry with this leaf hash.
    pub fn push_hash(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one bit of the old size is a perfect subtree. The new leaf completes it to
        // one of twice its size.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root over all leaves so far. For the empty tree it is SHA-256 of the empty text.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_right = self.peaks.iter().rev();
        match from_right.next() {
            // The smaller subtrees are on the right (RFC 6962 section 2.1), so the hashes are
            // joined from there.
            Some(last) => from_right.fold(*last, |right, left| node_hash(left, &right)),
            None => Sha256::digest([]).into(),
        }
    }
}

/// The root of a perfect subtree from the hashes of the subtrees below it, whose number must be a
/// power of two.
#[must_use]
pub fn perfect_root(hashes: &[Hash]) -> Option<Hash> {
    match hashes {
        [one] => Some(*one),
        many if many.len().is_power_of_two() => {
            let (left, right) = many.split_at(many.len() / 2);
            Some(node_hash(&perfect_root(left)?, &perfect_root(right)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, word for word, as a reference.
    fn defined(entries: &[Vec<u8>]) -> Hash {
        match entries {
            [] => Sha256::digest([]).into(),
            [one] => leaf_hash(one),
            many => {
                let split = many.len().next_power_of_two() / 2;
                node_hash(&defined(&many[..split]), &defined(&many[split..]))
            }
        }
    }

    #[track_caller]
    fn root(leaves: &[&str], expect: &str) {
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.push(leaf.as_bytes()));
        assert_eq!(
            tree.root().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            expect
        );
    }

    #[test]
    fn known_roots() {
        root(&[], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        root(&[""], "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        root(&["", "\0"], "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        root(
            &["", "\0", "\x10"],
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        );
    }

    #[test]
    fn grows_as_defined() {
        let entries: Vec<Vec<u8>> =
            (0_u8..70).map(|number| vec![number; usize::from(number)]).collect();
        let mut tree = Tree::new();
        for (size, entry) in entries.iter().enumerate() {
            assert_eq!(tree.root(), defined(&entries[..size]), "size {size}");
            tree.push(entry);
        }
        assert_eq!(tree.size(), 70);
    }
}
