//! Refuses requests whose framing or host two readers could understand differently.

use http::header::HOST;
use http::{HeaderValue, Request};

use crate::proxy::heads::Framing;
use crate::refusal::{Code, Refusal};

/// Bytes of a request's line and headers at the most: a chain of 40 KiB and what else a caller sends.
pub(super) const HEADERS_MAX: usize = 64 << 10;

/// Headers of a request at the most: what hyper reads of HTTP/1.
const HEADERS_COUNT_MAX: usize = 100;

/// The size of a header list as RFC 9113 section 10.5.1 counts it.
fn list_size<B>(request: &Request<B>) -> usize {
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    headers.sum::<usize>() + target
}

/// Asks whether a request is framed and addressed in one way only.
///
/// # Errors
/// `headers-too-large` (of HTTP/2; hyper holds the limit for HTTP/1), `framing-invalid` or `host-not-served`.
pub(super) fn framing<B>(request: &Request<B>, shown: Option<Framing>) -> Result<(), Refusal> {
    let many = request.headers().len() > HEADERS_COUNT_MAX;
    if request.version() == http::Version::HTTP_2 && (many || list_size(request) > HEADERS_MAX) {
        return Err(Code::HeadersTooLarge.into());
    }
    let headers = request.headers();
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    // hyper leaves out the Content-Length of a chunked request. Where the head was not seen, nobody knows.
    if chunked && shown.is_some_and(|shown| shown.length || !shown.chunked) {
        return Err(
            Refusal::new(Code::FramingInvalid).because("Transfer-Encoding beside Content-Length")
        );
    }
    let upgrade =
        headers.contains_key(http::header::UPGRADE) || headers.contains_key("http2-settings");
    let expects = headers
        .get(http::header::EXPECT)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if upgrade || expects {
        return Err(Refusal::new(Code::FramingInvalid).because("Upgrade or an unknown Expect"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(Code::HostNotServed).because("two Host headers"));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let named = match (host.map(HeaderValue::as_bytes), authority) {
        (Some(host), Some(authority)) if host != authority.as_bytes() => None,
        (Some(host), _) => Some(host),
        (None, Some(authority)) => Some(authority.as_bytes()),
        (None, None) => None,
    };
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
    };
    match named {
        Some(host) if !host.is_empty() && host.len() <= 255 && host.iter().all(plain) => Ok(()),
        _ => Err(Code::HostNotServed.into()),
    }
}
