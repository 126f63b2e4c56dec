//! The entrance of requests. They are served here, wait while another process takes over, or are
//! answered by that process.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::watch;

use crate::model::{Dialect, error};
use crate::proxy::arrive::dialect;
use crate::proxy::body::Body;
use crate::proxy::exchange::Exchange;
use crate::proxy::framing::framing;
use crate::proxy::respond::{self, Anonymous, RefusalResponse};
use crate::proxy::{Gateway, Origin};
use crate::refusal::{Code, Refusal};

/// The header in which one process sends the peer of a request to the other. It goes to no other
/// party.
const PEER: HeaderName = HeaderName::from_static("token-shield-peer");
/// Headers that apply to one connection only (RFC 9110 section 7.6.1).
const OF_CONNECTIONS: [HeaderName; 6] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The other process, which answers requests.
#[derive(Clone)]
pub struct RemoteProcess {
    requests: SendRequest<Incoming>,
    /// A copy of the socket that carries the requests.
    socket: Arc<UnixStream>,
}

impl RemoteProcess {
    /// Sends requests over `requests`, whose connection uses `socket`.
    #[must_use]
    pub fn new(requests: SendRequest<Incoming>, socket: UnixStream) -> Self {
        Self { requests, socket: Arc::new(socket) }
    }
}

/// The process that serves requests.
#[derive(Clone)]
enum Way {
    /// This process.
    Open,
    /// Not decided yet: requests wait.
    Shut,
    /// The other process.
    Elsewhere(RemoteProcess),
}

/// The entrance of a process: its current state, which tasks can wait for.
pub struct Entrance(watch::Sender<Way>);

impl Default for Entrance {
    fn default() -> Self {
        Self(watch::Sender::new(Way::Open))
    }
}

impl Entrance {
    /// Makes requests and connections wait.
    pub fn shut(&self) {
        self.0.send_replace(Way::Shut);
    }

    /// Serves requests in this process, also after [`Self::shut`].
    pub fn open(&self) {
        self.0.send_replace(Way::Open);
    }

    /// Sends all further requests to the other process. This process accepts no more connections.
    pub fn leave(&self, elsewhere: RemoteProcess) {
        self.0.send_replace(Way::Elsewhere(elsewhere));
    }

    /// Ends the answers of the other process that callers read through this one. Streams end with
    /// an event that reports it.
    pub fn cut(&self) {
        if let Way::Elsewhere(elsewhere) = &*self.0.borrow()
            && let Err(error) = elsewhere.socket.shutdown(Shutdown::Both)
        {
            tracing::debug!(%error, "the successor's way of requests was closed already");
        }
    }

    /// Waits until the serving process is decided; true if it is this one.
    pub async fn is_here(&self) -> bool {
        let mut ways = self.0.subscribe();
        let way = ways.wait_for(|way| !matches!(way, Way::Shut)).await;
        way.is_ok_and(|way| matches!(*way, Way::Open))
    }

