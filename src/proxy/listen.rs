//! The API listener: accepts, shakes hands, counts connections, and ends in order.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::guard::authenticate::network;
use crate::proxy::body::Body;
use crate::proxy::framing::HEADERS_MAX;
use crate::proxy::peer::{begins_proxy, forwarded, proxied, trusted};
use crate::proxy::settings::Timeouts;
use crate::proxy::tap::{Home, Tap, Unexplained, Version};
use crate::proxy::{Gateway, Origin};
use crate::refusal::Code;

/// Streams that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 128;
/// How long a last word to a slow caller may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a listener goes by.
pub struct Terms {
    /// TLS, where the listener speaks it; swapped on reload.
    pub tls: Option<Arc<arc_swap::ArcSwap<rustls::ServerConfig>>>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once of one network that is no trusted proxy.
    pub peer_connections_max: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}

/// Serves `listener` until `shutdown` turns true, then lets open requests finish for at most `timeouts.drain`.
pub async fn run(listener: TcpListener, terms: Terms, gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(terms.connections_max));
    let peers = Arc::new(Peers::default());
    let drain = terms.timeouts.drain;
    let terms = Arc::new(terms);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let max = if trusted(peer.ip(), &terms.trusted_proxies) { usize::MAX } else { terms.peer_connections_max };
                let Some(peer_place) = peers.enter(network(peer.ip()), max) else {
                    tracing::debug!(%peer, "too many connections of one peer");
                    continue;
                };
                let (terms, gateway) = (Arc::clone(&terms), Arc::clone(&gateway));
                let connection = Connection { terms, gateway, shutdown: shutdown.clone(), _places: (place, peer_place) };
                connections.spawn(connection.open(stream, peer));
            }
            Err(error) => {
                // Out of file descriptors, or the peer was gone: others may still come.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!(
            after_ms = drain.as_millis() as u64,
            cut = connections.len(),
            "connections were cut at the end of the drain"
        );
        connections.shutdown().await;
    }
}

/// How many connections each network has.
#[derive(Default)]
struct Peers(DashMap<u128, usize>);

/// A connection's place among those of its network.
struct PeerPlace(Arc<Peers>, u128);

impl Peers {
    fn enter(self: &Arc<Self>, network: u128, max: usize) -> Option<PeerPlace> {
        let mut count = self.0.entry(network).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(count);
        Some(PeerPlace(Arc::clone(self), network))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        if let Some(mut count) = self.0.0.get_mut(&self.1) {
            *count -= 1;
        }
        self.0.0.remove_if(&self.1, |_, count| *count == 0);
    }
}

struct Connection {
    terms: Arc<Terms>,
    gateway: Arc<Gateway>,
    shutdown: watch::Receiver<bool>,
    _places: (OwnedSemaphorePermit, PeerPlace),
}

impl Connection {
    async fn open(self, mut stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let handshake = self.terms.timeouts.handshake;
        let client = match tokio::time::timeout(handshake, self.client(&mut stream, peer.ip())).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return tracing::debug!(%error, %peer, "PROXY header refused"),
            Err(_) => return tracing::debug!(%peer, "no PROXY header in time"),
        };
        let Some(tls) = self.terms.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full())) else {
            return self.serve(stream, client).await;
        };
        match tokio::time::timeout(handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, client).await,
            Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    /// The client's address: the peer's, or what a trusted proxy says in a PROXY header.
    async fn client(&self, stream: &mut TcpStream, peer: IpAddr) -> std::io::Result<IpAddr> {
        let peer = peer.to_canonical();
        if !trusted(peer, &self.terms.trusted_proxies) {
            return Ok(peer);
        }
        let mut first = [0; 12];
        let seen = stream.peek(&mut first).await?;
        if begins_proxy(&first[..seen]) { proxied(stream, peer).await } else { Ok(peer) }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut self, stream: S, client: IpAddr) {
        let timeouts = &self.terms.timeouts;
        let opened = tokio::select! {
            opened = tokio::time::timeout(timeouts.header, Tap::open(stream, timeouts.stream_idle)) => opened,
            // Nothing was asked on it: the drain does not wait for such.
            _ = self.shutdown.wait_for(|stop| *stop) => return,
        };
        let tap = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::debug!(%error, %client, "no request"),
            Err(_) => return tracing::debug!(%client, "no request in time"),
        };
        let (version, unexplained, home, busy) = (tap.version(), tap.unexplained(), tap.home(), Arc::new(()));
        let (gateway, terms, working) = (Arc::clone(&self.gateway), Arc::clone(&self.terms), Arc::clone(&busy));
        let service = service_fn(move |request| {
            let (gateway, working) = (Arc::clone(&gateway), Arc::clone(&working));
            let origin = origin(client, &request, &terms.trusted_proxies, &unexplained);
            async move {
                let response = gateway.serve(request, origin).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| Working { body, _working: working }))
            }
        });
        let io = TokioIo::new(tap);
        let ended = match version {
            Version::Http1 => drive(http1(timeouts).serve_connection(io, service), &mut self.shutdown, None).await,
            Version::Http2 => {
                drive(http2(timeouts).serve_connection(io, service), &mut self.shutdown, Some((busy, timeouts.stream_idle))).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %client, "connection ended");
            if version == Version::Http1 {
                unread(&self.gateway, &error, &home).await;
            }
        }
    }
}

