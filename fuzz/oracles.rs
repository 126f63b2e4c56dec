//! The properties that each fuzz target checks for any input. The fuzzer runs them, and an ordinary
//! test runs them over `fuzz/corpus`.
#![allow(dead_code, reason = "each target uses one of them")]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, Portable, SigningKey};
use token_shield::id::KeyId;
use token_shield::token::jwk::{self, Jwk};
use token_shield::token::{
    IssuerPolicy, KeySource, KnownKey, PostQuantum, Presented, inspect, verify, verify_signatures,
};

const NOW_S: i64 = 1_790_000_010;
const NOW: Timestamp = Timestamp(NOW_S * 1000);

/// A gateway that knows the key of one operator.
struct Ring(HashMap<KeyId, Arc<KnownKey>>);

impl KeySource for Ring {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        self.0.get(kid).cloned()
    }
}

/// A key from a fixed seed, so that a found input can be repeated.
fn signing(seed: u8) -> SigningKey {
    SigningKey::from_seed(Algorithm::Ed25519, [seed; 32].into())
}

/// The operator's key, and one key for each holder.
static SIGNERS: LazyLock<[SigningKey; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(signing));
static KIDS: LazyLock<[String; 4]> = LazyLock::new(|| {
    SIGNERS
        .each_ref()
        .map(|key| key.public().map(|public| Jwk::of(public).id().to_string()).unwrap_or_default())
});

static RING: LazyLock<Ring> = LazyLock::new(|| {
    let policy = IssuerPolicy {
        iss: "https://operator.example".to_owned(),
        aud: "https://gateway.example".to_owned(),
        namespaces: vec!["research".to_owned()],
        ttl_max: Duration::from_secs(86_400),
        post_quantum: PostQuantum::Off,
        handles: true,
        principals: token_shield::token::Principals::all(),
        list_max: 64,
    };
    let known = SIGNERS[0].public().map(|key| KnownKey {
        id: Jwk::of(key.clone()).id(),
        key,
        issuer: Arc::new(policy),
    });
    Ring(known.into_iter().map(|known| (known.id, Arc::new(known))).collect())
});

/// Checks the parser of tokens. Any text is parsed or refused. A parsed token can be shown as
/// strict JSON. No token is accepted without a signature by these keys.
pub(crate) fn jws(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(presented) = Presented::read(text) else {
        assert!(inspect::lines(text).is_err() && inspect::document(text).is_err());
        return;
    };
    assert!((1..=4).contains(&presented.links().len()) && text.len() <= 40 << 10);
    assert_eq!(presented.links().len(), text.split('~').count());
    let document = inspect::document(text).expect("what is read is explained");
    serde_json::from_str::<Value>(&document).expect("an explanation is JSON");
    let lines = inspect::lines(text).expect("what is read is explained");
    let printable = |text: &str| !text.chars().any(char::is_control);
    assert!(lines.iter().flatten().all(|(name, value)| printable(name) && printable(value)));
    let signed = verify_signatures(&presented, &*RING, &Portable);
    if verify(&presented, &*RING, &Portable, NOW).is_ok() {
        assert!(signed.is_ok(), "taken without a signature");
    }
}

/// A token with any payload, signed by the key at this position of a chain.
fn sign(place: usize, payload: &[u8]) -> String {
    let header = format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"{}"}}"#, KIDS[place]);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(SIGNERS[place].sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Replaces placeholders of a payload: `HOLDER` by the next holder's public key, `PARENT` by the
/// parent's hash, `SIGNER` by the id of the signing key. A fuzzer could not guess these values.
fn filled(place: usize, payload: &str, parent: Option<&str>) -> String {
    let holder = SIGNERS
        .get(place + 1)
        .and_then(|key| key.public().ok())
        .map(|key| Jwk::of(key).write())
        .unwrap_or_default();
    let parent = parent
        .and_then(|text| Presented::read(text).ok())
        .map(|read| read.id().to_string())
        .unwrap_or_default();
    payload.replace("HOLDER", &holder).replace("PARENT", &parent).replace("SIGNER", &KIDS[place])
}

