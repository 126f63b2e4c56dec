//! Why an answer cannot be read, and the limits within which one is read.

/// Choices of one answer.
pub(super) const CHOICES_MAX: u64 = 1_024;
/// Depth of an answer that is looked through.
pub(super) const DEPTH_MAX: usize = 64;

/// An answer that cannot be looked through, so that nothing can be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or a string of it is not.
    #[error("the answer is not JSON")]
    Json,
    /// A choice whose number is none.
    #[error(
        "the index of a choice is not a whole number below {CHOICES_MAX} or stands there twice, or that of a block goes back"
    )]
    Index,
    /// Two texts under one name in one object.
    #[error("a member of the answer stands there twice")]
    Twice,
    /// Deeper than `DEPTH_MAX`.
    #[error("the answer is nested deeper than {DEPTH_MAX}")]
    Depth,
}
