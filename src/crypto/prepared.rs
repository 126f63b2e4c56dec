//! Public keys in the form of the gateway's fast implementations.

use std::sync::Arc;

use aws_lc_rs::signature::{ML_DSA_65, ParsedPublicKey};
use jsonwebtoken::DecodingKey;

use super::Algorithm;

/// A public key in the form that the fast implementations use. It is parsed once, because parsing
/// an ML-DSA-65 key is expensive.
#[derive(Clone)]
pub(super) enum PreparedKey {
    MlDsa65(Arc<ParsedPublicKey>),
    Ed25519(Arc<DecodingKey>),
    /// aws-lc refuses the key, so no signature verifies under it.
    Refused,
}

impl PreparedKey {
    /// Parses a key that [`super::PublicKey::read`] has checked.
    pub(super) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        match algorithm {
            Algorithm::MlDsa65 => ParsedPublicKey::new(&ML_DSA_65, bytes)
                .map_or(Self::Refused, |key| Self::MlDsa65(Arc::new(key))),
            Algorithm::Ed25519 => Self::Ed25519(Arc::new(DecodingKey::from_ed_der(bytes))),
        }
    }
}
