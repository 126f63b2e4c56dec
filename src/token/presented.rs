//! From text to tokens of the right shape: sizes, dots, base64url, and a header of exactly three members.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::crypto::sha256;
use crate::id::TokenId;
use crate::json::{self, Value};
use crate::refusal::{Code, Refusal};
use crate::token::claims::{Claims, Grants};
use crate::token::{TYP, handle, quoted};

/// Longest text that is read, in bytes.
const TEXT_MAX: usize = 40 << 10;

/// Tokens in a chain at the most: more would not fit into the headers that servers take.
pub const LINKS_MAX: usize = 4;

/// One JWS in compact form (RFC 7515 section 3.1) whose header is understood; nothing is verified yet.
pub struct Link<'t> {
    pub(super) signed: &'t str,
    pub(super) algorithm: String,
    pub(super) kid: String,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// A token, or a chain of them, root first, joined by `~`; nothing is verified yet.
pub struct Presented<'t> {
    links: Vec<Link<'t>>,
}

fn malformed(why: &'static str) -> Refusal {
    Refusal::new(Code::TokenMalformed).because(why)
}

impl<'t> Link<'t> {
    fn read(text: &'t str) -> Result<Self, Refusal> {
        let (signed, signature) = text.rsplit_once('.').ok_or_else(|| malformed("no dots"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| malformed("one dot"))?;
        if payload.contains('.') {
            return Err(malformed("more than two dots"));
        }
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| malformed("a part is not strict unpadded base64url"))
        };
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

    /// The token's identity: SHA-256 of its ASCII `header.payload`.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId(sha256(self.signed.as_bytes()))
    }
}

impl<'t> Presented<'t> {
    /// Reads a token or a chain.
    ///
    /// # Errors
    /// `token-too-large`, `chain-too-long`, `handle-unknown`, `token-malformed` or `token-header`.
    pub fn read(text: &'t str) -> Result<Self, Refusal> {
        if text.len() > TEXT_MAX {
            return Err(Code::TokenTooLarge.into());
        }
        if text.starts_with(handle::PREFIX) {
            return Err(Refusal::new(Code::HandleUnknown)
                .because("a handle says nothing by itself; the gateway looks it up"));
        }
        if text.split('~').count() > LINKS_MAX {
            return Err(Code::ChainTooLong.into());
        }
        Ok(Self { links: text.split('~').map(Link::read).collect::<Result<_, _>>()? })
    }

    /// The tokens, root first; never none.
    #[must_use]
    pub fn links(&self) -> &[Link<'t>] {
        &self.links
    }

    /// When the last token says that it was issued; nothing is verified yet.
    #[must_use]
    pub fn issued(&self) -> Option<Timestamp> {
        let claims = Claims::read(&self.links.last()?.payload, usize::MAX).ok()?;
        Some(claims.issued_at())
    }

    /// What its tokens say that they grant, root first; nothing is verified yet.
    ///
    /// # Errors
    /// `token-claims`, `scope-unknown`, `constraint-malformed` or `constraint-not-enforced`.
    pub fn grants(&self) -> Result<Vec<Grants>, Refusal> {
        self.links.iter().map(|link| Ok(Claims::read(&link.payload, usize::MAX)?.grants)).collect()
    }

    /// The identity of the last token: the one that acts.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.links.last().map_or(TokenId([0; 32]), Link::id)
    }
}

/// `alg` and `kid` of a header that has exactly `typ`, `alg` and `kid`, all strings.
fn read_header(bytes: &[u8]) -> Result<(String, String), Refusal> {
    let fault = |why: String| Refusal::new(Code::TokenHeader).because(why);
    let value =
        json::parse(bytes, &json::Limits::deep(4)).map_err(|error| fault(error.to_string()))?;
    let header = value.as_object().ok_or_else(|| fault("not an object".to_owned()))?;
    if let Some((name, _)) = header.iter().find(|(name, _)| !matches!(*name, "typ" | "alg" | "kid"))
    {
        return Err(fault(format!("it has the member {}", quoted(name))));
    }
    let text = |name: &str| {
        header
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| fault(format!("{name} is missing or not a string")))
    };
    let typ = text("typ")?;
    if typ != TYP && typ != "application/at+jwt" {
        return Err(fault(format!("typ is not {TYP}")));
    }
    Ok((text("alg")?.to_owned(), text("kid")?.to_owned()))
}
