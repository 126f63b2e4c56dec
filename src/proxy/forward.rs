//! To the upstream and back: a request made anew, and an answer of which only what is known passes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::model::Operation;
use crate::proxy::buffer::Room;
use crate::proxy::connect::Dialler;
use crate::proxy::stream::Times;
use crate::refusal::{Code, Refusal};

/// One upstream: its pool of connections, its address and its credential.
pub struct Remote {
    /// Its name in the config.
    pub name: Arc<str>,
    client: Client<Dialler, Full<Bytes>>,
    /// Keeps no connections.
    fresh: Client<Dialler, Full<Bytes>>,
    dialler: Dialler,
    uris: Vec<(Operation, Uri)>,
    credential: Option<(HeaderName, HeaderValue)>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// Headers that a request to an upstream has room for without growing: ours, and hyper's Host and Content-Length.
const HEADERS: usize = 12;
/// Idle connections kept per upstream.
const POOL_MAX: usize = 256;
/// How long an idle connection is kept.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Largest whole answer that is taken from an upstream, in bytes.
const ANSWER_MAX: usize = 64 << 20;

/// What an upstream answers, once its head was judged.
pub enum Heard {
    /// A whole JSON document.
    Json,
    /// A stream of server-sent events.
    Events,
}

/// The head of an upstream's answer, as far as it passes on.
pub struct AnswerHead {
    /// The HTTP status.
    pub status: u16,
    /// What follows.
    pub heard: Heard,
    /// The media type, as the upstream wrote it.
    pub content_type: HeaderValue,
    /// When to come back.
    pub retry_after: Option<HeaderValue>,
}

impl Remote {
    /// An upstream at `base` (scheme, authority and path without a trailing slash), reached by `dialler`.
    ///
    /// # Errors
    /// When `base` and the path of an operation make no URI.
    pub fn new(
        name: Arc<str>,
        base: &str,
        dialler: Dialler,
        credential: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Self, http::uri::InvalidUri> {
        let uri = |operation: Operation| {
            Ok::<_, http::uri::InvalidUri>((operation, format!("{base}{}", operation.path()).parse::<Uri>()?))
        };
        let uris = Operation::ALL.into_iter().map(uri).collect::<Result<_, _>>()?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_MAX)
            .build(dialler.clone());
        let fresh = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(dialler.clone());
        Ok(Self { name, client, fresh, dialler, uris, credential })
    }

    /// Dials once, to see whether anybody is there.
    pub async fn probe(&self) -> bool {
        self.dialler.dial().await.is_ok()
    }

    /// Sends `body`; nothing of the caller's headers goes along.
    ///
    /// # Errors
    /// `upstream-unavailable` when no connection can be had, `upstream-invalid` when the connection broke.
    pub async fn send(
        &self,
        operation: Operation,
        body: Bytes,
        stream: bool,
        request_id: &HeaderValue,
    ) -> Result<Response<Incoming>, Refusal> {
        let uri = self.uris.iter().find(|(known, _)| *known == operation).map(|(_, uri)| uri).ok_or(Code::Internal)?;
        let request = || self.request(operation, uri.clone(), body.clone(), stream, request_id);
        let mut answer = self.client.request(request()).await;
        // A kept connection that the server had closed meanwhile: nothing of an answer came. A model call keeps no state, so
        // it is asked once more, on a connection of its own.
        if answer.as_ref().is_err_and(closed_without_an_answer) {
            answer = self.fresh.request(request()).await;
        }
        answer.map_err(|error| {
            let code = if error.is_connect() { Code::UpstreamUnavailable } else { Code::UpstreamInvalid };
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let refusal = Refusal::new(code).because(format_args!("upstream {}: {error}: {cause}", self.name));
            if error.is_connect() { refusal.after(Duration::from_secs(1)) } else { refusal }
        })
    }

    fn request(
        &self,
        operation: Operation,
        uri: Uri,
        body: Bytes,
        stream: bool,
        request_id: &HeaderValue,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accept = if stream { "text/event-stream" } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("token-shield/", env!("CARGO_PKG_VERSION"))));
        headers.insert(REQUEST_ID, request_id.clone());
        if matches!(operation, Operation::Messages) {
            headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
        }
        if let Some((name, value)) = &self.credential {
            headers.insert(name.clone(), value.clone());
        }
        request
    }
}

