//! Signs tokens. For the command line and `dev`; the guard never uses it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::crypto::SigningKey;
use crate::id::{AgentName, Principal};
use crate::json::{self, Object, Value};
use crate::refusal::{Code, Refusal};
use crate::token::claims::Claims;
use crate::token::constraint::Constraint;
use crate::token::jwk::Jwk;
use crate::token::{DETAIL_TYPE, LIST_MAX, Presented, Scopes, TYP};

/// The content of a root token.
#[derive(Clone, Debug)]
pub struct MintRequest {
    /// `iss`.
    pub iss: String,
    /// `aud`: the gateway.
    pub aud: String,
    /// `sub`.
    pub principal: Principal,
    /// `client_id`.
    pub agent: AgentName,
    /// Scope names; `inference.*` is one.
    pub scopes: Vec<String>,
    /// Limits.
    pub limits: Vec<Constraint>,
    /// The key whose holder may delegate (`cnf.jwk`). A token with a key is not a bearer token.
    pub holder: Option<Jwk>,
    /// The most tokens in a chain that begins with this one; 1 without `holder`.
    pub depth_max: u64,
    /// `iat`.
    pub issued: Timestamp,
    /// `nbf`; without it, the token is valid from `iat` on.
    pub not_before: Option<Timestamp>,
    /// `exp`.
    pub expires: Timestamp,
    /// `jti`; [`label`] makes one.
    pub jti: String,
    /// The most entries in a list at its gateway (`token_list` of the issuer there).
    pub list_max: usize,
}

/// Who issues a token, and for which gateway.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'p> {
    /// `iss`.
    pub iss: &'p str,
    /// `aud`: the gateway.
    pub aud: &'p str,
}

/// When a token is valid.
#[derive(Clone, Copy, Debug)]
pub struct TokenSpan {
    /// `iat`.
    pub issued: Timestamp,
    /// The time from `iat` to `exp`.
    pub lifetime: Duration,
}

impl MintRequest {
    /// A bearer token for `agent` in the name of `principal`, with the scopes `inference.*` and
    /// `models.read` and without limits. `entropy` are 128 random bits.
    #[must_use]
    pub fn new(
        parties: Parties<'_>,
        agent: AgentName,
        principal: Principal,
        span: TokenSpan,
        entropy: u128,
    ) -> Self {
        Self {
            iss: parties.iss.to_owned(),
            aud: parties.aud.to_owned(),
            principal,
            agent,
            scopes: vec!["inference.*".to_owned(), "models.read".to_owned()],
            limits: Vec::new(),
            holder: None,
            depth_max: 1,
            issued: span.issued,
            not_before: None,
            expires: span.issued.plus(span.lifetime),
            jti: label(span.issued, entropy),
            list_max: LIST_MAX,
        }
    }

    /// The same with one more limit.
    #[must_use]
    pub fn limited(mut self, limit: Constraint) -> Self {
        self.limits.push(limit);
        self
    }

    /// The same with a key that may sign children, in a chain of at most `depth_max` tokens.
    #[must_use]
    pub fn delegable(self, holder: Jwk, depth_max: u64) -> Self {
        Self { holder: Some(holder), depth_max, ..self }
    }
}

/// Why a token is not signed.
#[derive(Debug, thiserror::Error)]
pub enum MintFault {
    /// A scope that is not in the table.
    #[error("{0:?} is not a scope; docs/TOKEN.md has the table")]
    Scope(String),
    /// No scope.
    #[error("a token without a scope allows no request; name one with --scope")]
    NoScope,
    /// An end that is not after the beginning.
    #[error("the token would end before it begins")]
    Lifetime,
    /// A child that would live longer than it may.
    #[error(
        "the token would live longer than its parent, or without its own key longer than 15 \
            minutes: until {latest} at the latest"
    )]
    TooLong {
        /// The latest possible end.
        latest: Timestamp,
    },
    /// A holder's key that the parent does not name.
    #[error(
        "the key is not the one that the parent names in cnf.jwk: it cannot delegate this token"
    )]
    Holder,
    /// A name that a child cannot have.
    #[error("{0}")]
    Name(String),
    /// A chain where a root token is required.
    #[error("only a root token can be renewed")]
    Chain,
    /// A time before 1970.
    #[error("a token's dates begin with 1970-01-01")]
    Date,
    /// The gateway's own parser refuses the token.
    #[error("no gateway would take this token: {} \
        ({})", .0.message, .0.detail.as_deref().unwrap_or(.0.code.as_str()))]
    Refused(Box<Refusal>),
    /// The key cannot be used.
    #[error("the signing key cannot be used: {0}")]
    Key(#[from] crate::crypto::KeyFault),
}

/// A label for a token: 26 characters of Crockford's base 32, from 48 bits of time and 80 bits of
/// `entropy`.
#[must_use]
pub fn label(now: Timestamp, entropy: u128) -> String {
    let text = crate::id::RequestId::new(now.0, entropy).to_string();
    text.trim_start_matches("rq_").to_owned()
}

