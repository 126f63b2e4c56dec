//! The verifier in pure Rust: `ml-dsa`, and `ed25519-dalek` in its strict form.

use ml_dsa::{EncodedSignature, MlDsa65};

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
            Parsed::MlDsa65(key) => EncodedSignature::<MlDsa65>::try_from(signature)
                .ok()
                .and_then(|encoded| ml_dsa::Signature::<MlDsa65>::decode(&encoded))
                // The empty context (FIPS 204 section 5.2), as in `sign`.
                .is_some_and(|signature| key.verify_with_context(message, &[], &signature)),
            Parsed::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                // The strict form also refuses an R of small order (see `fast`).
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        };
        if genuine { Ok(Genuine(())) } else { Err(SignatureFault::Invalid) }
    }
}
