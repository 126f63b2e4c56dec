//! Answers that the gateway makes itself: refusals, and the headers of every answer.
//!
//! An answer needs the proof of its record, or a refusal from a stage before the caller was known.
//! Code that answers without a record does not compile.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::audit::store::entry::{RecordedAnswer, RecordedRefusal};
use crate::clock::Clock;
use crate::guard::gcra::{Limit, Period};
use crate::model::{Dialect, error};
use crate::proxy::body::Body;
use crate::proxy::exchange::{Exchange, OpenExchange, ResponseParts};
use crate::proxy::stream::{Relay, StreamSource};
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal, Retry, Stage};

/// The header with the request's id, in every answer.
pub const REQUEST: HeaderName = HeaderName::from_static("token-shield-request");
/// The header with the name of the record of the admission, or of the refusal.
const RECORD: HeaderName = HeaderName::from_static("audit-record");
/// The header with the name of the record of the outcome.
const OUTCOME: HeaderName = HeaderName::from_static("audit-outcome");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const OUTPUT_TOKENS: HeaderName = HeaderName::from_static("token-shield-output-tokens");
const DROPPED: HeaderName = HeaderName::from_static("token-shield-dropped");
/// The header with the JSON paths that were removed from a request, because they would have made
/// the model server reach other hosts.
const STRIPPED: HeaderName = HeaderName::from_static("token-shield-stripped");
/// The header with the number of URLs in an answer that a mark replaced.
const REMOVED: HeaderName = HeaderName::from_static("token-shield-removed");
/// Headers that an answer has room for without a new allocation: all of the above, and hyper's Date
/// and Content-Length.
const HEADERS: usize = 16;

/// The media type of a JWK Set (RFC 7517 section 8.5.2).
pub const JWK_SET: &str = "application/jwk-set+json";
/// The media type of C2SP's text formats: notes, keys, proofs.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// A refusal from before the caller was known. Such refusals are counted, not recorded one by one.
pub struct Anonymous(Refusal);

impl Anonymous {
    /// Accepts a refusal of the stages accepted, presented or verified. A refusal of a later stage
    /// needs a record. Here it is replaced by `internal`.
    #[must_use]
    pub fn new(refusal: Refusal) -> Self {
        if refusal.code.stage() <= Stage::Verified {
            Self(refusal)
        } else {
            Self(Code::Internal.into())
        }
    }
}

/// A refusal that may be sent to the caller.
pub enum RefusalResponse {
    /// The caller was not known.
    Anonymous(Anonymous),
    /// The caller was known, and the refusal is recorded.
    Recorded(RecordedRefusal),
}

impl RefusalResponse {
    /// The refusal.
    #[must_use]
    pub const fn refusal(&self) -> &Refusal {
        match self {
            Self::Anonymous(anonymous) => &anonymous.0,
            Self::Recorded(recorded) => recorded.refusal(),
        }
    }

    /// The name of the refusal's record, if it has one.
    fn record(&self) -> Option<&str> {
        match self {
            Self::Anonymous(_) => None,
            Self::Recorded(recorded) => recorded.record(),
        }
    }
}

/// A number as a header value.
fn number(value: u64) -> HeaderValue {
    HeaderValue::from(value)
}

/// A text as a header value; `-` if a header cannot contain it.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The same as [`text`], without a copy.
fn owned(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The answer to a refused request, in the caller's dialect.
#[must_use]
pub fn refuse(
    no: &RefusalResponse,
    dialect: Dialect,
    request: &str,
    limit: Option<Limit>,
) -> Response<Body> {
    let refusal = no.refusal();
    let mut response =
        Response::new(Body::whole(Bytes::from(error::body(dialect, refusal, request))));
    *response.status_mut() =
        // The table of refusals has only valid statuses. A typing error there must not panic here.
        StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(REQUEST, text(request));
    if let Some(record) = no.record() {
        headers.insert(RECORD, text(record));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(methods) = refusal.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods.as_str()));
    }
    // RFC 9110 section 15.5.22: a 426 names the protocols that are served.
    if refusal.code == Code::UpgradeNotServed {
        headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
    }
    // RFC 9110 section 15.5.2: a 401 has a challenge. Its form is in RFC 6750 section 3.
    if refusal.code.status() == 401 {
        headers.insert(
            WWW_AUTHENTICATE,
            owned(format!("Bearer realm=\"token-shield\", error=\"{}\"", refusal.code)),
        );
    }
    match refusal.code.retry() {
        // The OpenAI and Anthropic SDKs obey this header and do not retry.
        Retry::Never => {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        Retry::Later => {}
    }
    if let Some(wait) = refusal.retry_after {
        // Whole seconds, rounded up, so that a retry after this delay is accepted.
        headers.insert(RETRY_AFTER, number(whole_seconds(wait)));
    }
    if let Some(limit) = limit {
        // One second more than the truncated wait, so that a retry after it is not too early.
        let reset = refusal.retry_after.map_or(limit.period.seconds(), |wait| wait.as_secs() + 1);
        rate_headers(headers, limit, 0, reset);
    }
    response
}

/// A delay in whole seconds, rounded up; at least one.
fn whole_seconds(wait: Duration) -> u64 {
    match u64::try_from(wait.as_millis().div_ceil(1000)) {
        Ok(seconds) => seconds.max(1),
        Err(_) => u64::MAX,
    }
}

