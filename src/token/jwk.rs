//! Keys as JSON: `AKP` for ML-DSA-65 (RFC 9964), `OKP` for Ed25519 (RFC 8037), thumbprints (RFC 7638).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{Algorithm, KeyFault, PublicKey, SigningKey, sha256};
use crate::id::KeyId;
use crate::json::{self, Object, Value};

/// Why a JSON text is no key.
#[derive(Debug, thiserror::Error)]
pub enum JwkFault {
    /// Not strict JSON.
    #[error("not strict JSON: {0}")]
    Json(#[from] json::Fault),
    /// A private member where a public key belongs.
    #[error("the key carries its private part ({0:?}); a gateway takes public keys only")]
    Private(&'static str),
    /// A member is missing or has the wrong type or value.
    #[error("{0}")]
    Member(&'static str),
    /// The key itself.
    #[error(transparent)]
    Key(#[from] KeyFault),
}

/// A public key with its thumbprint.
#[derive(Clone, Debug)]
pub struct Jwk {
    id: KeyId,
    key: PublicKey,
}

fn decode(value: &str) -> Result<Vec<u8>, JwkFault> {
    URL_SAFE_NO_PAD.decode(value).map_err(|_| JwkFault::Member("a member is not unpadded base64url"))
}

fn text<'v>(object: &'v Object<'_>, name: &str, fault: &'static str) -> Result<&'v str, JwkFault> {
    object.get(name).and_then(Value::as_str).ok_or(JwkFault::Member(fault))
}

fn algorithm(object: &Object<'_>) -> Result<Algorithm, JwkFault> {
    match text(object, "kty", "kty is missing")? {
        "AKP" if text(object, "alg", "an AKP key needs alg")? == "ML-DSA-65" => Ok(Algorithm::MlDsa65),
        "OKP" if text(object, "crv", "an OKP key needs crv")? == "Ed25519" => match object.get("alg").map(Value::as_str) {
            None | Some(Some("Ed25519" | "EdDSA")) => Ok(Algorithm::Ed25519),
            Some(_) => Err(JwkFault::Member("the alg of an Ed25519 key is Ed25519 or EdDSA")),
        },
        _ => Err(JwkFault::Member("keys are AKP with alg ML-DSA-65, or OKP with crv Ed25519")),
    }
}

impl Jwk {
    /// A key with its thumbprint.
    #[must_use]
    pub fn of(key: PublicKey) -> Self {
        let public = URL_SAFE_NO_PAD.encode(key.bytes());
        // RFC 7638 section 3: the required members, sorted, no space.
        let members = match key.algorithm() {
            Algorithm::MlDsa65 => format!("{{\"alg\":\"ML-DSA-65\",\"kty\":\"AKP\",\"pub\":\"{public}\"}}"),
            Algorithm::Ed25519 => format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{public}\"}}"),
        };
        Self { id: KeyId(sha256(members.as_bytes())), key }
    }

    /// Reads a public key.
    ///
    /// # Errors
    /// When it is not one, or carries a private member.
    pub fn read(value: &Value<'_>) -> Result<Self, JwkFault> {
        let object = value.as_object().ok_or(JwkFault::Member("a key is a JSON object"))?;
        for private in ["d", "priv"] {
            if object.get(private).is_some() {
                return Err(JwkFault::Private(private));
            }
        }
        if object.get("use").is_some_and(|value| value.as_str() != Some("sig")) {
            return Err(JwkFault::Member("use is not sig"));
        }
        let jwk = Self::of(read_public(object)?);
        match object.get("kid") {
            Some(kid) if kid.as_str() != Some(jwk.id.to_string().as_str()) => Err(JwkFault::Member("kid is not the key's thumbprint (RFC 7638)")),
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

    /// The public key as JSON, members sorted.
    #[must_use]
    pub fn write(&self) -> String {
        print(&Value::Object(self.members()))
    }
}

fn read_public(object: &Object<'_>) -> Result<PublicKey, JwkFault> {
    let algorithm = algorithm(object)?;
    let public = match algorithm {
        Algorithm::MlDsa65 => text(object, "pub", "an AKP key needs pub")?,
        Algorithm::Ed25519 => text(object, "x", "an OKP key needs x")?,
    };
    Ok(PublicKey::read(algorithm, &decode(public)?)?)
}

fn print(value: &Value<'_>) -> String {
    let mut bytes = Vec::new();
    json::write(value, &mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

const KEYS: json::Limits = json::Limits { depth: 8 };

/// Reads a JWK Set (RFC 7517 section 5) of public keys.
///
/// # Errors
/// When it is not one, or any key in it is not a public key.
pub fn read_set(text: &str) -> Result<Vec<Jwk>, JwkFault> {
    let value = json::parse(text.as_bytes(), &KEYS)?;
    let keys = value.as_object().and_then(|object| object.get("keys")).and_then(Value::as_array);
    keys.ok_or(JwkFault::Member("a JWK Set is {\"keys\": […]}"))?.iter().map(Jwk::read).collect()
}

/// A JWK Set of public keys.
#[must_use]
pub fn write_set(keys: &[Jwk]) -> String {
    let list: Vec<String> = keys.iter().map(Jwk::write).collect();
    format!("{{\"keys\":[{}]}}\n", list.join(","))
}

/// Reads a private key: the public members, and the seed as `priv` (AKP) or `d` (OKP).
///
/// # Errors
/// When it is not one, or its two halves do not belong together.
pub fn read_private(text_of_file: &str) -> Result<SigningKey, JwkFault> {
    let value = json::parse(text_of_file.as_bytes(), &KEYS)?;
    let object = value.as_object().ok_or(JwkFault::Member("a key is a JSON object"))?;
    let algorithm = algorithm(object)?;
    let seed = match algorithm {
        Algorithm::MlDsa65 => text(object, "priv", "the private member priv is missing")?,
        Algorithm::Ed25519 => text(object, "d", "the private member d is missing")?,
    };
    let seed: [u8; 32] = Zeroizing::new(decode(seed)?).as_slice().try_into().map_err(|_| JwkFault::Member("a private key is a seed of 32 bytes"))?;
    let key = SigningKey::from_seed(algorithm, Zeroizing::new(seed));
    if key.public()?.bytes() != read_public(object)?.bytes() {
        return Err(JwkFault::Member("the private part does not belong to the public part"));
    }
    Ok(key)
}

/// A private key as JSON, to be written to a file of mode 0600.
///
/// # Errors
/// When the key cannot be used.
pub fn write_private(key: &SigningKey) -> Result<Zeroizing<String>, JwkFault> {
    let mut object = Jwk::of(key.public()?).members();
    let seed = URL_SAFE_NO_PAD.encode(key.seed().as_slice());
    let name = match key.algorithm() {
        Algorithm::MlDsa65 => "priv",
        Algorithm::Ed25519 => "d",
    };
    object.set(name, Value::from_text(seed));
    Ok(Zeroizing::new(print(&Value::Object(object)) + "\n"))
}
