//! Handles: short names for registered tokens. They are for networks that refuse long headers, and
//! for API keys that agents have already.
//!
//! A handle is `ts_` and 256 random bits, or an adopted key. The registry knows only its SHA-256.
//! So a lookup compares digests, never the secret itself, and its time does not show how
//! close a guess was.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::{EntropyFault, entropy, sha256};
use crate::id::HandleId;

/// The prefix of a generated handle.
pub const PREFIX: &str = "ts_";
/// The most bytes of a handle.
pub const BYTES_MAX: usize = 512;
/// The fewest bytes of an adopted key. A shorter one could be guessed from its digest.
pub const BYTES_MIN: usize = 16;

/// Why a key cannot be a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleFault {
    /// Too short, too long, or with characters that a header cannot carry.
    #[error("a key must have {BYTES_MIN} to {BYTES_MAX} visible ASCII characters")]
    Form,
    /// It would be parsed as a token.
    #[error("a key with two dots would be read as a token")]
    Token,
}

/// A new handle.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate() -> Result<Zeroizing<String>, EntropyFault> {
    let mut random: [u8; 32] = entropy()?;
    // With the full capacity at once: a text that grows would leave a copy of the secret in memory.
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 43));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(random, &mut text);
    random.zeroize();
    Ok(text)
}

/// The registry's name of a presented credential, where it can be a handle. A credential with two
/// dots is a token.
#[must_use]
pub fn id(credential: &str) -> Option<HandleId> {
    let token = memchr::memchr_iter(b'.', credential.as_bytes()).nth(1).is_some();
    (!token && credential.len() <= BYTES_MAX).then(|| HandleId(sha256(credential.as_bytes())))
}

/// The name of a key that is to become a handle.
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
