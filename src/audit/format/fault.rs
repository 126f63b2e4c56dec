//! The reasons why bytes are not a valid record.

use crate::audit::format::key::RecordKeyId;
use crate::json;

/// The reasons why bytes are not a valid record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// An unacknowledged plain record in a log with encrypted records.
    #[error(
        "it is plain and was never acknowledged, and the records of this log are encrypted: \
            another program wrote it (if [audit] records was \"plain\" until now, start with that \
            once)"
    )]
    Unsealed,
    /// An unacknowledged record that states that records may be missing.
    #[error("it says that records may be missing, and was never acknowledged")]
    Unacknowledged,
    /// The bytes are not JSON.
    #[error("not JSON: {0}")]
    Json(json::JsonFault),
    /// A member is missing, has the wrong type, or is not a valid name.
    #[error("member {0:?} is missing or not what it should be")]
    Member(&'static str),
    /// A `kind` that this version does not know.
    #[error("kind {0:?} is not known to this version")]
    Kind(String),
    /// The record has a newer version of the format.
    #[error("of version {0}, which a newer token-shield wrote: use that one, or a newer one")]
    Newer(u32),
    /// The record is not in its canonical form.
    #[error("not in canonical form, or with members that do not belong there")]
    Form,
    /// The time is earlier than the previous record's.
    #[error("its time is before that of the record before it")]
    Earlier,
    /// The record key of a record that must be read is missing.
    #[error("the record key {0} is not there: restore secret/record-keys")]
    KeyMissing(RecordKeyId),
    /// The ciphertext does not decrypt under the key that it names.
    #[error("its ciphertext does not decrypt under the key that it names")]
    Closed,
    /// A name is too long. A cut name would name another thing.
    #[error("{member} has {bytes} bytes, a record keeps {most}")]
    TooLong {
        /// The member.
        member: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The maximum length in bytes.
        most: usize,
    },
}
