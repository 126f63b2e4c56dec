//! Encryption of record payloads: HKDF-SHA-256 (RFC 5869) and AES-256-GCM (NIST SP 800-38D). Only
//! holders of a record key can decrypt.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The bytes of a salt.
pub const SALT_BYTES: usize = 16;
/// The additional bytes of a ciphertext: salt and tag.
pub const OVERHEAD_BYTES: usize = SALT_BYTES + 16;

/// The `info` of HKDF (RFC 5869 section 3.2). It separates these keys from keys for other purposes.
const INFO: &[u8] = b"token-shield record 1";

/// The ciphertext cannot be decrypted: the key is another one, or the ciphertext was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext does not decrypt under this key")]
pub struct DecryptFault;

/// The key of one ciphertext. It decrypts that one and no other.
#[must_use]
pub fn own_key(record_key: &[u8; 32], salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; 32]> {
    let mut own = Zeroizing::new([0; 32]);
    // 32 bytes are within the limit of HKDF (RFC 5869 section 2.3: 255 times the length of the
    // hash).
    if Hkdf::<Sha256>::new(Some(salt), record_key).expand(INFO, &mut *own).is_err() {
        unreachable_key(&mut own);
    }
    own
}

/// Never called in practice. A random key decrypts no ciphertext; a fixed key would be known to
/// everyone.
fn unreachable_key(own: &mut Zeroizing<[u8; 32]>) {
    if let Ok(random) = super::entropy() {
        **own = random;
    }
}

/// Encrypts: the result is salt, ciphertext, tag. A `salt` must never be used twice with one record
/// key. `aad` is authenticated with it.
#[must_use]
pub fn encrypt(
    record_key: &[u8; 32],
    salt: &[u8; SALT_BYTES],
    aad: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let own = own_key(record_key, salt);
    // The nonce is zero for every ciphertext. That is safe because each one has its own key, from
    // its salt.
    let cipher = Aes256Gcm::new((&*own).into());
    let mut encrypted = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    encrypted.extend_from_slice(salt);
    // Fails only for more than 64 GiB. The ciphertext is then empty, and can never be decrypted.
    let ciphertext =
        cipher.encrypt(&Nonce::default(), Payload { msg: plain, aad }).unwrap_or_default();
    encrypted.extend_from_slice(&ciphertext);
    encrypted
}

/// The salt of a ciphertext; `None` where it is too short.
#[must_use]
pub fn salt_of(encrypted: &[u8]) -> Option<[u8; SALT_BYTES]> {
    encrypted.first_chunk().copied()
}

/// Decrypts with the principal's record key.
///
/// # Errors
/// When the key is another one, or the ciphertext was changed.
pub fn decrypt(
    record_key: &[u8; 32],
    aad: &[u8],
    encrypted: &[u8],
) -> Result<Vec<u8>, DecryptFault> {
    decrypt_with(&own_key(record_key, &salt_of(encrypted).ok_or(DecryptFault)?), aad, encrypted)
}

/// Decrypts with the ciphertext's own key.
///
/// # Errors
/// When the key is another one, or the ciphertext was changed.
pub fn decrypt_with(own: &[u8; 32], aad: &[u8], encrypted: &[u8]) -> Result<Vec<u8>, DecryptFault> {
    let Some(ciphertext) = encrypted.get(SALT_BYTES..) else { return Err(DecryptFault) };
    Aes256Gcm::new(own.into())
        .decrypt(&Nonce::default(), Payload { msg: ciphertext, aad })
        .map_err(|_| DecryptFault)
}

/// HMAC-SHA-256 (RFC 2104) over bytes that arrive piece by piece.
#[derive(Clone)]
pub struct KeyedDigest(Hmac<Sha256>);

impl KeyedDigest {
    /// Starts with `key`.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        let mut block = [0; 64];
        block[..16].copy_from_slice(key);
        // HMAC pads a key that is shorter than the block with zeros, so the result is the same.
        Self(Hmac::new((&block).into()))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }

    /// The digest of `bytes` under `key`.
    #[must_use]
    pub fn of(key: &[u8; 16], bytes: &[u8]) -> [u8; 32] {
        let mut digest = Self::new(key);
        digest.update(bytes);
        digest.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_opens_under_its_key_alone() {
        let encrypted = encrypt(&[1; 32], &[2; 16], b"about", b"inside");
        assert_eq!(decrypt(&[1; 32], b"about", &encrypted).as_deref(), Ok(&b"inside"[..]));
        assert_eq!(
            decrypt_with(&own_key(&[1; 32], &[2; 16]), b"about", &encrypted).as_deref(),
            Ok(&b"inside"[..])
        );
        assert_eq!(decrypt(&[3; 32], b"about", &encrypted), Err(DecryptFault));
        assert_eq!(decrypt(&[1; 32], b"abouT", &encrypted), Err(DecryptFault));
        assert_eq!(
            decrypt_with(&own_key(&[1; 32], &[3; 16]), b"about", &encrypted),
            Err(DecryptFault)
        );
        for place in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[place] ^= 1;
            assert_eq!(decrypt(&[1; 32], b"about", &changed), Err(DecryptFault), "byte {place}");
            assert_eq!(
                decrypt(&[1; 32], b"about", &encrypted[..place]),
                Err(DecryptFault),
                "{place} bytes"
            );
        }
    }

    /// RFC 4231 section 4.3, whose key of four bytes is padded with zeros.
    #[test]
    fn digests_are_those_of_the_standard() {
        let mut key = [0; 16];
        key[..4].copy_from_slice(b"Jefe");
        let hex: String = KeyedDigest::of(&key, b"what do ya want for nothing?")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