/// Checks chains. The input has up to four payloads, one in each line, and each is signed with the
/// correct key. By a second, simple check, each token of an accepted chain is narrower than its
/// parent. Returns whether the chain was accepted.
pub(crate) fn chain(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut tokens: Vec<String> = Vec::new();
    let mut payloads = Vec::new();
    for (place, line) in text.lines().take(4).enumerate() {
        let payload = filled(place, line, tokens.last().map(String::as_str));
        tokens.push(sign(place, payload.as_bytes()));
        payloads.push(payload);
    }
    let text = tokens.join("~");
    let Ok(presented) = Presented::read(&text) else { return false };
    let Ok(verified) = verify(&presented, &*RING, &Portable, NOW) else { return false };
    let claims: Vec<Value> = payloads
        .iter()
        .map(|payload| serde_json::from_str(payload).expect("what is taken is JSON"))
        .collect();
    assert_eq!(verified.length(), claims.len());
    for (place, own) in claims.iter().enumerate() {
        assert!(
            own["exp"].as_i64() > Some(NOW_S) && own["iat"].as_i64() <= Some(NOW_S + 5),
            "out of its time"
        );
        assert_eq!(own["del_depth"].as_u64(), Some(place as u64));
        assert!(
            own["del_max_depth"].as_u64() >= Some(claims.len() as u64).filter(|length| *length > 1),
            "deeper than allowed"
        );
    }
    for (parent, own) in claims.iter().zip(claims.iter().skip(1)) {
        narrower(parent, own);
    }
    true
}

/// Panics if a child is wider than its parent. The check does not use the gateway's code.
pub(crate) fn narrower(parent: &Value, own: &Value) {
    assert_eq!(own["sub"], parent["sub"]);
    assert!(
        own["exp"].as_i64() <= parent["exp"].as_i64()
            && own["iat"].as_i64() >= parent["iat"].as_i64()
    );
    let name = own["client_id"].as_str().unwrap_or_default();
    let (above, segment) = name.rsplit_once('/').unwrap_or_default();
    assert!(Some(above) == parent["client_id"].as_str() && !segment.is_empty(), "another's name");
    let texts = |value: &Value| -> Vec<String> {
        let list =
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        value.as_str().map(str::to_owned).into_iter().chain(list).collect()
    };
    let within =
        |own: &Value, parent: &Value| texts(own).iter().all(|text| texts(parent).contains(text));
    assert!(within(&own["aud"], &parent["aud"]), "a wider aud");
    let (own, parent) = (&own["authorization_details"][0], &parent["authorization_details"][0]);
    let whole = texts(&parent["scopes"]).contains(&"inference.*".to_owned());
    let granted = |scope: &String| {
        texts(&parent["scopes"]).contains(scope) || whole && scope.starts_with("inference.")
    };
    assert!(texts(&own["scopes"]).iter().all(granted), "a wider scope");
    for limit in parent["constraints"].as_array().into_iter().flatten() {
        let held = own["constraints"].as_array().into_iter().flatten().any(|other| {
            let held = ["rate", "max"].iter().any(|kind| {
                limit[kind].is_u64()
                    && other[kind].is_u64()
                    && other[kind].as_u64() <= limit[kind].as_u64()
            }) || limit["one_of"].is_array()
                && other["one_of"].is_array()
                && within(&other["one_of"], &limit["one_of"])
                || other["prefix"]
                    .as_str()
                    .zip(limit["prefix"].as_str())
                    .is_some_and(|(own, theirs)| own.starts_with(theirs))
                || other["rank"] == limit["rank"] && limit["rank"].is_string()
                || other["rank"] == "bound" && limit["rank"] == "bearer";
            held && other["key"] == limit["key"]
        });
        assert!(held, "a limit of the parent is not kept: {limit}");
    }
}

/// Checks the parser of JWK Sets. A parsed set has no private keys, and is the same after it is
/// written and parsed again.
pub(crate) fn jwks(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = jwk::read_private(text).map(|key| key.public());
    let Ok(keys) = jwk::read_set(text) else { return };
    let value: Value = serde_json::from_str(text).expect("what is read is JSON");
    let listed = value["keys"].as_array().expect("a set lists keys");
    assert!(
        listed.iter().all(|key| key.get("d").is_none() && key.get("priv").is_none()),
        "a private key was read"
    );
    let written = jwk::write_set(&keys);
    let again = jwk::read_set(&written).expect("what is written is read");
    assert!(again.iter().map(Jwk::id).eq(keys.iter().map(Jwk::id)));
}
