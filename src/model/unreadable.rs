//! The faults of answers that cannot be read, and the limits for reading.

/// The maximum number of choices in one answer.
pub(super) const CHOICES_MAX: u64 = 1_024;
/// The maximum depth of an answer that is searched.
pub(super) const DEPTH_MAX: usize = 64;

/// The error for an answer that cannot be searched, so that no check of it is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or one of its strings is invalid.
    #[error("the answer is not JSON")]
    Json,
    /// The index of a choice or block is invalid.
    #[error(
        "the index of a choice is not a whole number below {CHOICES_MAX} or occurs twice, or that \
            of a block decreases"
    )]
    Index,
    /// One object has two texts under one name.
    #[error("a member of the answer occurs twice")]
    Twice,
    /// An item of a response begins with a text, which clients join with its deltas or ignore.
    #[error("an item of the answer begins with a text")]
    Begun,
    /// It is deeper than `DEPTH_MAX`.
    #[error("the answer is nested deeper than {DEPTH_MAX}")]
    Depth,
}
