//! Signatures: ML-DSA-65 (FIPS 204, pure, empty context) and Ed25519 (RFC 8032), each in two
//! implementations.
//!
//! [`Portable`] is pure Rust, for verifiers that do not contain the gateway; [`Fast`] is the
//! gateway's. [`Both`] uses the two and refuses a signature on which they disagree.

mod degenerate;
pub mod encryption;
#[cfg(feature = "gateway")]
mod fast;
mod key;
mod portable;
#[cfg(feature = "gateway")]
mod prepared;

#[cfg(feature = "gateway")]
pub use fast::{Both, Fast};
pub use key::{KeyFault, PublicKey, SigningKey};
pub use portable::Portable;

use sha2::{Digest, Sha256};

/// The signature algorithms, by their names in JOSE (RFC 9964, RFC 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `ML-DSA-65`.
    MlDsa65,
    /// `Ed25519`.
    Ed25519,
}

impl Algorithm {
    /// The algorithm's name in a JWS header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MlDsa65 => "ML-DSA-65",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The bytes of a public key.
    #[must_use]
    pub const fn public_bytes(self) -> usize {
        match self {
            Self::MlDsa65 => 1952,
            Self::Ed25519 => 32,
        }
    }

    /// The bytes of a signature.
    #[must_use]
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::MlDsa65 => 3309,
            Self::Ed25519 => 64,
        }
    }

    /// True for an algorithm that is secure against a quantum adversary.
    #[must_use]
    pub const fn post_quantum(self) -> bool {
        match self {
            Self::MlDsa65 => true,
            Self::Ed25519 => false,
        }
    }
}

/// Proof that a signature was verified. Only a [`Verifier`] of this module makes one.
#[derive(Debug)]
pub struct Genuine(());

/// A signature that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// It is not a signature of this key over this message.
    #[error("the signature does not verify")]
    Invalid,
    /// The two implementations disagree about it.
    #[error("two implementations disagree about the signature")]
    Disagreement,
}

/// A signature verifier.
pub trait Verifier: Send + Sync {
    /// Verifies `signature` of `key` over `message`.
    ///
    /// # Errors
    /// When it does not verify.
    fn verify(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Genuine, SignatureFault>;
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of bytes that arrive piece by piece.
#[derive(Default)]
pub struct Sha256Sum(Sha256);

impl Sha256Sum {
    /// Adds the next piece.
    pub fn take(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    #[must_use]
    pub fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Bytes in hexadecimal, lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The operating system gives no randomness.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gives no randomness: {0}")]
pub struct EntropyFault(getrandom::Error);

/// Unique values, made without a system call: SHA-256 of a key from the start and a count. Without
/// the key, no one can predict the next value, or count the values between two.
pub struct Draws {
    /// The secret key.
    key: [u8; 32],
    /// The number of values so far.
    count: std::sync::atomic::AtomicU64,
}

impl Draws {
    /// A source with a new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, EntropyFault> {
        Ok(Self { key: entropy()?, count: std::sync::atomic::AtomicU64::new(0) })
    }

    /// The next value.
    #[must_use]
    pub fn next(&self) -> [u8; 16] {
        let mut block = [0; 40];
        let (key, count) = block.split_at_mut(32);
        key.copy_from_slice(&self.key);
        count.copy_from_slice(
            &self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_be_bytes(),
        );
        // The hash hides the count. 128 bits are enough against a guess and against a collision.
        *sha256(&block).first_chunk().unwrap_or(&[0; 16])
    }
}

/// `N` random bytes from the operating system.
///
/// # Errors
/// When the system gives no randomness.
pub fn entropy<const N: usize>() -> Result<[u8; N], EntropyFault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(EntropyFault)?;
    Ok(bytes)
}
