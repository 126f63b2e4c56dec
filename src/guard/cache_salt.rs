//! Cache salts: which requests may share a prompt cache. A server with a salt field reuses computed
//! prompts only under the same salt. So a caller cannot learn from the speed of an answer what
//! another caller has sent.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{EntropyFault, entropy};

/// The requests that may share cached prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// The requests of one principal.
    Principal,
    /// The requests of one class.
    Class,
    /// All requests.
    Shared,
}

/// In whose name a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct CacheOwner<'o> {
    /// The issuer of the token.
    pub issuer: &'o str,
    /// The principal, as that issuer names it.
    pub principal: &'o str,
    /// The class of the agent.
    pub class: &'o str,
}

/// Makes salts: HMAC-SHA256 (RFC 2104) of the scope. The key is random and drawn at the start, so
/// that no caller can compute the salt of another.
pub struct CacheSalts {
    key: hmac::Key,
    bytes: Zeroizing<[u8; 32]>,
}

impl CacheSalts {
    /// Salts under a new random key. After a restart, servers reuse no cached prompt of before.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, EntropyFault> {
        Ok(Self::keyed(Zeroizing::new(entropy::<32>()?)))
    }

    /// Salts under the key of a former process, so that cached prompts can still be used.
    #[must_use]
    pub fn keyed(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*bytes), bytes }
    }

    /// The key, for the successor process.
    #[must_use]
    pub const fn key(&self) -> &Zeroizing<[u8; 32]> {
        &self.bytes
    }

    /// The salt, in base64url, of a request of `owner`. `None` where all requests share the cache.
    #[must_use]
    pub fn salt(&self, scope: CacheScope, owner: CacheOwner<'_>) -> Option<String> {
        let CacheOwner { issuer, principal, class } = owner;
        let name = match scope {
            // The issuer is part of it: the same name at another issuer is another principal.
            CacheScope::Principal => ["principal", issuer, principal].join("\0"),
            // The first part keeps a class apart from a principal with the same name; zero bytes
            // separate the parts.
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
        let issuer = "https://a.example";
        let of =
            |scope, principal, class| salts.salt(scope, CacheOwner { issuer, principal, class });
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
        let other = CacheOwner { issuer: "https://b.example", principal: "team:a", class: "x" };
        let elsewhere = |scope| salts.salt(scope, other);
        assert_ne!(of(CacheScope::Principal, "team:a", "x"), elsewhere(CacheScope::Principal));
        assert_eq!(of(CacheScope::Class, "team:a", "x"), elsewhere(CacheScope::Class));
        let other = CacheSalts::new().expect("entropy");
        assert_ne!(
            of(CacheScope::Class, "a", "x"),
            other.salt(CacheScope::Class, CacheOwner { issuer, principal: "a", class: "x" })
        );
    }
}
