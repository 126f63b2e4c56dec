//! Public keys in the form that the fast implementations verify with.

use std::sync::Arc;

use aws_lc_rs::signature::{ML_DSA_65, ParsedPublicKey};
use jsonwebtoken::DecodingKey;

use super::Algorithm;

/// A public key as the fast implementations keep it.
#[derive(Clone)]
pub(super) enum PreparedKey {
    MlDsa65(Arc<ParsedPublicKey>),
    Ed25519(Arc<DecodingKey>),
    /// aws-lc does not take the key: nothing verifies under it.
    Refused,
}

impl PreparedKey {
    pub(super) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        match algorithm {
            Algorithm::MlDsa65 => ParsedPublicKey::new(&ML_DSA_65, bytes)
                .map_or(Self::Refused, |key| Self::MlDsa65(Arc::new(key))),
            Algorithm::Ed25519 => Self::Ed25519(Arc::new(DecodingKey::from_ed_der(bytes))),
        }
    }
}
