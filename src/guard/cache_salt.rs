//! Who may share a prompt cache. Servers with a field for a salt reuse what they computed only under the same salt, so that
//! nobody learns from an answer's speed what somebody else has asked.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{EntropyFault, entropy};

/// Whose requests may share what a server computed of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// The requests of one principal.
    Principal,
    /// The requests of one class.
    Class,
    /// All requests.
    Shared,
}

/// Makes salts: HMAC-SHA256 (RFC 2104) of the scope under a key drawn at the start, so that no caller can name another's.
pub struct CacheSalts {
    key: hmac::Key,
    bytes: Zeroizing<[u8; 32]>,
}

impl CacheSalts {
    /// Salts under a key of their own; a restart leaves caches cold.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, EntropyFault> {
        Ok(Self::keyed(Zeroizing::new(entropy::<32>()?)))
    }

    /// Salts under the key of a process before this one: caches stay warm.
    #[must_use]
    pub fn keyed(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*bytes), bytes }
    }

    /// The key, to be passed on.
    #[must_use]
    pub const fn key(&self) -> &Zeroizing<[u8; 32]> {
        &self.bytes
    }

    /// The salt of a request in the name of an issuer's principal, in base64url; none where all share the cache.
    #[must_use]
    pub fn salt(
        &self,
        scope: CacheScope,
        (issuer, principal): (&str, &str),
        class: &str,
    ) -> Option<String> {
        let name = match scope {
            // The same name at another issuer is another principal.
            CacheScope::Principal => ["principal", issuer, principal].join("\0"),
            CacheScope::Class => ["class", class].join("\0"),
            CacheScope::Shared => return None,
        };
        let tag = hmac::sign(&self.key, name.as_bytes());
        Some(URL_SAFE_NO_PAD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_shared_by_the_scope_alone() {
        let salts = CacheSalts::new().expect("entropy");
        let of =
            |scope, principal, class| salts.salt(scope, ("https://a.example", principal), class);
        assert_eq!(
            of(CacheScope::Principal, "team:a", "x"),
            of(CacheScope::Principal, "team:a", "y")
        );
        assert_ne!(
            of(CacheScope::Principal, "team:a", "x"),
            of(CacheScope::Principal, "team:b", "x")
        );
        assert_eq!(of(CacheScope::Class, "team:a", "x"), of(CacheScope::Class, "team:b", "x"));
        assert_ne!(of(CacheScope::Class, "x", "x"), of(CacheScope::Principal, "x", "x"));
        assert_eq!(of(CacheScope::Shared, "team:a", "x"), None);
        let elsewhere = |scope| salts.salt(scope, ("https://b.example", "team:a"), "x");
        assert_ne!(of(CacheScope::Principal, "team:a", "x"), elsewhere(CacheScope::Principal));
        assert_eq!(of(CacheScope::Class, "team:a", "x"), elsewhere(CacheScope::Class));
        let other = CacheSalts::new().expect("entropy");
        assert_ne!(
            of(CacheScope::Class, "a", "x"),
            other.salt(CacheScope::Class, ("https://a.example", "a"), "x")
        );
    }
}
