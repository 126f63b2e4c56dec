//! Why bytes are not a record.

use crate::audit::format::key::RecordKeyId;
use crate::json;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A plain record where only sealed ones are written.
    #[error(
        "it is plain and was never acknowledged, and records are sealed here: somebody else wrote it (if [audit] records was \"plain\" until now, start with that once)"
    )]
    Unsealed,
    /// A record that may be missing. It was not acknowledged.
    #[error("it says that records may be missing, and was never acknowledged")]
    Unacknowledged,
    /// Not JSON at all.
    #[error("not JSON: {0}")]
    Json(json::JsonFault),
    /// A member is missing, of the wrong type, or its text does not name such a thing.
    #[error("member {0:?} is missing or not what it should be")]
    Member(&'static str),
    /// A `kind` that this version does not know.
    #[error("kind {0:?} is not known to this version")]
    Kind(String),
    /// Of a version that this build does not read.
    #[error("of version {0}, which a newer token-shield wrote: use that one, or a newer one")]
    Newer(u32),
    /// It says what a record says, but not in the one way to write it.
    #[error("not in canonical form, or with members that do not belong there")]
    Form,
    /// Its time lies before that of the record before it.
    #[error("its time lies before that of the record before it")]
    Earlier,
    /// A box that nothing here opens, of a kind that must be read.
    #[error("the record key {0} is not there: restore secret/record-keys")]
    KeyMissing(RecordKeyId),
    /// A box that does not open under the key that it names.
    #[error("its box does not open under the key that it names")]
    Closed,
    /// A name that would have to be cut to fit, and would then name something else.
    #[error("{member} has {bytes} bytes, a record keeps {most}")]
    TooLong {
        /// Which member.
        member: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
}
