//! Record keys in the formats: their ids, and the result of a lookup.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::encryption;

/// The id of a record key: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKeyId(pub [u8; 16]);

/// The text is not the id of a record key.
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
        let id: [u8; 16] = bytes.try_into().map_err(|_| RecordKeyIdFault)?;
        Ok(Self(id))
    }
}

/// The key that encrypts one record.
pub struct EncryptionKey<'k> {
    /// The record key's id.
    pub id: RecordKeyId,
    /// The record key.
    pub key: &'k [u8; 32],
    /// A salt, used only once under one key: each record has its own derived key.
    pub salt: [u8; encryption::SALT_BYTES],
}

/// The result of a lookup of a record key.
pub enum KeyLookup<'k> {
    /// The key is available.
    Key(&'k [u8; 32]),
    /// The key was destroyed. Its records stay encrypted.
    Destroyed,
    /// No key has this id.
    Missing,
}

/// A store of record keys.
pub trait Opener {
    /// Looks up the key `id`.
    fn held(&self, id: &RecordKeyId) -> KeyLookup<'_>;

    /// The own key of the record with the record key `id` and this `salt`, where only that one was
    /// disclosed.
    fn own(&self, _id: &RecordKeyId, _salt: &[u8; encryption::SALT_BYTES]) -> Option<&[u8; 32]> {
        None
    }
}