/// Runs a connection to its end. It is asked to end after its open requests when the gateway drains; and, where `busy` is
/// given, when nothing was asked on it for a while (hyper closes idle HTTP/1 connections by itself).
async fn drive<C: GracefulConnection>(
    connection: C,
    shutdown: &mut watch::Receiver<bool>,
    busy: Option<(Arc<()>, Duration)>,
) -> Result<(), C::Error> {
    let mut connection = std::pin::pin!(connection);
    let half = busy.as_ref().map_or(Duration::from_secs(1), |(_, idle)| *idle / 2);
    let mut ticks = tokio::time::interval(half.max(Duration::from_millis(1)));
    let (mut ending, mut quiet) = (false, 0);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            _ = shutdown.wait_for(|stop| *stop), if !ending => {}
            _ = ticks.tick(), if busy.is_some() => {
                // Two stay: this one and the service's own.
                let idle = busy.as_ref().is_some_and(|(busy, _)| Arc::strong_count(busy) <= 2);
                quiet = if idle { quiet + 1 } else { 0 };
                match quiet {
                    0..=2 => continue,
                    3 => {}
                    // The peer was asked to end and does not answer.
                    _ => return Ok(()),
                }
            }
        }
        if !ending {
            ending = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// A body by which its connection knows that it is at work.
struct Working {
    body: Body,
    _working: Arc<()>,
}

impl HttpBody for Working {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Tells a caller why the head of its request could not be read, where one had begun.
async fn unread<S: AsyncRead + AsyncWrite + Unpin>(gateway: &Gateway, error: &hyper::Error, home: &Home<S>) {
    let code = match error {
        slow if slow.is_timeout() => Code::HeadersSlow,
        large if large.is_parse_too_large() => Code::HeadersTooLarge,
        malformed if malformed.is_parse() => Code::RequestMalformed,
        _ => return,
    };
    let Some(mut stream) = home.take() else { return };
    let answer = gateway.unread(code);
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        // To close on bytes that were not read would reset the connection and might lose the answer.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, told).await {
        tracing::debug!(%error, %code, "the caller was gone");
    }
}

fn origin(
    client: IpAddr,
    request: &http::Request<hyper::body::Incoming>,
    proxies: &[IpNet],
    unexplained: &Unexplained,
) -> Origin {
    let over_http2 = request.version() == http::Version::HTTP_2;
    let unexplained = if over_http2 { Unexplained::default() } else { unexplained.clone() };
    Origin { peer: forwarded(client, request.headers(), proxies), unexplained }
}

fn http1(timeouts: &Timeouts) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(timeouts.header).max_buf_size(HEADERS_MAX).half_close(false);
    builder
}

fn http2(timeouts: &Timeouts) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // What lies between is refused with a code; beyond this the HTTP/2 library answers by itself.
        .max_header_list_size(2 * HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(timeouts.header);
    builder
}
