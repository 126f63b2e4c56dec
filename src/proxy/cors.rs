//! Requests of browser applications from other origins (WHATWG Fetch section 3.3, CORS).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

/// The methods of the API.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
/// The time in seconds for which a browser keeps the answer to a preflight request.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// The headers of answers that a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "audit-record, retry-after, token-shield-dropped, token-shield-output-tokens, \
        token-shield-removed, token-shield-request, token-shield-stripped, x-should-retry",
);

/// The permission of one request's origin.
pub(super) struct Cors {
    origin: HeaderValue,
    /// For a preflight request: the headers that the page wants to send, if there are any.
    preflight: Option<Option<HeaderValue>>,
}

impl Cors {
    /// The permission for a request, if its origin is in `allowed`.
    pub(super) fn of(parts: &Parts, allowed: &[String]) -> Option<Self> {
        let origin = parts.headers.get(ORIGIN)?;
        if !allowed.iter().any(|own| own.as_bytes() == origin.as_bytes()) {
            return None;
        }
        let is_preflight = parts.method == Method::OPTIONS
            && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let wanted = || parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let preflight = if is_preflight { Some(wanted()) } else { None };
        Some(Self { origin: origin.clone(), preflight })
    }

    /// Whether the browser asks for permission. Such a request has no credential.
    pub(super) const fn is_preflight(&self) -> bool {
        self.preflight.is_some()
    }

    /// Adds the permission to an answer.
    pub(super) fn allow(self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        // A cache must not give the answer to a page of another origin.
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        match self.preflight {
            Some(wanted) => {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                // The gateway ignores headers that it does not know, so a page may send all.
                if let Some(wanted) = wanted {
                    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
                }
            }
            None => {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
        }
    }
}
