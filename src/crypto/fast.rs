//! The gateway's verifier: aws-lc for ML-DSA-65, and `jsonwebtoken` (on aws-lc) for Ed25519.

use std::sync::Arc;

use aws_lc_rs::signature::{ML_DSA_65, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

use super::{Algorithm, Genuine, Portable, PublicKey, SignatureFault, Verifier};

/// A public key as the fast implementations keep it.
#[derive(Clone)]
pub(super) enum Prepared {
    MlDsa65(Arc<ParsedPublicKey>),
    Ed25519(Arc<DecodingKey>),
    /// aws-lc does not take the key: nothing verifies under it.
    Refused,
}

impl Prepared {
    pub(super) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        match algorithm {
            Algorithm::MlDsa65 => ParsedPublicKey::new(&ML_DSA_65, bytes).map_or(Self::Refused, |key| Self::MlDsa65(Arc::new(key))),
            Algorithm::Ed25519 => Self::Ed25519(Arc::new(DecodingKey::from_ed_der(bytes))),
        }
    }
}

/// Verifies with aws-lc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fast;

impl Verifier for Fast {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<Genuine, SignatureFault> {
        if signature.len() != key.algorithm().signature_bytes() {
            return Err(SignatureFault::Invalid);
        }
        let genuine = match &key.fast {
            Prepared::MlDsa65(key) => key.verify_sig(message, signature).is_ok(),
            Prepared::Ed25519(key) => {
                let text = URL_SAFE_NO_PAD.encode(signature);
                jsonwebtoken::crypto::verify(&text, message, key, jsonwebtoken::Algorithm::EdDSA).unwrap_or(false)
            }
            Prepared::Refused => false,
        };
        if genuine { Ok(Genuine(())) } else { Err(SignatureFault::Invalid) }
    }
}

/// Asks both implementations; where they disagree, the answer is no.
#[derive(Clone, Copy, Debug, Default)]
pub struct Both;

impl Verifier for Both {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<Genuine, SignatureFault> {
        match (Fast.verify(key, message, signature), Portable.verify(key, message, signature)) {
            (Ok(genuine), Ok(_)) => Ok(genuine),
            (Err(_), Err(_)) => Err(SignatureFault::Invalid),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => Err(SignatureFault::Disagreement),
        }
    }
}
