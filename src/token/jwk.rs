//! Keys as JSON: `AKP` for ML-DSA-65 (RFC 9964), `OKP` for Ed25519 (RFC 8037), and thumbprints (RFC
//! 7638).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{Algorithm, KeyFault, PublicKey, SigningKey, sha256};
use crate::id::KeyId;
use crate::json::{self, Object, Value};

/// Why a JSON text is not a key.
#[derive(Debug, thiserror::Error)]
pub enum JwkFault {
    /// Not strict JSON.
    #[error("not strict JSON: {0}")]
    Json(#[from] json::JsonFault),
    /// A private member where a public key is expected.
    #[error("the key carries its private part ({0:?}); a gateway takes public keys only")]
    Private(&'static str),
    /// A member is missing or has the wrong type or value.
    #[error("{0}")]
    Member(&'static str),
    /// The key itself is not valid.
    #[error(transparent)]
    Key(#[from] KeyFault),
}

/// A public key with its thumbprint.
#[derive(Clone, Debug)]
pub struct Jwk {
    /// The thumbprint.
    id: KeyId,
    /// The key.
    key: PublicKey,
}

/// Decodes strict base64url without padding.
fn decode(value: &str) -> Result<Vec<u8>, JwkFault> {
    URL_SAFE_NO_PAD
        .decode(value)
        .map_err(|_| JwkFault::Member("a member is not unpadded base64url"))
}

/// A member that must be a string.
fn text<'v>(object: &'v Object<'_>, name: &str, fault: &'static str) -> Result<&'v str, JwkFault> {
    match object.text(name) {
        Some(text) => Ok(text),
        None => Err(JwkFault::Member(fault)),
    }
}

/// The members of a key.
fn members_of<'v, 'j>(key: &'v Value<'j>) -> Result<&'v Object<'j>, JwkFault> {
    match key.as_object() {
        Some(object) => Ok(object),
        None => Err(JwkFault::Member("a key is a JSON object")),
    }
}

/// The algorithm of a key, from `kty` with `alg` or `crv`.
fn algorithm(object: &Object<'_>) -> Result<Algorithm, JwkFault> {
    match text(object, "kty", "kty is missing")? {
        "AKP" if text(object, "alg", "an AKP key needs alg")? == "ML-DSA-65" => {
            Ok(Algorithm::MlDsa65)
        }
        "OKP" if text(object, "crv", "an OKP key needs crv")? == "Ed25519" => {
            let named = object.get("alg");
            if named.is_none() || matches!(object.text("alg"), Some("Ed25519" | "EdDSA")) {
                return Ok(Algorithm::Ed25519);
            }
            Err(JwkFault::Member("the alg of an Ed25519 key is Ed25519 or EdDSA"))
        }
        _ => Err(JwkFault::Member("keys are AKP with alg ML-DSA-65, or OKP with crv Ed25519")),
    }
}

impl Jwk {
    /// A key with its thumbprint.
    #[must_use]
    pub fn of(key: PublicKey) -> Self {
        let public = URL_SAFE_NO_PAD.encode(key.bytes());
        // RFC 7638 section 3: the required members, sorted, without spaces.
        let members = match key.algorithm() {
            Algorithm::MlDsa65 => {
                format!("{{\"alg\":\"ML-DSA-65\",\"kty\":\"AKP\",\"pub\":\"{public}\"}}")
            }
            Algorithm::Ed25519 => {
                format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{public}\"}}")
            }
        };
        Self { id: KeyId(sha256(members.as_bytes())), key }
    }

    /// Parses a public key.
    ///
    /// # Errors
    /// When it is not one, or has a private member.
    pub fn read(value: &Value<'_>) -> Result<Self, JwkFault> {
        let object = members_of(value)?;
        // A private key in the gateway's config is a leak. It is reported, even though the key
        // would work.
        for private in ["d", "priv"] {
            if object.get(private).is_some() {
                return Err(JwkFault::Private(private));
            }
        }
        // RFC 7517 sections 4.2 and 4.3: a key for another use must not verify tokens.
        if object.get("use").is_some() && object.text("use") != Some("sig") {
            return Err(JwkFault::Member("use is not sig"));
        }
        if let Some(operations) = object.get("key_ops")
            && !verifies(operations)
        {
            return Err(JwkFault::Member("key_ops does not list verify"));
        }
        let jwk = Self::of(read_public(object)?);
        match object.get("kid") {
            // Keys are looked up by thumbprint, so another `kid` would name another key.
            Some(kid) if kid.as_str() != Some(jwk.id.to_string().as_str()) => {
                Err(JwkFault::Member("kid is not the key's thumbprint (RFC 7638)"))
            }
            _ => Ok(jwk),
        }
    }

    /// The thumbprint.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The public members, sorted, with the thumbprint as `kid`.
    fn members(&self) -> Object<'static> {
        let mut object = Object::new();
        let public = URL_SAFE_NO_PAD.encode(self.key.bytes());
        match self.key.algorithm() {
            Algorithm::MlDsa65 => {
                object.set("alg", Value::from_text("ML-DSA-65"));
                object.set("kid", Value::from_text(self.id.to_string()));
                object.set("kty", Value::from_text("AKP"));
                object.set("pub", Value::from_text(public));
            }
            Algorithm::Ed25519 => {
                object.set("alg", Value::from_text("Ed25519"));
                object.set("crv", Value::from_text("Ed25519"));
                object.set("kid", Value::from_text(self.id.to_string()));
                object.set("kty", Value::from_text("OKP"));
                object.set("x", Value::from_text(public));
            }
        }
        object
    }

