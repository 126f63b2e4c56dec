//! The gateway's verifier: aws-lc for ML-DSA-65, and `jsonwebtoken` (on aws-lc) for Ed25519.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::prepared::PreparedKey;
use super::{Genuine, Portable, PublicKey, SignatureFault, Verifier};

/// The encoded y coordinates of the eight points of small order: 1, −1, 0, and the two of order
/// eight. Their sign bit is left out.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [0; 32],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

/// True for a signature whose R has small order. The library aws-lc accepts it and strict
/// verification does not, but the two must agree. (An R that is not canonical verifies under
/// neither. Both compare it with an R that they computed.)
fn small_order_r(signature: &[u8]) -> bool {
    let Some(r) = signature.first_chunk::<32>() else { return true };
    // The top bit is the sign of x (RFC 8032 section 5.1.2), so both points with this y match.
    let mut y = *r;
    y[31] &= 0x7f;
    SMALL_ORDER_Y.contains(&y)
}

/// Verifies with aws-lc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fast;

impl Verifier for Fast {
    fn verify(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Genuine, SignatureFault> {
        // Checked here for both algorithms, so that it does not depend on the libraries.
        if signature.len() != key.algorithm().signature_bytes() {
            return Err(SignatureFault::Invalid);
        }
        let genuine = match &key.fast {
            PreparedKey::MlDsa65(key) => key.verify_sig(message, signature).is_ok(),
            PreparedKey::Ed25519(_) if small_order_r(signature) => false,
            PreparedKey::Ed25519(key) => {
                let text = URL_SAFE_NO_PAD.encode(signature);
                // The library calls Ed25519 by its older name (RFC 8037).
                jsonwebtoken::crypto::verify(&text, message, key, jsonwebtoken::Algorithm::EdDSA)
                    .unwrap_or(false)
            }
            PreparedKey::Refused => false,
        };
        if genuine { Ok(Genuine(())) } else { Err(SignatureFault::Invalid) }
    }
}

/// Verifies with both implementations. A signature on which they disagree is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Both;

impl Verifier for Both {
    fn verify(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Genuine, SignatureFault> {
        match (Fast.verify(key, message, signature), Portable.verify(key, message, signature)) {
            (Ok(genuine), Ok(_)) => Ok(genuine),
            (Err(_), Err(_)) => Err(SignatureFault::Invalid),
            // A disagreement is a fault of one implementation, so it has its own fault and is never
            // accepted.
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => Err(SignatureFault::Disagreement),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Algorithm;

    #[test]
    fn the_table_holds_every_point_of_small_order() {
        let mut points = std::collections::HashSet::new();
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut bytes = y;
                bytes[31] |= sign;
                assert!(
                    PublicKey::read(Algorithm::Ed25519, &bytes).is_err(),
                    "{bytes:?} is taken as a key"
                );
                let point = ed25519_dalek::VerifyingKey::from_bytes(&bytes).expect("point");
                assert!(point.is_weak());
                points.insert(point.to_edwards().compress().to_bytes());
            }
        }
        assert_eq!(points.len(), 8);
    }

    #[test]
    fn a_disagreement_is_a_refusal() {
        let signing = |seed: u8| {
            crate::crypto::SigningKey::from_seed(
                Algorithm::MlDsa65,
                zeroize::Zeroizing::new([seed; 32]),
            )
        };
        let signature = signing(1).sign(b"message");
        let (key, other) = (signing(1).public().expect("key"), signing(2).public().expect("key"));
        let asked = |key: &PublicKey| Both.verify(key, b"message", &signature).map(|_| ());
        assert_eq!(asked(&key), Ok(()));
        let (mut half, mut other_half) = (key.clone(), key.clone());
        half.fast = other.fast.clone();
        other_half.parsed = other.parsed.clone();
        assert_eq!(asked(&half), Err(SignatureFault::Disagreement));
        assert_eq!(asked(&other_half), Err(SignatureFault::Disagreement));
        assert_eq!(asked(&other), Err(SignatureFault::Invalid));
    }
}
