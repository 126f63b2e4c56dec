//! The credential of a request, from its headers.

use http::header::{AUTHORIZATION, HeaderMap};

use crate::refusal::{Code, Refusal};

/// The credential of one request, as the headers have it.
pub struct Credential<'h>(pub(super) &'h str);

/// The longest accepted credential, in bytes (docs/TOKEN.md: 40 KiB for a chain).
const CREDENTIAL_MAX: usize = 40 << 10;

impl<'h> Credential<'h> {
    /// Reads `Authorization: Bearer …` or `x-api-key`: exactly one of them, exactly once.
    ///
    /// # Errors
    /// `token-missing`, `token-ambiguous`, `token-scheme` or `token-too-large`.
    pub fn read(headers: &'h HeaderMap) -> Result<Self, Refusal> {
        let mut bearer = headers.get_all(AUTHORIZATION).iter();
        let mut key = headers.get_all("x-api-key").iter();
        let (value, has_scheme) = match (bearer.next(), key.next()) {
            (None, None) => return Err(Code::TokenMissing.into()),
            (Some(value), None) => (value, true),
            (None, Some(value)) => (value, false),
            // Two credentials are refused even where they are equal. A proxy or a log could
            // otherwise take the other one for the caller.
            (Some(_), Some(_)) => return Err(Code::TokenAmbiguous.into()),
        };
        if bearer.next().is_some() || key.next().is_some() {
            return Err(Code::TokenAmbiguous.into());
        }
        // Checked before the text is read, so that a large header costs no more work.
        if value.len() > CREDENTIAL_MAX + "Bearer ".len() {
            return Err(Code::TokenTooLarge.into());
        }
        let text = value.to_str().map_err(|_| Refusal::new(Code::TokenMalformed))?;
        if !has_scheme {
            return Ok(Self(text));
        }
        // RFC 6750 section 2.1; the scheme is compared without case (RFC 9110 section 11.1).
        let Some((scheme, token)) = text.split_once(' ') else {
            return Err(Code::TokenScheme.into());
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self(token))
        } else {
            Err(Code::TokenScheme.into())
        }
    }
}
