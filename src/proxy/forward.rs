//! Requests to an upstream, and complete answers. Each request is built from the beginning.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;

use crate::audit::store::entry::Committed;
use crate::guard::admit::Call;
use crate::guard::betas;
use crate::model::declared::DeclaredTarget;
use crate::model::{Dialect, Operation};
use crate::proxy::buffer::Room;
use crate::proxy::connect::Dialler;
use crate::proxy::pool::{self, Arriving, Pool, SendFault};
use crate::proxy::times::ReadLimits;
use crate::proxy::watch::Fresh;
use crate::refusal::{Code, Refusal};

/// One upstream: its pool of connections, its address and its credential.
pub struct UpstreamClient {
    /// Its name in the config.
    pub name: Arc<str>,
    /// Its connections.
    pool: Arc<Pool>,
    /// The value of the `Host` header.
    host: HeaderValue,
    /// The path prefix, without a trailing slash.
    path: String,
    /// The URI of each operation, built once.
    uris: Vec<(Operation, Uri)>,
    /// The header with its credential.
    credential: Option<(HeaderName, HeaderValue)>,
    /// True if connections are separated by principal.
    by_principal: bool,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const ANTHROPIC_BETA: HeaderName = HeaderName::from_static(betas::HEADER);
/// Headers that a request to an upstream has room for without a new allocation: ours, and hyper's
/// Content-Length.
const HEADERS: usize = 12;
/// The gateway's `User-Agent`.
pub(super) const AGENT: &str = concat!("token-shield/", env!("CARGO_PKG_VERSION"));
/// The retry delay of a request that the upstream did not get.
const RETRY: Duration = Duration::from_secs(1);
/// The largest answer to a request of the gateway itself, in bytes.
const READ_MAX: usize = 4 << 20;

/// Why an upstream has not answered.
pub enum UpstreamFailure {
    /// No connection was possible.
    Unreached(Refusal),
    /// The connection ended before the last byte of the request was written. The upstream certainly
    /// did not run the request.
    Unsent(Refusal),
    /// The connection broke. The request may have run.
    Broke(Refusal),
}

impl UpstreamClient {
    /// An upstream with that `Host` and path (without a trailing slash), connected by `dialler`.
    ///
    /// # Errors
    /// If `host` is an invalid header value, or if `path` and an operation's path form an invalid
    /// URI.
    pub fn new(
        name: Arc<str>,
        host: &str,
        path: &str,
        dialler: Dialler,
        credential: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Self, http::Error> {
        let mut uris = Vec::with_capacity(Operation::ALL.len());
        for operation in Operation::ALL {
            uris.push((operation, format!("{path}{}", operation.path()).parse()?));
        }
        Ok(Self {
            name,
            pool: Arc::new(Pool::new(dialler)),
            host: HeaderValue::from_str(host)?,
            path: path.to_owned(),
            uris,
            credential,
            by_principal: false,
        })
    }

    /// Sets whether connections are separated by principal.
    #[must_use]
    pub fn by_principal(mut self, apart: bool) -> Self {
        self.by_principal = apart;
        self
    }

    /// Its connections.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends the body of `call`. No header of the caller is forwarded.
    ///
    /// The admission of `call` is durable, and `fresh` proves that its caller may act now: there is
    /// no await between that check and this call. A later revocation makes the caller of this
    /// function drop the future.
    ///
    /// # Errors
    /// [`UpstreamFailure`]: `upstream-unavailable` if the request was not sent completely,
    /// `upstream-invalid` if the connection broke later.
    pub fn send<'s>(
        &'s self,
        fresh: Fresh,
        call: &'s Committed<Call>,
        request_id: HeaderValue,
    ) -> impl Future<Output = Result<Response<Arriving>, UpstreamFailure>> + Send + use<'s> {
        fresh.spend();
        self.send_now(call.get(), request_id)
    }

    /// Sends the body of `call` over a connection of the pool.
    async fn send_now(
        &self,
        call: &Call,
        request_id: HeaderValue,
    ) -> Result<Response<Arriving>, UpstreamFailure> {
        let Some(uri) = self.uri(call) else {
            return Err(UpstreamFailure::Broke(Code::Internal.into()));
        };
        // A separate connection per principal prevents that bytes of one principal's answer reach
        // another's.
        let owner = self.by_principal.then_some(call.owner);
        let sent = self.pool.send(owner, || self.request(call, uri.clone(), &request_id));
        sent.await.map_err(|fault| self.failure(&fault))
    }

    /// The URI of a call at this upstream.
    fn uri(&self, call: &Call) -> Option<Uri> {
        if let Some(target) = &call.declared {
            // The path has the model's name in it, so it is not known before.
            return format!("{}{}", self.path, target.path).parse().ok();
        }
        let (_, uri) = self.uris.iter().find(|(known, _)| *known == call.operation)?;
        Some(uri.clone())
    }

