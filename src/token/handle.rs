//! Handles: short names for signed tokens, for networks that refuse long headers and for API keys that agents have already.
//!
//! A handle is `ts_` and 256 random bits, or an adopted key. The books know it by its SHA-256 alone: finding one compares
//! digests, never the secret itself, so that how long it takes says nothing about how near a guess was.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::{EntropyFault, entropy, sha256};
use crate::id::HandleId;

/// What a handle of our own begins with.
pub const PREFIX: &str = "ts_";
/// Bytes of a handle at the most.
pub const BYTES_MAX: usize = 512;
/// Bytes of an adopted key at the least: what is shorter can be guessed from its digest.
pub const BYTES_MIN: usize = 16;

/// Why a key cannot be a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleFault {
    /// Too short, too long, or not what a header can carry.
    #[error("a key must have {BYTES_MIN} to {BYTES_MAX} visible ASCII characters")]
    Form,
    /// It would be read as a token.
    #[error("a key with two dots would be read as a token")]
    Token,
}

/// A fresh handle.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate() -> Result<Zeroizing<String>, EntropyFault> {
    let mut random: [u8; 32] = entropy()?;
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 43));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(random, &mut text);
    random.zeroize();
    Ok(text)
}

/// The name that the books know a presented credential by, where it can be a handle: a token has two dots.
#[must_use]
pub fn id(credential: &str) -> Option<HandleId> {
    let token = memchr::memchr_iter(b'.', credential.as_bytes()).nth(1).is_some();
    (!token && credential.len() <= BYTES_MAX).then(|| HandleId(sha256(credential.as_bytes())))
}

/// The name of a key that shall become a handle.
///
/// # Errors
/// When the key could not be presented, or could be guessed.
pub fn adopt(key: &str) -> Result<HandleId, HandleFault> {
    if !(BYTES_MIN..=BYTES_MAX).contains(&key.len())
        || !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(HandleFault::Form);
    }
    id(key).ok_or(HandleFault::Token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_prefixed_long_and_never_the_same() {
        let (first, second) = (generate().expect("handle"), generate().expect("handle"));
        assert!(first.starts_with(PREFIX) && first.len() == 46);
        assert_ne!(*first, *second);
        assert_eq!(id(&first), adopt(&first).ok());
    }

    #[test]
    fn what_has_two_dots_is_a_token() {
        assert!(id("a.b").is_some() && id("a.b.c").is_none() && id("a.b.c.d").is_none());
        assert_eq!(adopt("0123456789.a.b-and-more"), Err(HandleFault::Token));
        assert!(adopt("0123456789.a-and-more").is_ok());
    }

    #[test]
    fn keys_that_can_be_guessed_or_not_be_sent_are_refused() {
        for key in
            ["", "sk-short", "sk 0123456789 0123456789", "sk-0123456789-größe", &"k".repeat(513)]
        {
            assert_eq!(adopt(key), Err(HandleFault::Form), "{key}");
        }
        assert!(id(&"k".repeat(513)).is_none());
    }
}
