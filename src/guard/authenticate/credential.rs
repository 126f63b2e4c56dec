//! The credential of a request, from its headers.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::refusal::{Code, Refusal};

/// The credential of one request, as the headers have it.
pub struct Credential<'h>(pub(super) &'h str);

/// The longest accepted credential, in bytes (docs/TOKEN.md: 40 KiB for a chain).
const CREDENTIAL_MAX: usize = 40 << 10;

/// The headers with a credential alone, beside `Authorization`: Anthropic's and Azure's.
const KEY_HEADERS: [&str; 2] = ["x-api-key", "api-key"];

impl<'h> Credential<'h> {
    /// Reads `Authorization: Bearer …`, `x-api-key` or `api-key`. Several of them must have the
    /// same credential. An empty key is none: SDKs send one if they are configured without it.
    ///
    /// # Errors
    /// `token-missing`, `token-ambiguous`, `token-scheme` or `token-too-large`.
    pub fn read(headers: &'h HeaderMap) -> Result<Self, Refusal> {
        let mut found = Vec::new();
        for value in headers.get_all(AUTHORIZATION) {
            found.push(bearer(value));
        }
        for name in KEY_HEADERS {
            for value in headers.get_all(name) {
                if !value.is_empty() {
                    found.push(text(value));
                }
            }
        }
        let Some(first) = found.pop() else { return Err(Code::TokenMissing.into()) };
        if found.is_empty() {
            return first.map(Self);
        }
        // With two different credentials, a proxy or a log could take the other one for the caller.
        let Ok(first) = first else { return Err(Code::TokenAmbiguous.into()) };
        for other in found {
            match other {
                Ok(other) if other == first => {}
                Ok(_) | Err(_) => return Err(Code::TokenAmbiguous.into()),
            }
        }
        Ok(Self(first))
    }
}

/// The text of a header with a credential.
fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    // Checked before the text is read, so that a large header costs no more work.
    if value.len() > CREDENTIAL_MAX + "Bearer ".len() {
        return Err(Code::TokenTooLarge.into());
    }
    value.to_str().map_err(|_| Refusal::new(Code::TokenMalformed))
}

/// The credential in an `Authorization` header.
fn bearer(value: &HeaderValue) -> Result<&str, Refusal> {
    // RFC 6750 section 2.1; the scheme is compared without case (RFC 9110 section 11.1).
    let Some((scheme, token)) = text(value)?.split_once(' ') else {
        return Err(Code::TokenScheme.into());
    };
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(Code::TokenScheme.into()) }
}