    /// The failure of a request to this upstream.
    fn failure(&self, fault: &SendFault) -> UpstreamFailure {
        let code = match fault {
            SendFault::Dial(_) | SendFault::Ended(_) | SendFault::NotSent(_) => {
                Code::UpstreamUnavailable
            }
            SendFault::Broke(_) => Code::UpstreamInvalid,
        };
        let refusal = Refusal::new(code).because(format_args!("upstream {}: {fault}", self.name));
        // A later attempt of an unsent request may succeed, so the caller gets a short delay.
        match fault {
            SendFault::Dial(_) => UpstreamFailure::Unreached(refusal.after(RETRY)),
            SendFault::Ended(_) | SendFault::NotSent(_) => {
                UpstreamFailure::Unsent(refusal.after(RETRY))
            }
            SendFault::Broke(_) => UpstreamFailure::Broke(refusal),
        }
    }

    /// Sends a GET request for `path`, which begins with a slash. Returns the body of an answer
    /// with status 200.
    ///
    /// # Errors
    /// If no answer comes, if its status is not 200, or if it has more than 4 MiB.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let uri: Uri =
            format!("{}{path}", self.path).parse().map_err(|error| format!("{path}: {error}"))?;
        let sent = self.pool.send(None, || self.read_request(&uri));
        let answer = sent.await.map_err(|fault| fault.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{path}: it answers {}", answer.status()));
        }
        let (mut body, mut whole) = (answer.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
            whole.extend_from_slice(&data);
            if whole.len() > READ_MAX {
                return Err(format!("{path}: its answer is larger than 4 MiB"));
            }
        }
        Ok(whole)
    }

    /// A new GET request of the gateway itself.
    fn read_request(&self, uri: &Uri) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(self.credential.clone());
        request
    }

    /// A new request with only the gateway's own headers.
    fn request(&self, call: &Call, uri: Uri, request_id: &HeaderValue) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let framing = call.operation.dialect().framing();
        let accept = if call.stream { framing.media_type() } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        // Filters and redaction need plain bytes.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(REQUEST_ID, request_id.clone());
        if call.operation.dialect() == Dialect::Anthropic {
            headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
        }
        if let Some(betas) = &call.betas {
            headers.insert(ANTHROPIC_BETA, betas.clone());
        }
        if let Some((name, value)) = &self.credential {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(target) = &call.declared {
            declare(target, &mut request);
        }
        request
    }
}

/// Sets the method and the media types of a request for a declared route.
fn declare(target: &DeclaredTarget, request: &mut Request<Full<Bytes>>) {
    if target.route.reads {
        *request.method_mut() = Method::GET;
    }
    let headers = request.headers_mut();
    headers.remove(CONTENT_TYPE);
    // A declaration has only characters that a header can contain.
    if let Some(Ok(media_type)) = target.media_type.as_deref().map(HeaderValue::from_str) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    if let Ok(accept) = HeaderValue::from_str(&target.route.accept()) {
        headers.insert(ACCEPT, accept);
    }
}

/// The header with an upstream's credential.
///
/// # Errors
/// If the secret has characters that a header cannot contain.
pub fn credential(
    secret: &str,
    api_key: bool,
) -> Result<(HeaderName, HeaderValue), http::header::InvalidHeaderValue> {
    let (name, text) = if api_key {
        (HeaderName::from_static("x-api-key"), secret.to_owned())
    } else {
        (AUTHORIZATION, format!("Bearer {secret}"))
    };
    let mut value = HeaderValue::from_str(&text)?;
    // Keeps the value out of debug output and of HTTP/2's compression table.
    value.set_sensitive(true);
    Ok((name, value))
}

/// The refusal for a body that broke off: it was cut, or it is invalid HTTP.
#[must_use]
pub fn broke(error: &hyper::Error) -> Refusal {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let cause = pool::io_cause(error).map(std::io::Error::kind);
    let cut = error.is_incomplete_message()
        || matches!(cause, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof));
    Refusal::new(if cut { Code::Truncated } else { Code::UpstreamInvalid })
        .because(pool::cause(error))
}

/// Reads a complete answer within `limits`: in size, in total time and in the time between two
/// chunks. `room` grows with it.
///
/// # Errors
/// `upstream-slow`, `upstream-endless`, `truncated`, `upstream-invalid` or `body-memory`.
pub async fn collect(
    mut body: Arriving,
    mut room: Room,
    limits: ReadLimits,
) -> Result<(Bytes, Room), Refusal> {
    let ReadLimits { bytes_max, times } = limits;
    let mut whole: Vec<u8> = Vec::new();
    let mut first = Bytes::new();
    loop {
        let Ok(frame) = tokio::time::timeout(times.patience(), body.frame()).await else {
            return Err(Refusal::new(Code::UpstreamSlow).because("timeout stream_idle or total"));
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| broke(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() + first.len() + data.len()) as u64 > bytes_max {
            return Err(Refusal::new(Code::UpstreamEndless)
                .because(format_args!("the answer has more than {bytes_max} bytes")));
        }
        room.grow(data.len())?;
        // Most answers are one frame: that frame is forwarded without a copy.
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok((if whole.is_empty() { first } else { Bytes::from(whole) }, room))
}