/// An object with these members.
fn object(members: Vec<(&'static str, Value<'static>)>) -> Value<'static> {
    let mut object = Object::new();
    for (name, value) in members {
        object.set(name, value);
    }
    Value::Object(object)
}

/// A text value.
fn text(text: impl ToString) -> Value<'static> {
    Value::from_text(text.to_string())
}

/// Signs a root token.
///
/// # Errors
/// When the gateway would refuse the token.
pub fn mint(request: &MintRequest, key: &SigningKey) -> Result<String, MintFault> {
    let mut known = Scopes::default();
    if let Some(scope) = request.scopes.iter().find(|scope| !known.add(scope)) {
        return Err(MintFault::Scope(scope.clone()));
    }
    if request.scopes.is_empty() {
        return Err(MintFault::NoScope);
    }
    // The token is valid from the later of the two times on.
    let begins = match request.not_before {
        Some(not_before) => not_before.max(request.issued),
        None => request.issued,
    };
    if request.expires.seconds() <= begins.seconds() {
        return Err(MintFault::Lifetime);
    }
    checked(sign(&payload(request)?, key)?, request.list_max)
}

/// How long a renewed token lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenewalTerm {
    /// Its lifetime; without a value, that of the former token.
    pub lifetime: Option<Duration>,
    /// The latest `exp`.
    pub latest: Option<Timestamp>,
}

/// Signs a root token with the claims of `token`, from `now` on. It lives as long as `term` says.
///
/// # Errors
/// When `token` is not a root token that a gateway would accept, or the new one would not be.
pub fn renew(
    token: &str,
    key: &SigningKey,
    now: Timestamp,
    term: RenewalTerm,
    entropy: u128,
) -> Result<String, MintFault> {
    let presented = Presented::read(token).map_err(refused)?;
    let [link] = presented.links() else { return Err(MintFault::Chain) };
    let former = Claims::read(&link.payload, usize::MAX).map_err(refused)?;
    let lived = u64::try_from(former.expires.saturating_sub(former.issued))
        .map_err(|_| MintFault::Lifetime)?;
    let lifetime = term.lifetime.unwrap_or(Duration::from_secs(lived));
    let latest = term.latest.unwrap_or(Timestamp(i64::MAX));
    let expires = now.plus(lifetime).min(latest);
    if expires.seconds() <= now.seconds() {
        return Err(MintFault::Lifetime);
    }
    // The former payload is kept as it is, so that claims which this build does not know are kept
    // too.
    let payload = json::parse(&link.payload, &json::Limits::deep(16))
        .map_err(|_| refused(Code::TokenClaims.into()))?;
    // The claims were read from it before, so it is an object.
    let mut claims = if let Value::Object(claims) = payload { claims } else { Object::new() };
    claims.set("iat", date(now.seconds())?);
    claims.set("exp", date(expires.seconds())?);
    claims.set("jti", text(label(now, entropy)));
    // The former `nbf` may be after the new `exp`.
    claims.remove("nbf");
    // The gateway accepted these lists before, so no length is checked here.
    checked(sign(&Value::Object(claims), key)?, usize::MAX)
}

/// A fault with a gateway's refusal.
pub(super) fn refused(refusal: Refusal) -> MintFault {
    MintFault::Refused(Box::new(refusal))
}

/// A date as a claim. `seconds` counts from 1970.
///
/// # Errors
/// [`MintFault::Date`] for a time before 1970.
pub(super) fn date(seconds: i64) -> Result<Value<'static>, MintFault> {
    match u64::try_from(seconds) {
        Ok(seconds) => Ok(Value::from_u64(seconds)),
        Err(_) => Err(MintFault::Date),
    }
}

/// Parses the signed token with the gateway's own parser, so that no token is returned that a
/// gateway refuses.
fn checked(token: String, list_max: usize) -> Result<String, MintFault> {
    for link in Presented::read(&token).map_err(refused)?.links() {
        Claims::read(&link.payload, list_max).map_err(refused)?;
    }
    Ok(token)
}

/// The payload of a root token.
fn payload(request: &MintRequest) -> Result<Value<'static>, MintFault> {
    let scopes = request.scopes.iter().map(text);
    let limits = request.limits.iter().map(Constraint::write);
    let detail = object(vec![
        ("type", text(DETAIL_TYPE)),
        ("scopes", Value::Array(scopes.collect())),
        ("constraints", Value::Array(limits.collect())),
    ]);
    let mut members = vec![
        ("iss", text(&request.iss)),
        ("aud", text(&request.aud)),
        ("sub", text(&request.principal)),
        ("client_id", text(&request.agent)),
        ("iat", date(request.issued.seconds())?),
    ];
    if let Some(not_before) = request.not_before {
        members.push(("nbf", date(not_before.seconds())?));
    }
    members.extend([
        ("exp", date(request.expires.seconds())?),
        ("jti", text(&request.jti)),
        ("del_depth", Value::from_u64(0)),
        ("del_max_depth", Value::from_u64(request.depth_max)),
        ("authorization_details", Value::Array(vec![detail])),
    ]);
    if let Some(holder) = &request.holder {
        members.push(("cnf", object(vec![("jwk", holder.value())])));
    }
    Ok(object(members))
}

