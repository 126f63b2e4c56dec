//! The verifier in pure Rust: `ml-dsa`, and `ed25519-dalek` in its strict form.

use ml_dsa::{EncodedSignature, MlDsa65, VerifyingKey};

use super::key::Parsed;
use super::{Genuine, PublicKey, SignatureFault, Verifier};

/// Verifies in pure Rust, without aws-lc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Verifier for Portable {
    fn verify(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Genuine, SignatureFault> {
        let genuine = match &key.parsed {
            Parsed::MlDsa65(key) => verifies_ml_dsa(key, message, signature),
            Parsed::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                // The strict form also refuses an R of small order (see `fast`).
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        };
        if genuine { Ok(Genuine(())) } else { Err(SignatureFault::Invalid) }
    }
}

/// Whether these bytes are an ML-DSA-65 signature of `key` over `message`.
fn verifies_ml_dsa(key: &VerifyingKey<MlDsa65>, message: &[u8], signature: &[u8]) -> bool {
    let Ok(encoded) = EncodedSignature::<MlDsa65>::try_from(signature) else { return false };
    let Some(signature) = ml_dsa::Signature::<MlDsa65>::decode(&encoded) else { return false };
    // The empty context (FIPS 204 section 5.2), as in `sign`.
    key.verify_with_context(message, &[], &signature)
}
