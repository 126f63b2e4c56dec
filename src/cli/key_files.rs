//! The files of keys: a private key, and its public half in a second file.

use std::path::{Path, PathBuf};

use super::Failure;
use super::fault::on_path;
use crate::config::Config;
use crate::crypto::{Algorithm, SigningKey};
use crate::durable;
use crate::secret::private_file;
use crate::token::jwk::{self, Jwk};

/// Makes a key, writes both files, and returns the public half.
pub(super) fn generate(algorithm: Algorithm, out: &Path) -> Result<Jwk, Failure> {
    // An overwritten key could not be restored, and its tokens could not be renewed.
    if out.exists() {
        return Err(format!(
            "{} already exists, and a key is never overwritten: choose another --out",
            out.display()
        )
        .into());
    }
    let key = SigningKey::generate(algorithm)?;
    let public = Jwk::of(key.public()?);
    // The private file first. A crash then leaves no public key without a private one.
    durable::write_new(out, jwk::write_private(&key)?.as_bytes(), 0o600)?;
    durable::write_atomic(
        &public_file(out),
        jwk::write_set(std::slice::from_ref(&public)).as_bytes(),
        0o644,
    )?;
    Ok(public)
}

/// The file of the public half of a private key.
pub(super) fn public_file(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

/// The keys in a file of public keys. `None` if the file cannot be read or has a fault.
pub(super) fn public_keys(path: &Path) -> Option<Vec<Jwk>> {
    let text = std::fs::read_to_string(path).ok()?;
    jwk::read_set(&text).ok()
}

/// [`public_key`] for an option that may be absent.
pub(super) fn named_public_key(path: Option<&Path>) -> Result<Option<Jwk>, Failure> {
    match path {
        Some(path) => Ok(Some(public_key(path)?)),
        None => Ok(None),
    }
}

/// The only key in a file of public keys.
fn public_key(path: &Path) -> Result<Jwk, Failure> {
    let text = std::fs::read_to_string(path).map_err(on_path(path))?;
    let mut keys = jwk::read_set(&text).map_err(on_path(path))?;
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        _ => Err(format!("{} does not contain exactly one key", path.display()).into()),
    }
}

/// The file of the operator's key: `named`, or the default that `dev` uses.
pub(super) fn key_file(config: &Config, named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| config.data.join("keys/operator.jwk"))
}

/// The operator's key in the file.
pub(super) fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    if !path.exists() {
        let hint = "name it with --signing-key FILE (token-shield keys generate makes one)";
        return Err(format!("there is no signing key {}; {hint}", path.display()).into());
    }
    // `private_file` refuses a file that other users can read.
    Ok(jwk::read_private(&private_file(path)?).map_err(on_path(path))?)
}
