//! Keys: public keys, which are checked when they are parsed, and private keys as a 32-byte seed
//! that is wiped.

use std::fmt;
use std::sync::Arc;

use ml_dsa::{EncodedVerifyingKey, MlDsa65};
use zeroize::Zeroizing;

use super::degenerate::t1_is_degenerate;
use super::{Algorithm, EntropyFault, entropy};

/// Why bytes are not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The wrong number of bytes.
    #[error("a {algorithm} public key has {expected} bytes, this has {found}")]
    Length {
        /// The algorithm's name.
        algorithm: &'static str,
        /// The required bytes.
        expected: usize,
        /// The actual bytes.
        found: usize,
    },
    /// Not the canonical encoding of a point on the curve (RFC 8032 section 5.1.3).
    #[error("the Ed25519 public key is not a canonically encoded point")]
    NotCanonical,
    /// A point of small order. Signatures for any message would verify under it.
    #[error("the Ed25519 public key has small order")]
    SmallOrder,
    /// An ML-DSA-65 key whose t1 no key generation makes. Under some of these keys, anyone could
    /// sign.
    #[error(
        "the t1 of the ML-DSA-65 public key is zero, small or repeated: such a key was not \
            generated, and anybody could sign"
    )]
    Degenerate,
}

impl KeyFault {
    /// The fault of a raw key with a wrong number of bytes.
    const fn length(algorithm: Algorithm, key: &[u8]) -> Self {
        Self::Length {
            algorithm: algorithm.as_str(),
            expected: algorithm.public_bytes(),
            found: key.len(),
        }
    }
}

/// A public key in the form of the pure Rust implementations.
#[derive(Clone)]
pub(super) enum Parsed {
    MlDsa65(Arc<ml_dsa::VerifyingKey<MlDsa65>>),
    Ed25519(ed25519_dalek::VerifyingKey),
}

/// A public key that has been checked.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: Algorithm,
    /// The raw key.
    bytes: Arc<[u8]>,
    pub(super) parsed: Parsed,
    /// The key in the form of the gateway's implementations.
    #[cfg(feature = "gateway")]
    pub(super) fast: super::prepared::PreparedKey,
}

