//! Inclusion proofs: that a leaf is in a tree (RFC 6962 section 2.1.1).

use super::{Hash, Tree, node_hash};

/// The source of the hashes of perfect subtrees.
pub trait Nodes {
    /// Why a hash is not available.
    type Fault;

    /// The hash of the perfect subtree over `1 << level` leaves, from leaf `index << level` on.
    ///
    /// # Errors
    /// When the hash cannot be read.
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Self::Fault>;
}

/// The largest power of two below `size`, which must be at least 2.
const fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root over the leaves `from..to` of a larger tree, split as in RFC 6962.
fn range<N: Nodes>(nodes: &mut N, from: u64, to: u64) -> Result<Hash, N::Fault> {
    let size = to - from;
    // An aligned range of a power of two is a stored node, so no leaf below it is read.
    if size.is_power_of_two() && from.is_multiple_of(size) {
        return nodes.node(size.ilog2(), from / size);
    }
    let middle = from + split(size);
    Ok(node_hash(&range(nodes, from, middle)?, &range(nodes, middle, to)?))
}

/// The proof that leaf `index` is in the tree of `size` leaves. `index` must be below `size`.
///
/// # Errors
/// Those of `nodes`.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Fault> {
    let (mut from, mut to) = (0, size);
    let mut proof = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            proof.push(range(nodes, middle, to)?);
            to = middle;
        } else {
            proof.push(range(nodes, from, middle)?);
            from = middle;
        }
    }
    // RFC 6962 lists the hashes from the leaf to the root.
    proof.reverse();
    Ok(proof)
}

/// The root of the tree of `size` leaves with `leaf` at `index`, as the proof gives it. `None`
/// where the proof has the wrong length or the index is outside. The caller must compare the root.
#[must_use]
pub fn root_by(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    // The side of each step, from the root downwards.
    let (mut from, mut to) = (0, size);
    let mut sides = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        sides.push(index < middle);
        if index < middle {
            to = middle;
        } else {
            from = middle;
        }
    }
    // A proof of another length belongs to another position or another tree.
    if sides.len() != proof.len() {
        return None;
    }
    let mut hash = leaf;
    for (left, other) in sides.iter().rev().zip(proof) {
        hash = if *left { node_hash(&hash, other) } else { node_hash(other, &hash) };
    }
    Some(hash)
}

/// The tree over the first `size` leaves, from its perfect subtrees, the largest first.
///
/// # Errors
/// Those of `nodes`.
pub fn tree_at<N: Nodes>(nodes: &mut N, size: u64) -> Result<Tree, N::Fault> {
    let (mut peaks, mut from) = (Vec::new(), 0_u64);
    // One perfect subtree for each one bit of the size.
    for level in (0..64).rev() {
        if size >> level & 1 == 1 {
            peaks.push(nodes.node(level, from >> level)?);
            from += 1 << level;
        }
    }
    Ok(Tree::of_peaks(size, peaks).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::leaf_hash;
    use super::*;

    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Fault = std::convert::Infallible;
        fn node(&mut self, level: u32, index: u64) -> Result<Hash, Self::Fault> {
            let from = usize::try_from(index << level).expect("small");
            let root = super::super::perfect_root(&self.0[from..from + (1 << level)]);
            Ok(root.expect("a power of two"))
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proven_and_no_other() {
        let leaves: Vec<Hash> = (0_u8..40).map(|number| leaf_hash(&[number])).collect();
        for size in 1..=40_u64 {
            let mut tree = Tree::new();
            (0..size).for_each(|number| tree.push(&[u8::try_from(number).expect("small")]));
            let mut nodes = Leaves(leaves.clone());
            assert_eq!(tree_at(&mut nodes, size), Ok(tree.clone()));
            for index in 0..size {
                let Ok(proof) = inclusion(&mut nodes, index, size);
                let leaf = leaves[usize::try_from(index).expect("small")];
                assert_eq!(
                    root_by(leaf, index, size, &proof),
                    Some(tree.root()),
                    "{index} of {size}"
                );
                assert_ne!(root_by(leaf_hash(b"other"), index, size, &proof), Some(tree.root()));
                for wrong in (0..size).filter(|wrong| *wrong != index) {
                    assert_ne!(
                        root_by(leaf, wrong, size, &proof),
                        Some(tree.root()),
                        "{index} shown as {wrong} of {size}"
                    );
                }
                assert_eq!(root_by(leaf, size, size, &proof), None);
                if let Some((_, short)) = proof.split_first() {
                    assert_eq!(root_by(leaf, index, size, short), None);
                }
            }
        }
    }
}
