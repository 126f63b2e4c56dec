//! The API listener: accepts, shakes hands, counts connections, and ends in order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::proxy::peer::{begins_proxy, forwarded, proxied, trusted};
use crate::proxy::settings::Timeouts;
use crate::proxy::tap::{Home, Tap, Unexplained, Version};
use crate::proxy::{Gateway, Origin};

/// Header bytes of one request at the most: a chain of 40 KiB and what else a caller sends.
const HEADERS_MAX: usize = 64 << 10;
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
    /// Time limits.
    pub timeouts: Timeouts,
}

/// Serves `listener` until `shutdown` turns true, then lets open requests finish for at most `timeouts.drain`.
pub async fn run(listener: TcpListener, terms: Terms, gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(terms.connections_max));
    let graceful = Arc::new(GracefulShutdown::new());
    let drain = terms.timeouts.drain;
    let terms = Arc::new(terms);
    loop {
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
                let connection =
                    Connection { terms: Arc::clone(&terms), gateway: Arc::clone(&gateway), watcher: graceful.watcher() };
                tokio::spawn(connection.open(stream, peer, place));
            }
            Err(error) => {
                // Out of file descriptors, or the peer was gone: others may still come.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful)
        && tokio::time::timeout(drain, graceful.shutdown()).await.is_err()
    {
        tracing::warn!(after_ms = drain.as_millis() as u64, "connections were cut at the end of the drain");
    }
}

struct Connection {
    terms: Arc<Terms>,
    gateway: Arc<Gateway>,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn open(self, mut stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
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
            return self.serve(stream, client, place).await;
        };
        match tokio::time::timeout(handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, client, place).await,
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

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self,
        stream: S,
        client: IpAddr,
        place: OwnedSemaphorePermit,
    ) {
        let Self { terms, gateway, watcher } = self;
        let (version, tap) = match tokio::time::timeout(terms.timeouts.header, Tap::open(stream)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::debug!(%error, %client, "no request"),
            Err(_) => return tracing::debug!(%client, "no request in time"),
        };
        let (unexplained, home) = (tap.unexplained(), tap.home());
        let answering = Arc::clone(&gateway);
        let own = Arc::clone(&terms);
        let service = service_fn(move |request| {
            let gateway = Arc::clone(&gateway);
            let origin = origin(client, &request, &terms.trusted_proxies, &unexplained);
            async move { Ok::<_, std::convert::Infallible>(gateway.serve(request, origin).await) }
        });
        let ended = match version {
            Version::Http1 => watcher.watch(http1(&own.timeouts).serve_connection(TokioIo::new(tap), service)).await,
            Version::Http2 => watcher.watch(http2(&own.timeouts).serve_connection(TokioIo::new(tap), service)).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %client, "connection ended");
            if version == Version::Http1 && error.is_timeout() {
                too_slow(&answering, &home).await;
            }
        }
        drop(place);
    }
}

/// Tells a caller whose headers did not end in time, where they had begun.
async fn too_slow<S: AsyncWrite + Unpin>(gateway: &Gateway, home: &Home<S>) {
    let Some(mut stream) = home.take() else { return };
    let answer = gateway.too_slow();
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, told).await {
        tracing::debug!(%error, "the caller of a slow request was gone");
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
        .max_header_list_size(HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(timeouts.header);
    builder
}
