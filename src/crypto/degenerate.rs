//! Degenerate ML-DSA-65 public keys: under some keys that no key generation makes, anyone can sign.
//!
//! A verifier accepts a signature (z, h, c) if c is the hash of HighBits(A z − c t1 2^13). At most
//! 55 hints correct the high bits (FIPS 204 algorithm 8). With a t1 of zero, a forger only has to
//! choose a short z, and needs no secret. The same holds for a t1 so small modulo q that c t1 2^13
//! hardly changes the high bits. The product of 2^13 and 1023 is −1 modulo q. So coefficients near
//! 1023 are as small as those near 0.
//!
//! The coefficients of a generated key are uniform in 0…1023. A key is refused if a polynomial of
//! its t1
//! - has coefficients whose average distance to 0 or 1023 is below 128 (in a generated key it is
//!   256; it is below 128 once in 10^43), or
//! - has fewer than 64 different coefficients (a generated key has about 226), as constant and
//!   repeated patterns have, or
//! - equals another one.

/// The bytes of the seed ρ, which is before t1.
const RHO_BYTES: usize = 32;
/// The bytes of one polynomial of t1: 256 coefficients of 10 bits (FIPS 204 algorithm 22).
const POLYNOMIAL_BYTES: usize = 320;
/// The largest coefficient.
const COEFFICIENT_MAX: u32 = 1023;
/// The smallest accepted sum of the distances of 256 coefficients to 0 or 1023.
const DISTANCE_MIN: u32 = 128 * 256;
/// The smallest accepted number of different coefficients.
const DIFFERENT_MIN: u32 = 64;

/// The coefficients of a polynomial, ten bits each, lowest bits first (FIPS 204 algorithm 19,
/// SimpleBitUnpack).
fn coefficients(polynomial: &[u8]) -> impl Iterator<Item = u32> {
    polynomial.chunks_exact(5).flat_map(|bytes| {
        let mut bits = 0_u64;
        for byte in bytes.iter().rev() {
            bits = bits << 8 | u64::from(*byte);
        }
        // Five bytes are four coefficients of ten bits. The mask leaves ten bits, so the conversion
        // cannot fail.
        (0..4).map(move |place| {
            u32::try_from(bits >> (10 * place) & u64::from(COEFFICIENT_MAX))
                .unwrap_or(COEFFICIENT_MAX)
        })
    })
}

/// Whether a polynomial has too small or too few different coefficients.
fn is_degenerate(polynomial: &[u8]) -> bool {
    // One bit for each of the 1,024 possible coefficients.
    let (mut distance, mut seen) = (0, [0_u64; 16]);
    for coefficient in coefficients(polynomial) {
        distance += coefficient.min(COEFFICIENT_MAX - coefficient);
        if let Some(word) = seen.get_mut(coefficient as usize / 64) {
            *word |= 1 << (coefficient % 64);
        }
    }
    let different: u32 = seen.iter().map(|word| word.count_ones()).sum();
    distance < DISTANCE_MIN || different < DIFFERENT_MIN
}

/// True for an encoded ML-DSA-65 public key (FIPS 204 `pkEncode`) whose t1 no key generation makes.
pub(super) fn t1_is_degenerate(key: &[u8]) -> bool {
    let polynomials: Vec<&[u8]> =
        key.get(RHO_BYTES..).unwrap_or_default().chunks_exact(POLYNOMIAL_BYTES).collect();
    for (place, polynomial) in polynomials.iter().enumerate() {
        let mut later = polynomials.iter().skip(place + 1);
        if is_degenerate(polynomial) || later.any(|other| other == polynomial) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, KeyFault, PublicKey, SigningKey};
    use super::*;
    use zeroize::Zeroizing;

    /// An encoded key with these coefficients, by their index among all 1,536.
    fn key(coefficient: impl Fn(usize) -> u32) -> Vec<u8> {
        let mut bytes = vec![7; RHO_BYTES];
        for four in 0..384 {
            let bits = (0..4).fold(0_u64, |bits, place| {
                bits | u64::from(coefficient(four * 4 + place)) << (10 * place)
            });
            bytes.extend(&bits.to_le_bytes()[..5]);
        }
        bytes
    }

    /// A substitute for uniform coefficients.
    fn mixed(place: usize) -> u32 {
        u32::try_from(((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) & 1023)
            .expect("ten bits")
    }

    #[track_caller]
    fn refused(coefficient: impl Fn(usize) -> u32) {
        let read = PublicKey::read(Algorithm::MlDsa65, &key(coefficient)).map(drop);
        assert_eq!(read, Err(KeyFault::Degenerate));
    }

    #[test]
    fn coefficients_are_read_in_the_order_of_the_standard() {
        let read: Vec<u32> = coefficients(&key(mixed)[RHO_BYTES..]).collect();
        assert_eq!(read, (0..1536).map(mixed).collect::<Vec<_>>());
    }

    #[test]
    fn keys_that_nobody_generated_are_refused() {
        assert!(PublicKey::read(Algorithm::MlDsa65, &key(mixed)).is_ok());
        refused(|_| 0);
        refused(|_| 1023);
        refused(|_| 511);
        refused(|place| u32::from(place == 700));
        refused(|place| 1023 * u32::try_from(place % 2).expect("a bit"));
        refused(|place| mixed(place) % 100);
        refused(|place| 1023 - mixed(place) % 100);
        // One bad polynomial of six is enough.
        refused(|place| if place / 256 == 3 { 0 } else { mixed(place) });
        refused(|place| if place / 256 == 5 { 400 + mixed(place) % 60 } else { mixed(place) });
        refused(|place| if place / 256 == 5 { mixed(place - 256) } else { mixed(place) });
    }

    #[test]
    fn generated_keys_are_taken() {
        for number in 0..64 {
            let signing = SigningKey::from_seed(Algorithm::MlDsa65, Zeroizing::new([number; 32]));
            assert!(signing.public().is_ok());
        }
    }
}
