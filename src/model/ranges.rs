//! Parts of byte slices by their offsets, without a panic.

use std::slice::SliceIndex;

/// The bytes of a range. They are empty if the range is outside of `bytes`, as with a length from a
/// body that is longer than the body.
pub(super) fn part(bytes: &[u8], range: impl SliceIndex<[u8], Output = [u8]>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}