    /// The public key as a JSON object, members sorted.
    #[must_use]
    pub fn value(&self) -> Value<'static> {
        Value::Object(self.members())
    }

    /// The public key as JSON, members sorted.
    #[must_use]
    pub fn write(&self) -> String {
        print(&Value::Object(self.members()))
    }
}

/// Whether the operations of a key are a list with `verify` (RFC 7517 section 4.3).
fn verifies(operations: &Value<'_>) -> bool {
    let Some(list) = operations.as_array() else { return false };
    list.iter().any(|operation| operation.as_str() == Some("verify"))
}

/// Parses the public half of a key.
fn read_public(object: &Object<'_>) -> Result<PublicKey, JwkFault> {
    let algorithm = algorithm(object)?;
    let public = match algorithm {
        Algorithm::MlDsa65 => text(object, "pub", "an AKP key needs pub")?,
        Algorithm::Ed25519 => text(object, "x", "an OKP key needs x")?,
    };
    Ok(PublicKey::read(algorithm, &decode(public)?)?)
}

/// A JSON value as text.
fn print(value: &Value<'_>) -> String {
    let mut bytes = Vec::new();
    json::write(value, &mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

/// The limits for key files.
const KEYS: json::Limits = json::Limits::deep(8);

/// Parses a JWK Set (RFC 7517 section 5) of public keys.
///
/// # Errors
/// When it is not one, or an entry is not a public key.
pub fn read_set(text: &str) -> Result<Vec<Jwk>, JwkFault> {
    let value = json::parse(text.as_bytes(), &KEYS)?;
    // A common mistake, so it has its own message.
    if value.member("priv").is_some() || value.member("d").is_some() {
        return Err(JwkFault::Member(
            "this is a private key; a gateway takes its public half, the .pub file beside it",
        ));
    }
    listed(&value)?.iter().map(Jwk::read).collect()
}

/// The entries of a JWK Set.
fn listed<'v>(set: &'v Value<'_>) -> Result<&'v [Value<'v>], JwkFault> {
    match set.member("keys") {
        Some(Value::Array(keys)) => Ok(keys),
        Some(_) | None => Err(JwkFault::Member("a JWK Set is {\"keys\": […]}")),
    }
}

/// Parses a published JWK Set. Keys of another type, curve or use are ignored (RFC 7517 section 5).
///
/// # Errors
/// When it is not one, or a key in it is not valid.
pub fn read_published(text: &str) -> Result<Vec<Jwk>, JwkFault> {
    let value = json::parse(text.as_bytes(), &KEYS)?;
    let mut keys = Vec::new();
    for key in listed(&value)? {
        if concerns_us(key) {
            keys.push(Jwk::read(key)?);
        }
    }
    Ok(keys)
}

/// Whether a published key is of a type and use that this gateway accepts.
fn concerns_us(key: &Value<'_>) -> bool {
    let Some(members) = key.as_object() else { return false };
    let signs = matches!(members.text("use"), None | Some("sig"));
    let known = match members.text("kty") {
        Some("AKP") => members.text("alg") == Some(Algorithm::MlDsa65.as_str()),
        Some("OKP") => members.text("crv") == Some("Ed25519"),
        _ => false,
    };
    signs && known
}

/// A JWK Set of public keys.
#[must_use]
pub fn write_set(keys: &[Jwk]) -> String {
    let list: Vec<String> = keys.iter().map(Jwk::write).collect();
    format!("{{\"keys\":[{}]}}\n", list.join(","))
}

/// Parses a private key: the public members, and the seed as `priv` (AKP) or `d` (OKP).
///
/// # Errors
/// When it is not one, or when its two halves do not match.
pub fn read_private(text_of_file: &str) -> Result<SigningKey, JwkFault> {
    let value = json::parse(text_of_file.as_bytes(), &KEYS)?;
    let object = members_of(&value)?;
    if object.get("keys").is_some() {
        return Err(JwkFault::Member(
            "this is the public half; a signature needs the private key, the file without .pub",
        ));
    }
    let algorithm = algorithm(object)?;
    let seed = match algorithm {
        Algorithm::MlDsa65 => text(object, "priv", "the private member priv is missing")?,
        Algorithm::Ed25519 => text(object, "d", "the private member d is missing")?,
    };
    let decoded = Zeroizing::new(decode(seed)?);
    let mut seed = Zeroizing::new([0; 32]);
    if decoded.len() != seed.len() {
        return Err(JwkFault::Member("a private key is a seed of 32 bytes"));
    }
    seed.copy_from_slice(&decoded);
    let key = SigningKey::from_seed(algorithm, seed);
    // A file with mixed halves would sign under a `kid` that does not verify.
    if key.public()?.bytes() != read_public(object)?.bytes() {
        return Err(JwkFault::Member("the private part does not belong to the public part"));
    }
    Ok(key)
}

/// A private key as JSON, for a file with mode 0600.
///
/// # Errors
/// When the key cannot be used.
pub fn write_private(key: &SigningKey) -> Result<Zeroizing<String>, JwkFault> {
    let public = Jwk::of(key.public()?);
    let seed = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.seed().as_slice()));
    let name = match key.algorithm() {
        Algorithm::MlDsa65 => "priv",
        Algorithm::Ed25519 => "d",
    };
    let mut members: Object<'_> = public.members();
    members.set(name, Value::from_text(seed.as_str()));
    // One buffer that does not grow, so that no copy of the seed is left in freed memory.
    let mut bytes = Vec::with_capacity(4096);
    json::write(&Value::Object(members), &mut bytes);
    bytes.push(b'\n');
    Ok(Zeroizing::new(String::from_utf8(bytes).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037 appendix A.
    const RFC_8037_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const RFC_8037_D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

    #[track_caller]
    fn refuses(key: &str, expect: &str) {
        let value = json::parse(key.as_bytes(), &KEYS).expect("JSON");
        let fault = Jwk::read(&value).expect_err("a key that must be refused").to_string();
        assert!(fault.contains(expect), "{fault}");
    }

    fn ed25519(more: &str) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{RFC_8037_X}"{more}}}"#)
    }

    fn ml_dsa() -> SigningKey {
        SigningKey::from_seed(Algorithm::MlDsa65, Zeroizing::new([0; 32]))
    }

    #[test]
    fn thumbprints_are_those_of_the_standards() {
        let key = read_set(&format!(r#"{{"keys":[{}]}}"#, ed25519(""))).expect("set");
        assert_eq!(key[0].id().to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        // The published example of an ML-DSA-65 key as AKP: the seed is all zeros.
        assert_eq!(
            Jwk::of(ml_dsa().public().expect("key")).id().to_string(),
            "Suiu29qbfuaBaR4Ats-c6XQBePB_OpAxAwcTR_0KXVM"
        );
    }

    #[test]
    fn keys_print_and_read() {
        for key in [ml_dsa(), SigningKey::from_seed(Algorithm::Ed25519, Zeroizing::new([9; 32]))] {
            let public = Jwk::of(key.public().expect("key"));
            let read = read_set(&write_set(std::slice::from_ref(&public))).expect("set");
            assert_eq!(read[0].write(), public.write());
            assert_eq!(read[0].id(), public.id());
            let private = write_private(&key).expect("private key");
            assert!(private.capacity() == 4096, "the buffer grew and left a copy behind");
            assert_eq!(**read_private(&private).expect("private key").seed(), **key.seed());
            assert!(!public.write().contains(&URL_SAFE_NO_PAD.encode(key.seed().as_slice())));
            refuses(private.trim(), "private part");
        }
    }

    #[test]
    fn a_private_key_of_the_standard_is_read() {
        let key = read_private(&ed25519(&format!(r#","d":"{RFC_8037_D}""#))).expect("key");
        assert_eq!(URL_SAFE_NO_PAD.encode(key.public().expect("key").bytes()), RFC_8037_X);
    }

    #[test]
    fn halves_that_do_not_belong_together_are_refused() {
        let other = URL_SAFE_NO_PAD.encode([1; 32]);
        assert!(read_private(&ed25519(&format!(r#","d":"{other}""#))).is_err());
        assert!(read_private(&ed25519(r#","d":"AAAA""#)).is_err());
        assert!(read_private(&ed25519("")).is_err());
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        refuses("[]", "JSON object");
        refuses("{}", "kty");
        refuses(r#"{"kty":"oct","k":"AAAA"}"#, "keys are AKP");
        refuses(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "keys are AKP");
        refuses(r#"{"kty":"AKP","pub":"AAAA"}"#, "alg");
        refuses(r#"{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA"}"#, "keys are AKP");
        refuses(r#"{"kty":"AKP","alg":"ML-DSA-65","pub":"AAAA"}"#, "1952 bytes");
        refuses(r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#, "keys are AKP");
        refuses(r#"{"kty":"OKP","crv":"Ed25519","x":7}"#, "needs x");
        refuses(&ed25519(r#","d":"AAAA""#), "private part");
        refuses(&ed25519(r#","priv":null"#), "private part");
        refuses(&ed25519(r#","alg":"ES256""#), "Ed25519 or EdDSA");
        refuses(&ed25519(r#","use":"enc""#), "use is not sig");
        refuses(&ed25519(r#","key_ops":["sign"]"#), "key_ops");
        refuses(&ed25519(r#","kid":"mine""#), "thumbprint");
        refuses(&ed25519("").replace("Ro\"", "Rp\""), "base64url");
        refuses(&ed25519("").replace("Ro\"", "Ro=\""), "base64url");
    }
}