impl PublicKey {
    /// Parses a raw public key (FIPS 204 `pkEncode`, RFC 8032 section 5.1.2).
    ///
    /// # Errors
    /// When its length is wrong. For Ed25519, when the point is not canonical or has small order.
    /// For ML-DSA-65, when the t1 is one that no key generation makes.
    pub fn read(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyFault> {
        let parsed = match algorithm {
            Algorithm::MlDsa65 => {
                let encoded = EncodedVerifyingKey::<MlDsa65>::try_from(bytes)
                    .map_err(|_| KeyFault::length(algorithm, bytes))?;
                // FIPS 204 requires no such check, but such keys accept forged signatures (see
                // `degenerate`).
                if t1_is_degenerate(bytes) {
                    return Err(KeyFault::Degenerate);
                }
                Parsed::MlDsa65(Arc::new(ml_dsa::VerifyingKey::<MlDsa65>::decode(&encoded)))
            }
            Algorithm::Ed25519 => {
                let raw: &[u8; 32] =
                    bytes.try_into().map_err(|_| KeyFault::length(algorithm, bytes))?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(raw)
                    .map_err(|_| KeyFault::NotCanonical)?;
                if key.is_weak() {
                    return Err(KeyFault::SmallOrder);
                }
                // Decompression accepts y ≥ p. Only the bytes that it compresses back to are
                // accepted, so that one key has one thumbprint.
                if key.to_edwards().compress().as_bytes() != raw {
                    return Err(KeyFault::NotCanonical);
                }
                Parsed::Ed25519(key)
            }
        };
        Ok(Self {
            algorithm,
            bytes: bytes.into(),
            parsed,
            #[cfg(feature = "gateway")]
            fast: super::prepared::PreparedKey::of(algorithm, bytes),
        })
    }

    /// The key's algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw key.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the raw key, which would make log lines long.
        out.debug_struct("PublicKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// A private key: its algorithm and its 32-byte seed (FIPS 204 `ξ`, RFC 8032 section 5.1.5). It is
/// wiped when dropped, and never printed.
pub struct SigningKey {
    algorithm: Algorithm,
    seed: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, EntropyFault> {
        Ok(Self::from_seed(algorithm, Zeroizing::new(entropy()?)))
    }

    /// The key with this seed.
    #[must_use]
    pub const fn from_seed(algorithm: Algorithm, seed: Zeroizing<[u8; 32]>) -> Self {
        Self { algorithm, seed }
    }

    /// The seed, for a private file.
    #[must_use]
    pub const fn seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.seed
    }

    /// The key's algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half.
    ///
    /// # Errors
    /// Never for a key of this type: the result passes the check of every public key.
    pub fn public(&self) -> Result<PublicKey, KeyFault> {
        match self.algorithm {
            Algorithm::MlDsa65 => PublicKey::read(
                self.algorithm,
                &self.ml_dsa().expanded_key().verifying_key().encode(),
            ),
            Algorithm::Ed25519 => {
                let key = ed25519_dalek::SigningKey::from_bytes(&self.seed);
                PublicKey::read(self.algorithm, key.verifying_key().as_bytes())
            }
        }
    }

    /// The expanded key. The seed is borrowed, so that no copy of it is left in memory.
    fn ml_dsa(&self) -> ml_dsa::SigningKey<MlDsa65> {
        let seed: &[u8; 32] = &self.seed;
        ml_dsa::SigningKey::from_seed(seed.into())
    }

    /// Signs `message` deterministically. ML-DSA uses the empty context.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.algorithm {
            Algorithm::MlDsa65 => {
                // FIPS 204 algorithm 2, line 10, for an empty context: a zero for "pure", and a
                // zero for the length of the context.
                let formatted: [&[u8]; 2] = [&[0, 0], message];
                self.ml_dsa()
                    .expanded_key()
                    .sign_internal(&formatted, &ml_dsa::B32::default())
                    .encode()
                    .to_vec()
            }
            Algorithm::Ed25519 => {
                use ed25519_dalek::Signer as _;
                ed25519_dalek::SigningKey::from_bytes(&self.seed).sign(message).to_bytes().to_vec()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(algorithm: Algorithm) -> SigningKey {
        SigningKey::from_seed(algorithm, Zeroizing::new([7; 32]))
    }

    #[track_caller]
    fn refuses(algorithm: Algorithm, bytes: &[u8], expect: &KeyFault) {
        assert_eq!(PublicKey::read(algorithm, bytes).map(|_| ()).as_ref(), Err(expect));
    }

    fn length(algorithm: &'static str, expected: usize, found: usize) -> KeyFault {
        KeyFault::Length { algorithm, expected, found }
    }

    #[test]
    fn a_public_key_has_its_length() {
        refuses(Algorithm::MlDsa65, &[0; 1951], &length("ML-DSA-65", 1952, 1951));
        refuses(Algorithm::MlDsa65, &[0; 1953], &length("ML-DSA-65", 1952, 1953));
        refuses(Algorithm::Ed25519, &[], &length("Ed25519", 32, 0));
        refuses(Algorithm::Ed25519, &[1; 33], &length("Ed25519", 32, 33));
    }

    #[test]
    fn an_ed25519_key_of_small_order_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        refuses(Algorithm::Ed25519, &identity, &KeyFault::SmallOrder);
    }

    /// Each y below 19 has a second encoding, y + p.
    #[test]
    fn ed25519_keys_that_are_not_canonical_are_refused() {
        let mut points = 0;
        for y in 2_u8..19 {
            let mut plain = [0; 32];
            plain[0] = y;
            let mut second = [0xff; 32];
            second[0] = 0xed + y;
            second[31] = 0x7f;
            points += usize::from(PublicKey::read(Algorithm::Ed25519, &plain).is_ok());
            refuses(Algorithm::Ed25519, &second, &KeyFault::NotCanonical);
        }
        assert!(points > 0, "no y below 19 is a point: the test shows nothing");
    }

    #[test]
    fn ml_dsa_signing_is_that_of_the_standard() {
        let key = seeded(Algorithm::MlDsa65);
        let expect =
            key.ml_dsa().expanded_key().sign_deterministic(b"message", &[]).expect("empty context");
        assert_eq!(key.sign(b"message"), expect.encode().to_vec());
    }

    #[test]
    fn printing_a_public_key_says_its_algorithm() {
        let key = seeded(Algorithm::Ed25519).public().expect("key");
        assert_eq!(format!("{key:?}"), "PublicKey { algorithm: Ed25519, .. }");
    }
}
