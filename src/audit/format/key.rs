//! The record keys, as records and their readers know them: ids, and what is known of the key of an id.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::encryption;

/// Which record key seals a record: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKeyId(pub [u8; 16]);

/// A text is not the id of a record key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the id of a record key: 16 bytes in base64url")]
pub struct RecordKeyIdFault;

impl std::fmt::Display for RecordKeyId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::str::FromStr for RecordKeyId {
    type Err = RecordKeyIdFault;

    fn from_str(text: &str) -> Result<Self, RecordKeyIdFault> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| RecordKeyIdFault)?;
        bytes.try_into().map(Self).map_err(|_| RecordKeyIdFault)
    }
}

/// What a record is sealed with.
pub struct EncryptionKey<'k> {
    /// The record key's id.
    pub id: RecordKeyId,
    /// The record key.
    pub key: &'k [u8; 32],
    /// Never twice under one key.
    pub salt: [u8; encryption::SALT_BYTES],
}

/// What is known of a record key.
pub enum KeyLookup<'k> {
    /// It is there.
    Key(&'k [u8; 32]),
    /// It was destroyed: what it sealed is to stay closed.
    Destroyed,
    /// Nothing.
    Missing,
}

/// Who has record keys.
pub trait Opener {
    /// What is known of the key `id`.
    fn held(&self, id: &RecordKeyId) -> KeyLookup<'_>;

    /// The own key of the record that was sealed under the key `id` with `salt`, where the key itself is missing.
    fn own(&self, _id: &RecordKeyId, _salt: &[u8; encryption::SALT_BYTES]) -> Option<&[u8; 32]> {
        None
    }
}