    /// Waits until this process does not serve, permanently or for the moment.
    pub async fn closed(&self) {
        let mut ways = self.0.subscribe();
        if ways.wait_for(|way| !matches!(way, Way::Open)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the other process serves.
    pub async fn left(&self) {
        let mut ways = self.0.subscribe();
        if ways.wait_for(|way| matches!(way, Way::Elsewhere(_))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Answers one request, here or through the other process. Waits while that is undecided.
    pub async fn serve(
        &self,
        gateway: &Arc<Gateway>,
        request: Request<Incoming>,
        origin: Origin,
    ) -> Response<Body> {
        let mut ways = self.0.subscribe();
        // The request waits here while a take-over is undecided. It is not refused.
        let way = ways.wait_for(|way| !matches!(way, Way::Shut)).await.map(|way| way.clone());
        let Ok(Way::Elsewhere(elsewhere)) = way else {
            return Arc::clone(gateway).serve(request, origin).await;
        };
        let over_http1 = request.version() <= Version::HTTP_11;
        // Boxed because it is rare: otherwise every request would reserve room for it.
        let mut response = Box::pin(ask(elsewhere.requests, gateway, request, origin)).await;
        if over_http1 {
            // The caller's next connection goes directly to the other process.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Has the other process answer. Faults of this connection's framing are refused here, because the
/// other process cannot see them.
async fn ask(
    mut elsewhere: SendRequest<Incoming>,
    gateway: &Arc<Gateway>,
    request: Request<Incoming>,
    origin: Origin,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let asked = Request::from_parts(parts, ());
    // HTTP/2 to the other process hides this connection's framing, so it is checked before.
    let authority = match framing(&asked, origin.framing) {
        Ok(()) => authority(&asked),
        Err(_) => None,
    };
    let dialect = dialect(&asked);
    let (mut parts, ()) = asked.into_parts();
    let Some(authority) = authority else {
        return Arc::clone(gateway).serve(Request::from_parts(parts, body), origin).await;
    };
    let path = match parts.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let Ok(uri) =
        Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build()
    else {
        return Arc::clone(gateway).serve(Request::from_parts(parts, body), origin).await;
    };
    parts.uri = uri;
    // HTTP/2 needs an absolute URI (RFC 9113 section 8.3.1), and forbids headers of a connection
    // (section 8.2.2).
    parts.version = Version::HTTP_2;
    OF_CONNECTIONS.iter().chain([&HOST]).for_each(|name| drop(parts.headers.remove(name)));
    // `insert` replaces a header of this name that the caller sent: a caller cannot choose its
    // peer.
    if let Ok(peer) = HeaderValue::from_str(&origin.peer.to_string()) {
        parts.headers.insert(PEER, peer);
    }
    match elsewhere.send_request(Request::from_parts(parts, body)).await {
        Ok(response) => passed_on(response, dialect),
        Err(error) => gone(gateway, &error, dialect),
    }
}

/// The authority that a request names: its Host header, or the one of its URI.
fn authority(request: &Request<()>) -> Option<Authority> {
    if let Some(host) = request.headers().get(HOST)
        && let Ok(host) = host.to_str()
    {
        return host.parse().ok();
    }
    request.uri().authority().cloned()
}

/// A header as text; empty if it is missing or not visible ASCII.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    if let Some(value) = headers.get(name)
        && let Ok(text) = value.to_str()
    {
        return text;
    }
    ""
}

/// Converts the other process's response. A stream gets the event that ends it if it breaks off.
fn passed_on(response: Response<Incoming>, dialect: Dialect) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    // The caller's connection may have another version. hyper sets the right one.
    parts.version = Version::default();
    OF_CONNECTIONS.iter().for_each(|name| drop(parts.headers.remove(name)));
    // Only a stream without a length needs the event: with a length the cut is visible.
    let is_stream = text(&parts.headers, CONTENT_TYPE.as_str())
        .starts_with(dialect.framing().media_type())
        && !parts.headers.contains_key(CONTENT_LENGTH);
    let broken = if is_stream {
        // The event carries the request's name, so that the caller can find the request in the log.
        let request = text(&parts.headers, respond::REQUEST.as_str());
        let refusal = Refusal::new(Code::GatewayStopping);
        Some(Bytes::from(error::event(dialect, &refusal, request, None)))
    } else {
        None
    };
    Response::from_parts(parts, Body::elsewhere(body, broken))
}

/// The peer of a request, from the header of the other process. The header is removed. Only for
/// requests from that process.
///
/// # Errors
/// If the header is missing or invalid.
pub fn origin(headers: &mut HeaderMap) -> Result<Origin, Refusal> {
    if let Some(peer) = headers.remove(PEER)
        && let Ok(peer) = peer.to_str()
        && let Ok(peer) = peer.parse()
    {
        return Ok(Origin { peer, framing: None, reader: None });
    }
    Err(Refusal::new(Code::Internal).because("a request of the other process without its peer"))
}

/// The answer to a request that the other process did not answer.
fn gone(gateway: &Gateway, error: &hyper::Error, dialect: Dialect) -> Response<Body> {
    let mut exchange = Exchange::start(gateway, dialect, None);
    let refusal = Refusal::new(Code::AuditUnavailable).because(error);
    exchange.refused(&refusal);
    respond::refuse(
        &RefusalResponse::Anonymous(Anonymous::new(refusal)),
        dialect,
        &exchange.id_text,
        None,
    )
}