/// A complete answer as bytes of an HTTP/1.1 connection that closes after it.
#[must_use]
pub fn written(response: Response<Body>) -> Vec<u8> {
    let (parts, body) = response.into_parts();
    let body = body.into_bytes();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    // hyper has given the connection up, so the bytes are written here without it.
    let mut out = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\nconnection: close\r\n",
        parts.status.as_str(),
        body.len()
    );
    for (name, value) in &parts.headers {
        out.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    out.push_str("\r\n");
    [out.as_bytes(), &body].concat()
}

/// `RateLimit-Policy` and `RateLimit` (IETF draft-ietf-httpapi-ratelimit-headers), and OpenAI's own
/// names.
fn rate_headers(headers: &mut http::HeaderMap, limit: Limit, remaining: u64, reset_s: u64) {
    let name = match limit.period {
        Period::Second => "second",
        Period::Minute => "minute",
    };
    let policy = format!("\"{name}\";q={};w={}", limit.rate, limit.period.seconds());
    headers.insert(RATELIMIT_POLICY, owned(policy));
    // OpenAI's clients know the `x-ratelimit` names; the IETF draft has the other two.
    headers.insert(RATELIMIT, owned(format!("\"{name}\";r={remaining};t={reset_s}")));
    headers.insert(LIMIT_REQUESTS, number(u64::from(limit.rate)));
    headers.insert(REMAINING_REQUESTS, number(remaining));
    headers.insert(RESET_REQUESTS, owned(format!("{reset_s}s")));
}

/// The response to an admitted request. `record` is the name of the record of its admission.
fn head(exchange: &Exchange, parts: ResponseParts, record: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(parts.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(REQUEST, text(&exchange.id_text));
    headers.insert(CONTENT_TYPE, parts.content_type);
    headers.insert(RECORD, text(record));
    // Answers contain prompts' data. A shared cache must not store them.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(left) = exchange.headroom {
        rate_headers(headers, left.limit, left.remaining, left.reset_ns.div_ceil(1_000_000_000));
    }
    if let Some(cap) = exchange.adjustments.output_tokens {
        headers.insert(OUTPUT_TOKENS, number(cap));
    }
    if !exchange.adjustments.dropped.is_empty() {
        headers.insert(DROPPED, owned(exchange.adjustments.dropped.join(", ")));
    }
    if !exchange.adjustments.stripped.is_empty() {
        let mut paths: Vec<&str> = Vec::new();
        for reach in &exchange.adjustments.stripped {
            paths.push(&reach.path);
        }
        headers.insert(STRIPPED, owned(paths.join(", ")));
    }
    if exchange.adjustments.removed > 0 {
        headers.insert(REMOVED, number(exchange.adjustments.removed));
    }
    if let Some(wait) = parts.retry_after {
        headers.insert(RETRY_AFTER, wait);
    }
    response
}

/// An answer that has no record, because it is no decision about a caller: public keys (RFC 7517
/// section 8.5.2), and receipts.
#[must_use]
pub fn public(request: &str, bytes: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(bytes));
    let headers = response.headers_mut();
    headers.insert(REQUEST, text(request));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static(if content_type == JWK_SET {
            "public, max-age=60"
        } else {
            "no-store"
        }),
    );
    response
}

/// The same answer without its body, for a HEAD request (RFC 9110 section 9.3.2).
#[must_use]
pub fn headers_alone(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    // HEAD reports the length that GET would have. A stream has none.
    if body.is_whole() {
        head.headers.insert(CONTENT_LENGTH, number(body.into_bytes().len() as u64));
    }
    Response::from_parts(head, Body::whole(Bytes::new()))
}

/// A complete answer, whose outcome is durable. `record` is the name of the record of its
/// admission.
#[must_use]
pub fn whole(
    recorded: &RecordedAnswer,
    exchange: &Exchange,
    parts: ResponseParts,
    record: &str,
    bytes: Bytes,
) -> Response<Body> {
    let mut response = head(exchange, parts, record, Body::whole(bytes));
    // The name of the outcome's record exists only now; for a stream it comes too late for the
    // head.
    if exchange.wants_receipt {
        response.headers_mut().insert(OUTCOME, text(recorded.record()));
    }
    response
}

/// An answer that streams. Its body owns the open entry, and closes it before the last bytes.
#[must_use]
pub fn stream(
    exchange: OpenExchange,
    parts: ResponseParts,
    source: StreamSource,
    watch: RevocationWatcher,
) -> Response<Body> {
    let record = exchange.record().to_owned();
    // The head needs the exchange, and the relay then owns it: the head is built with an empty
    // body.
    let response = head(exchange.get(), parts, &record, Body::whole(Bytes::new()));
    let (head, _) = response.into_parts();
    Response::from_parts(head, Body::relay(Relay::new(source, exchange, watch)))
}

/// A wall clock that has stepped back by less is not mentioned in a refusal.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// Adds a note to a refusal for a token's times, if the gateway's clock has stepped back. In that
/// case the token may be valid.
pub(super) fn clock_named(refusal: Refusal, clock: &dyn Clock) -> Refusal {
    let behind = clock.behind();
    if behind < CLOCK_STEP || !matches!(refusal.code, Code::TokenExpired | Code::TokenNotYetValid) {
        return refusal;
    }
    let message = format!(
        "{} The gateway's clock has stepped back by {} s, and the gateway decides by {}; tell the \
            operator.",
        refusal.message,
        behind.as_secs(),
        clock.now()
    );
    refusal.saying(message)
}
