//! Parses the text of a token or chain: sizes, dots, base64url, and a header of exactly three
//! members.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::crypto::sha256;
use crate::id::TokenId;
use crate::json::{self, Object};
use crate::refusal::{Code, Refusal};
use crate::token::claims::{Claims, Grants};
use crate::token::{TYP, handle, quoted};

/// The longest accepted text, in bytes.
const TEXT_MAX: usize = 40 << 10;

/// The most tokens in a chain. More would not fit into the headers that servers accept.
pub const LINKS_MAX: usize = 4;

/// One JWS in compact form (RFC 7515 section 3.1) with a valid header. Not verified yet.
pub struct Link<'t> {
    /// The signed text: `header.payload` in ASCII.
    pub(super) signed: &'t str,
    /// `alg` of the header.
    pub(super) algorithm: String,
    /// `kid` of the header.
    pub(super) kid: String,
    /// The decoded payload.
    pub(super) payload: Vec<u8>,
    /// The decoded signature.
    pub(super) signature: Vec<u8>,
}

/// A token, or a chain, root first, joined by `~`. Not verified yet.
pub struct Presented<'t> {
    links: Vec<Link<'t>>,
}

/// A `token-malformed` refusal.
fn malformed(why: &'static str) -> Refusal {
    Refusal::new(Code::TokenMalformed).because(why)
}

/// Decodes a part of a token. Strict: without padding and with zero trailing bits, so that one
/// token has one text (RFC 4648 section 3.5).
fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part is not strict unpadded base64url"))
}

impl<'t> Link<'t> {
    /// Parses one JWS.
    fn read(text: &'t str) -> Result<Self, Refusal> {
        let Some((signed, signature)) = text.rsplit_once('.') else {
            return Err(malformed("no dots"));
        };
        let Some((header, payload)) = signed.split_once('.') else {
            return Err(malformed("one dot"));
        };
        // `rsplit_once` and `split_once` leave further dots in the middle; only one spelling may be
        // accepted.
        if payload.contains('.') {
            return Err(malformed("more than two dots"));
        }
        let header = decode(header)?;
        let (algorithm, kid) = read_header(&header)?;
        Ok(Self {
            signed,
            algorithm,
            kid,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }

    /// The token's id: SHA-256 of its ASCII `header.payload`.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId(sha256(self.signed.as_bytes()))
    }
}

impl<'t> Presented<'t> {
    /// Parses a token or a chain.
    ///
    /// # Errors
    /// `token-too-large`, `chain-too-long`, `handle-unknown`, `token-malformed` or `token-header`.
    pub fn read(text: &'t str) -> Result<Self, Refusal> {
        // First, so that the work below is bounded.
        if text.len() > TEXT_MAX {
            return Err(Code::TokenTooLarge.into());
        }
        // The gateway looks handles up before this step. A handle that comes here is unknown, or
        // the program has no registry.
        if text.starts_with(handle::PREFIX) {
            return Err(Refusal::new(Code::HandleUnknown)
                .because("a handle is not a token; the gateway looks it up"));
        }
        if text.split('~').count() > LINKS_MAX {
            return Err(Code::ChainTooLong.into());
        }
        Ok(Self { links: text.split('~').map(Link::read).collect::<Result<_, _>>()? })
    }

    /// The tokens, root first; at least one.
    #[must_use]
    pub fn links(&self) -> &[Link<'t>] {
        &self.links
    }

    /// The `iat` of the last token. Not verified yet.
    #[must_use]
    pub fn issued(&self) -> Option<Timestamp> {
        let claims = Claims::read(&self.links.last()?.payload, usize::MAX).ok()?;
        Some(claims.issued_at())
    }

    /// The grants of its tokens, root first. Not verified yet.
    ///
    /// # Errors
    /// `token-claims`, `scope-unknown`, `constraint-malformed` or `constraint-not-enforced`.
    pub fn grants(&self) -> Result<Vec<Grants>, Refusal> {
        let mut grants = Vec::with_capacity(self.links.len());
        for link in &self.links {
            grants.push(Claims::read(&link.payload, usize::MAX)?.grants);
        }
        Ok(grants)
    }

    /// The id of the last token, which is the one that acts.
    #[must_use]
    pub fn id(&self) -> TokenId {
        // The list is never empty, so the zeros are never returned.
        match self.links.last() {
            Some(link) => link.id(),
            None => TokenId([0; 32]),
        }
    }
}

/// `alg` and `kid` of a header that has exactly `typ`, `alg` and `kid`, all of them strings.
fn read_header(bytes: &[u8]) -> Result<(String, String), Refusal> {
    let value = json::parse(bytes, &json::Limits::deep(4))
        .map_err(|error| header_fault(error.to_string()))?;
    let Some(header) = value.as_object() else {
        return Err(header_fault("not an object".to_owned()));
    };
    // An unknown member could change how other parsers read the token, such as `crit` or `b64` (RFC
    // 7515 section 4.1.11, RFC 7797).
    if let Some((name, _)) = header.iter().find(|(name, _)| !matches!(*name, "typ" | "alg" | "kid"))
    {
        return Err(header_fault(format!("it has the member {}", quoted(name))));
    }
    let typ = header_text(header, "typ")?;
    // Explicit typing: another kind of JWT by the same key is not accepted as a token (RFC 8725
    // section 3.11).
    if typ != TYP && typ != "application/at+jwt" {
        return Err(header_fault(format!("typ is not {TYP}")));
    }
    Ok((header_text(header, "alg")?.to_owned(), header_text(header, "kid")?.to_owned()))
}

/// A `token-header` refusal.
fn header_fault(why: String) -> Refusal {
    Refusal::new(Code::TokenHeader).because(why)
}

/// A member of a header that must be a string.
fn header_text<'v>(header: &'v Object<'_>, name: &str) -> Result<&'v str, Refusal> {
    match header.text(name) {
        Some(text) => Ok(text),
        None => Err(header_fault(format!("{name} is missing or not a string"))),
    }
}