/// Signs `payload` unchecked, with the header `typ`, `alg`, `kid` (RFC 7515 section 5.1). The
/// command line uses [`mint`], which checks it.
///
/// # Errors
/// When the key cannot be used.
pub fn sign(payload: &Value<'_>, key: &SigningKey) -> Result<String, MintFault> {
    let jwk = Jwk::of(key.public()?);
    let header = object(vec![
        ("typ", text(TYP)),
        ("alg", text(key.algorithm().as_str())),
        ("kid", text(jwk.id())),
    ]);
    let signed = format!("{}.{}", encode(&header), encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    Ok(format!("{signed}.{signature}"))
}

/// The base64url of a JSON value, without padding.
fn encode(value: &Value<'_>) -> String {
    let mut bytes = Vec::new();
    json::write(value, &mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Algorithm;
    use crate::token::constraint::ConstraintType;
    use zeroize::Zeroizing;

    fn request() -> MintRequest {
        let (agent, principal) = (
            "research/summarizer".parse().expect("agent"),
            "team:research".parse().expect("principal"),
        );
        let parties = Parties { iss: "https://operator.example", aud: "https://gateway.example" };
        let lifetime = Duration::from_secs(3600);
        let span = TokenSpan { issued: Timestamp(1_790_000_000_000), lifetime };
        MintRequest::new(parties, agent, principal, span, 7)
    }

    #[track_caller]
    fn check(change: impl Fn(&mut MintRequest), expect: Result<(), &str>) {
        let key = SigningKey::from_seed(Algorithm::Ed25519, Zeroizing::new([3; 32]));
        let mut request = request();
        change(&mut request);
        match (mint(&request, &key), expect) {
            (Ok(_), Ok(())) => {}
            (Err(fault), Err(part)) => assert!(fault.to_string().contains(part), "{fault}"),
            (Ok(_), Err(part)) => panic!("signed, where {part:?} was to be refused"),
            (Err(fault), Ok(())) => panic!("{fault}"),
        }
    }

    #[test]
    fn only_what_a_gateway_takes_is_signed() {
        check(|_| {}, Ok(()));
        check(|request| request.scopes = vec!["inference.chat".to_owned()], Ok(()));
        check(|request| request.not_before = Some(Timestamp(1_790_000_060_000)), Ok(()));
        check(|request| request.scopes.clear(), Err("--scope"));
        check(|request| request.scopes.push("inference.chats".to_owned()), Err("inference.chats"));
        check(|request| request.expires = request.issued, Err("before it begins"));
        check(|request| request.not_before = Some(request.expires), Err("before it begins"));
        check(|request| request.issued = Timestamp(-1), Err("1970"));
        check(|request| request.expires = Timestamp(i64::MAX), Err("exp"));
        check(
            |request| request.agent = "research/a/b".parse().expect("agent"),
            Err("namespace/name"),
        );
        check(|request| request.jti.clear(), Err("jti"));
        let models = |count: usize, length: usize| {
            let names =
                (0..count).map(|number| Value::from_text(format!("{number:0length$}"))).collect();
            Constraint::new("model", ConstraintType::OneOf, Value::Array(names)).expect("models")
        };
        check(|request| request.limits.push(models(64, 3)), Ok(()));
        check(|request| request.limits.push(models(65, 3)), Err("more than 64 entries"));
        check(
            |request| {
                request.list_max = 200;
                request.limits.push(models(200, 3));
            },
            Ok(()),
        );
        check(
            |request| {
                request.list_max = 200;
                request.limits.push(models(200, 256));
            },
            Err("40 KiB"),
        );
        check(|request| request.scopes = vec!["inference.chat".to_owned(); 2], Err("twice"));
        let account = || {
            Constraint::new(
                "account",
                ConstraintType::OneOf,
                Value::Array(vec![Value::from_text("a")]),
            )
            .expect("a row")
        };
        check(|request| request.limits.push(account()), Err("account"));
    }

    #[test]
    fn labels_are_26_characters_in_the_order_of_time() {
        let earlier = label(Timestamp(1_790_000_000_000), u128::MAX);
        let later = label(Timestamp(1_790_000_000_001), 0);
        assert_eq!((earlier.len(), later.len()), (26, 26));
        assert!(earlier < later);
        assert_ne!(label(Timestamp(1_790_000_000_000), 1), label(Timestamp(1_790_000_000_000), 2));
    }
}
