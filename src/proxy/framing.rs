//! Refuses requests whose framing or host two parsers could interpret differently (request
//! smuggling).

use http::header::HOST;
use http::{HeaderValue, Request};

use crate::proxy::heads::Framing;
use crate::refusal::{Code, Refusal};

/// The largest size of a request's line and headers in bytes: a chain of 40 KiB and the caller's
/// other headers.
pub(super) const HEADERS_MAX: usize = 64 << 10;

/// The largest number of headers. It is hyper's limit for HTTP/1, applied to HTTP/2 too.
const HEADERS_COUNT_MAX: usize = 100;

/// The size of a header list as RFC 9113 section 10.5.1 counts it: with 32 bytes of overhead per
/// field.
fn list_size<B>(request: &Request<B>) -> usize {
    let mut size = 0;
    for (name, value) in request.headers() {
        size += name.as_str().len() + value.len() + 32;
    }
    if let Some(target) = request.uri().path_and_query() {
        size += target.as_str().len();
    }
    size
}

/// Whether a byte may be in the name of a host, or in its port.
fn is_of_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

/// Checks that a request has one possible framing and one possible host. `shown` is the framing in
/// the raw head, if it was scanned.
///
/// # Errors
/// `headers-too-large` (for HTTP/2; hyper enforces the limit for HTTP/1), `upgrade-not-served`,
/// `framing-invalid` or `host-not-served`.
pub(super) fn framing<B>(request: &Request<B>, shown: Option<Framing>) -> Result<(), Refusal> {
    let many = request.headers().len() > HEADERS_COUNT_MAX;
    if request.version() == http::Version::HTTP_2 && (many || list_size(request) > HEADERS_MAX) {
        return Err(Code::HeadersTooLarge.into());
    }
    let headers = request.headers();
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    // hyper removes the Content-Length of a chunked request. Only the raw head shows that it was
    // there.
    if chunked && shown.is_some_and(|shown| shown.length || !shown.chunked) {
        return Err(
            Refusal::new(Code::FramingInvalid).because("Transfer-Encoding beside Content-Length")
        );
    }
    // An offer of h2c is ignored, as RFC 9110 section 7.8 allows: clients such as Java's send it
    // with each request. It is not forwarded either.
    let upgrade = headers
        .get_all(http::header::UPGRADE)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    // The gateway implements only 100-continue. An intermediary could act on another expectation.
    let expects = match headers.get(http::header::EXPECT) {
        Some(value) => !value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
        None => false,
    };
    if upgrade {
        return Err(Code::UpgradeNotServed.into());
    }
    if expects {
        return Err(Refusal::new(Code::FramingInvalid).because("an unknown Expect"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    // With two Host headers, a proxy and the gateway could choose different ones (RFC 9112 section
    // 3.2).
    if hosts.next().is_some() {
        return Err(Refusal::new(Code::HostNotServed).because("two Host headers"));
    }
    // An absolute URI also names a host. If both are present, they must be equal.
    let named = match (host.map(HeaderValue::as_bytes), request.uri().authority()) {
        (Some(host), Some(authority)) if host != authority.as_str().as_bytes() => None,
        (Some(host), _) => Some(host),
        (None, Some(authority)) => Some(authority.as_str().as_bytes()),
        (None, None) => None,
    };
    match named {
        Some(host) if (1..=255).contains(&host.len()) && host.iter().all(is_of_host) => Ok(()),
        _ => Err(Code::HostNotServed.into()),
    }
}
