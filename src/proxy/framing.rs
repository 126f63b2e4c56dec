//! Refuses requests whose framing or host two readers could understand differently.

use http::header::HOST;
use http::{HeaderValue, Request};

use crate::proxy::tap::Unexplained;
use crate::refusal::{Code, Refusal};

/// Asks whether a request is framed and addressed in one way only.
///
/// # Errors
/// `framing-invalid` or `host-not-served`.
pub(super) fn framing<B>(request: &Request<B>, unexplained: &Unexplained) -> Result<(), Refusal> {
    let headers = request.headers();
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    if headers.contains_key(http::header::CONTENT_LENGTH) {
        unexplained.explain();
    } else if chunked && unexplained.any() {
        return Err(Refusal::new(Code::FramingInvalid).because("Transfer-Encoding beside Content-Length"));
    }
    let upgrade = headers.contains_key(http::header::UPGRADE) || headers.contains_key("http2-settings");
    let expects = headers.get(http::header::EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
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
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    match named {
        Some(host) if !host.is_empty() && host.len() <= 255 && host.iter().all(plain) => Ok(()),
        _ => Err(Code::HostNotServed.into()),
    }
}