/// True where the connection ended before a byte of an answer came.
fn closed_without_an_answer(error: &hyper_util::client::legacy::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
    let reset = |error: &hyper::Error| {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        cause.is_some_and(|cause| matches!(cause.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
    };
    !error.is_connect() && cause.is_some_and(|cause| cause.is_incomplete_message() || cause.is_canceled() || reset(cause))
}

/// The header that carries an upstream's credential.
///
/// # Errors
/// When the secret has characters that no header may carry.
pub fn credential(secret: &str, api_key: bool) -> Result<(HeaderName, HeaderValue), http::header::InvalidHeaderValue> {
    let (name, text) = if api_key {
        (HeaderName::from_static("x-api-key"), secret.to_owned())
    } else {
        (AUTHORIZATION, format!("Bearer {secret}"))
    };
    let mut value = HeaderValue::from_str(&text)?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Judges the head of an upstream's answer.
///
/// # Errors
/// `upstream-credential` for 401, 403 and 407 (they speak of the gateway, not of the caller), `upstream-invalid` for
/// redirects, upgrades, encoded bodies and media types that no dialect here answers with.
pub fn judge(status: u16, headers: &HeaderMap) -> Result<AnswerHead, Refusal> {
    let invalid = |what: &str| Refusal::new(Code::UpstreamInvalid).because(what);
    match status {
        200..=299 | 400 | 402 | 404..=406 | 408..=499 | 500..=599 => {}
        401 | 403 | 407 => return Err(Refusal::new(Code::UpstreamCredential).because(format_args!("status {status}"))),
        _ => return Err(invalid(&format!("status {status}"))),
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(invalid("the answer is encoded though identity was asked for"));
    }
    let content_type = headers.get(CONTENT_TYPE).ok_or_else(|| invalid("no content-type"))?.clone();
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let heard = match essence.as_str() {
        "application/json" => Heard::Json,
        "text/event-stream" if status < 300 => Heard::Events,
        _ => return Err(invalid("a media type that is not passed on")),
    };
    Ok(AnswerHead { status, heard, content_type, retry_after: headers.get(RETRY_AFTER).cloned() })
}

/// Reads a whole answer, bounded in size, in time and in the silence between two chunks; `room` grows with it.
///
/// # Errors
/// `upstream-slow`, `upstream-invalid` or `body-memory`.
pub async fn collect(mut body: Incoming, mut room: Room, times: Times) -> Result<(Bytes, Room), Refusal> {
    let mut whole: Vec<u8> = Vec::new();
    let mut first = Bytes::new();
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
        let slow = |_| Refusal::new(Code::UpstreamSlow).because("timeout stream_idle or whole");
        let Some(frame) = tokio::time::timeout(times.patience(), frame).await.map_err(slow)? else { break };
        let frame = frame.map_err(|error| Refusal::new(Code::UpstreamInvalid).because(error))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + first.len() + data.len() > ANSWER_MAX {
            return Err(Refusal::new(Code::UpstreamInvalid).because("the answer is larger than 64 MiB"));
        }
        room.grow(data.len())?;
        // The common answer is one frame: it is passed on without a copy.
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok((if whole.is_empty() { first } else { Bytes::from(whole) }, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, headers: &[(&'static str, &'static str)], expect: Option<Code>) {
        let map = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        assert_eq!(judge(status, &map).err().map(|no| no.code), expect);
    }

    #[test]
    fn only_known_answers_pass() {
        let json = [("content-type", "application/json; charset=utf-8")];
        check(200, &json, None);
        check(200, &[("content-type", "text/event-stream")], None);
        check(400, &json, None);
        check(500, &json, None);
        check(401, &json, Some(Code::UpstreamCredential));
        check(403, &json, Some(Code::UpstreamCredential));
        check(302, &json, Some(Code::UpstreamInvalid));
        check(101, &json, Some(Code::UpstreamInvalid));
        check(200, &[("content-type", "text/html")], Some(Code::UpstreamInvalid));
        check(200, &[], Some(Code::UpstreamInvalid));
        check(500, &[("content-type", "text/event-stream")], Some(Code::UpstreamInvalid));
        check(200, &[("content-type", "application/json"), ("content-encoding", "gzip")], Some(Code::UpstreamInvalid));
    }
}
