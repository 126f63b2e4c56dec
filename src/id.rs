//! Names and ids: agents, principals, tokens, keys, handles and requests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Why a text is an invalid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// An agent's name.
    #[error(
        "{0:?} is not an agent name: write namespace/name, each part [a-z0-9][a-z0-9._-]{{0,62}}, \
            at most 6 parts"
    )]
    Agent(String),
    /// One part of an agent's name.
    #[error("{0:?} is not a name part: it must match [a-z0-9][a-z0-9._-]{{0,62}}")]
    Segment(String),
    /// A principal.
    #[error("{0:?} is not a principal: 1 to 256 visible ASCII characters")]
    Principal(String),
    /// A SHA-256 in base64url.
    #[error("{0:?} is not a SHA-256 in unpadded base64url (43 characters)")]
    Digest(String),
    /// A request id.
    #[error("{0:?} is not a request id (rq_ and 26 characters)")]
    Request(String),
}

/// The largest number of parts in an agent's name: the namespace, the root's name, and one for each
/// delegation.
const AGENT_PARTS_MAX: usize = 6;

/// Whether a text is a valid part of an agent's name: `[a-z0-9][a-z0-9._-]{0,62}`.
fn is_segment(text: &str) -> bool {
    let mut bytes = text.bytes();
    let Some(first) = bytes.next() else { return false };
    (first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.len() <= 63
        && bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// The agent that delegated to this one. A root agent has none.
fn parent(agent: &str) -> Option<&str> {
    let (parent, _) = agent.rsplit_once('/')?;
    // The namespace alone is no agent.
    if parent.contains('/') { Some(parent) } else { None }
}

/// The first characters of an invalid text. It comes from a caller and goes into logs, so its
/// length is limited.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The name of the acting agent: `namespace/name`, and one more part for each delegation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// The complete name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first slash.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self.0.split_once('/') {
            Some((namespace, _)) => namespace,
            None => &self.0,
        }
    }

    /// The agent itself, then its ancestors in the delegation, nearest first. The status of each
    /// ancestor applies to it too.
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(&*self.0), |name| parent(name))
    }

    /// The name of the agent that this one delegates to under `segment`.
    ///
    /// # Errors
    /// If `segment` is an invalid name part, or if the name would have too many parts.
    pub fn child(&self, segment: &str) -> Result<Self, NameFault> {
        if !is_segment(segment) {
            return Err(NameFault::Segment(segment.to_owned()));
        }
        format!("{}/{segment}", self.0).parse()
    }
}

impl FromStr for AgentName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let parts = text.split('/').count();
        if (2..=AGENT_PARTS_MAX).contains(&parts) && text.split('/').all(is_segment) {
            return Ok(Self(text.into()));
        }
        Err(NameFault::Agent(shown(text)))
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The party that an agent acts for (the token's `sub`): 1 to 256 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

impl Principal {
    /// The complete name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Principal {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        // Visible ASCII only: a name cannot change a log line or the output of a terminal.
        if (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        Err(NameFault::Principal(shown(text)))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Parses a SHA-256 in unpadded base64url.
fn digest_of(text: &str) -> Result<[u8; 32], NameFault> {
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(text)
        && let Ok(digest) = bytes.try_into()
    {
        return Ok(digest);
    }
    Err(NameFault::Digest(shown(text)))
}

macro_rules! digests {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                digest_of(text).map(Self)
            }
        }
    )+};
}

digests! {
    /// The identity of a token in the registry and the log: SHA-256 of its ASCII `header.payload`.
    TokenId;
    /// A key's identity: its JWK thumbprint with SHA-256 (RFC 7638).
    KeyId;
    /// The identity of a handle: its SHA-256. The handle itself is stored nowhere.
    HandleId;
}

/// Crockford's base 32 alphabet, as in ULIDs. It has no I, L, O and U.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The id of a request: `rq_` and 26 characters (48 bits of time in ms, 80 random bits). Ids sort
/// by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u128);

impl RequestId {
    /// The id of a request that arrived at `ms` since 1970, with 80 bits of `entropy`.
    #[must_use]
    pub fn new(ms: i64, entropy: u128) -> Self {
        // 48 bits of milliseconds last until the year 10889, as in a ULID.
        let time = u128::from(ms.unsigned_abs()) & 0xffff_ffff_ffff;
        Self(time << 80 | entropy & ((1 << 80) - 1))
    }

    /// The arrival of the request, in ms since 1970.
    #[must_use]
    pub fn arrived(&self) -> i64 {
        i64::try_from(self.0 >> 80).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"rq_00000000000000000000000000";
        let mut rest = self.0;
        for place in text[3..].iter_mut().rev() {
            *place = CROCKFORD[(rest & 31) as usize];
            rest >>= 5;
        }
        out.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for RequestId {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        match request_number(text) {
            Some(number) => Ok(Self(number)),
            None => Err(NameFault::Request(shown(text))),
        }
    }
}

/// The number of a request id, from its 26 digits.
fn request_number(text: &str) -> Option<u128> {
    let digits = text.strip_prefix("rq_")?;
    if digits.len() != 26 {
        return None;
    }
    let mut number: u128 = 0;
    for digit in digits.bytes() {
        let value = CROCKFORD.iter().position(|&known| known == digit)?;
        // 26 digits have 130 bits: a value above 128 bits is refused.
        number = number.checked_mul(32)? + value as u128;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn agent(text: &str, valid: bool) {
        let read = text.parse::<AgentName>();
        assert_eq!(read.is_ok(), valid, "{text}");
        if let Ok(name) = read {
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn agent_names_have_one_form() {
        agent("research/summarizer", true);
        agent("r/s/a/b/c/d", true);
        agent("r/s/a/b/c/d/e", false);
        agent("research", false);
        agent("Research/x", false);
        agent("research/", false);
        agent("/x", false);
        agent("research/x y", false);
        agent("research/-x", false);
        agent(&format!("r/{}", "a".repeat(64)), false);
    }

    #[test]
    fn lineage_goes_from_the_leaf_to_the_root() {
        let name: AgentName = "ns/a/b/c".parse().expect("name");
        assert_eq!(name.lineage().collect::<Vec<_>>(), ["ns/a/b/c", "ns/a/b", "ns/a"]);
    }

    #[test]
    fn request_ids_print_and_read() {
        let id = RequestId::new(1_790_000_000_000, u128::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("rq_"));
        assert!(id > RequestId::new(1_789_999_999_999, 0));
    }
}
