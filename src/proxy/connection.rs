//! One caller's connection: handshakes, requests in order, and an end in bounded time for any
//! behaviour of the peer.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::proxy::Origin;
use crate::proxy::activity::{Activity, DeliveredBytes};
use crate::proxy::connect::probed;
use crate::proxy::frames::Flood;
use crate::proxy::framing::HEADERS_MAX;
use crate::proxy::heads::{Framing, Framings};
use crate::proxy::peer::{begins_proxy, forwarded, proxied, trusted};
use crate::proxy::service::Service;
use crate::proxy::settings::Timeouts;
use crate::proxy::tap::{HeadSlow, HttpVersion, Patience, ReclaimedStream, SniffedStream};
use crate::proxy::terms::{KEPT, Leave, Terms};
use crate::proxy::working::Working;
use crate::refusal::Code;

/// Streams that one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 128;
/// How long a last answer to a slow caller may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a peer without open requests may take to close after the gateway announced the end.
const LEAVE: Duration = Duration::from_millis(500);
/// The interval of the idle check. Also the longest idle time when no connection slot is free.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Bytes that may wait in the kernel before it sends them. Bytes in that buffer are no progress of
/// the client, so the buffer is small.
const UNSENT_MAX: u32 = 64 << 10;

/// An accepted connection. `_places` are its slots; they are released when it ends.
pub(super) struct Connection<P, V> {
    pub(super) terms: Arc<Terms>,
    pub(super) service: Arc<V>,
    pub(super) shutdown: watch::Receiver<Leave>,
    /// The free connection slots.
    pub(super) free: Arc<Semaphore>,
    pub(super) _places: P,
}

impl<P: Send + 'static, V: Service> Connection<P, V> {
    /// Serves the connection until it ends.
    pub(super) async fn open(mut self, mut stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = set_options(&stream) {
            // A connection without these options still works, so the fault is only logged.
            tracing::debug!(%error, "a TCP option could not be set");
        }
        let handshake = self.terms.timeouts.handshake;
        let mut shutdown = self.shutdown.clone();
        let terms = Arc::clone(&self.terms);
        let shaken = async {
            let client = client(&terms, &mut stream, peer.ip()).await?;
            std::io::Result::Ok(match &terms.tls {
                None => Shaken { client, plain: Some(stream), tls: None },
                Some(tls) => {
                    let tls = TlsAcceptor::from(tls.load_full());
                    Shaken { client, plain: None, tls: Some(tls.accept(stream).await?) }
                }
            })
        };
        let shaken = tokio::select! {
            // No request has arrived on this connection, so the drain does not wait for it.
            _ = shutdown.wait_for(|leave| *leave > Leave::No) => return,
            shaken = tokio::time::timeout(handshake, shaken) => shaken,
        };
        match shaken {
            Ok(Ok(Shaken { client, plain: Some(stream), .. })) => self.serve(stream, client).await,
            Ok(Ok(Shaken { client, tls: Some(stream), .. })) => self.serve(stream, client).await,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, %peer, "TLS handshake or PROXY header refused")
            }
            Err(_) => tracing::debug!(%peer, "TLS handshake or PROXY header took too long"),
        }
    }

    /// Detects the HTTP version and serves requests until the connection ends.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &mut self,
        stream: S,
        client: IpAddr,
    ) {
        let timeouts = &self.terms.timeouts;
        let activity = Arc::new(Activity::new());
        let patience = Patience { head: timeouts.header, write: timeouts.stream_idle };
        let opening = SniffedStream::open(stream, patience, Arc::clone(&activity));
        let opened = tokio::select! {
            _ = self.shutdown.wait_for(|leave| *leave > Leave::No) => return,
            opened = tokio::time::timeout(timeouts.header, opening) => opened,
        };
        let tap = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::debug!(%error, %client, "no request"),
            Err(_) => return tracing::debug!(%client, "no request in time"),
        };
        let (version, framings, home) = (tap.version(), tap.framings(), tap.home());
        let (served, terms, shared) =
            (Arc::clone(&self.service), Arc::clone(&self.terms), Arc::clone(&activity));
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let served = Arc::clone(&served);
            let busy = shared.begin(request.version() == http::Version::HTTP_11);
            let peer = forwarded(client, request.headers(), &terms.trusted_proxies);
            let framing = next_framing(framings.as_ref());
            // Each stream of an HTTP/2 connection has its own client speed; an HTTP/1 connection
            // has one.
            let (stream, reader) = match framing {
                Some(_) => (None, shared.written()),
                None => {
                    let stream = Arc::<DeliveredBytes>::default();
                    (Some(Arc::clone(&stream)), stream)
                }
            };
            let origin = Origin { peer, framing, reader: Some(reader) };
            let unanswered = busy.unanswered();
            // Boxed: the HTTP library keeps room for it for the whole answer or connection.
            Box::pin(async move {
                let response = served.serve(request, origin).await;
                let response = Working::wrap(response, busy, unanswered, stream);
                Ok::<_, std::convert::Infallible>(response)
            })
        });
        let io = TokioIo::new(tap);
        let ends = Ends {
            activity: &activity,
            free: &self.free,
            idle: timeouts.idle,
            // Later than the limit of a stream, because that one gives a more exact reason.
            stuck: timeouts.stream_idle.saturating_mul(2).saturating_add(IDLE_LOOK),
            drain: timeouts.drain,
            is_told: version == HttpVersion::Http2,
        };
        let ended = match version {
            HttpVersion::Http1 => {
                drive(http1().serve_connection(io, service), &mut self.shutdown, &ends).await
            }
            HttpVersion::Http2 => {
                drive(http2(timeouts).serve_connection(io, service), &mut self.shutdown, &ends)
                    .await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %client, "connection ended");
            match version {
                HttpVersion::Http1 => unread(&*self.service, &error, &home).await,
                HttpVersion::Http2 => calm(&*self.service, client, &home).await,
            }
        }
    }
}

/// Sets the TCP options of a caller's connection.
///
/// # Errors
/// If the system rejects one of them.
fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
    probed(stream)
}

/// The framing of the next request of an HTTP/1 connection: the default one if its head was not
/// seen. None over HTTP/2.
fn next_framing(framings: Option<&Framings>) -> Option<Framing> {
    let next = framings?.next();
    Some(next.unwrap_or_default())
}

/// A connection after its handshakes. Exactly one of `plain` and `tls` is set.
struct Shaken {
    client: IpAddr,
    plain: Option<TcpStream>,
    tls: Option<tokio_rustls::server::TlsStream<TcpStream>>,
}

/// The client's address: the address of the peer, or the address that a trusted proxy sends in a
/// PROXY header.
///
/// # Errors
/// If the connection or its PROXY header cannot be read.
async fn client(terms: &Terms, stream: &mut TcpStream, peer: IpAddr) -> std::io::Result<IpAddr> {
    let peer = peer.to_canonical();
    // Only a trusted peer may name another address. Any other peer could forge it.
    if !trusted(peer, &terms.trusted_proxies) {
        return Ok(peer);
    }
    // Peeked, not read: without a PROXY header these bytes belong to TLS or HTTP.
    let mut first = [0; 12];
    let seen = stream.peek(&mut first).await?;
    if begins_proxy(&first[..seen]) { proxied(stream, peer).await } else { Ok(peer) }
}

/// The conditions under which the gateway ends a connection.
struct Ends<'c> {
    activity: &'c Activity,
    /// The slots for other connections.
    free: &'c Semaphore,
    /// How long the connection may be without a request.
    idle: Duration,
    /// How long its caller may leave ready bytes untaken.
    stuck: Duration,
    /// How long its caller may read ready bytes after the drain began.
    drain: Duration,
    /// Whether the caller gets an announcement (GOAWAY, RFC 9113 section 6.8) before the end.
    is_told: bool,
}

impl Ends<'_> {
    /// How long it may be without a request at this moment: less if all connection slots are used.
    fn idle_now(&self) -> Duration {
        if self.free.available_permits() == 0 { self.idle.min(IDLE_LOOK) } else { self.idle }
    }

    /// How long it may be without a request in this stage of closing.
    fn allowed(&self, stage: &ClosingStage) -> Duration {
        match (stage.ending, stage.leave) {
            (true, _) => LEAVE,
            (false, Leave::No | Leave::Now) => self.idle_now(),
            (false, Leave::WhenQuiet) => self.idle_now().min(KEPT),
        }
    }

    /// Whether only its caller keeps the connection open, and for too long.
    fn is_kept(&self, stage: &ClosingStage) -> bool {
        if let Some(stuck) = self.activity.stuck_for()
            && stuck >= self.stuck
        {
            return true;
        }
        match (self.activity.answered_for(), stage.since) {
            (Some(answered), Some(since)) => answered.min(since.elapsed()) >= self.drain,
            (Some(_) | None, _) => false,
        }
    }
}

/// The progress of a connection towards its end.
struct ClosingStage {
    /// The newest instruction to leave.
    leave: Leave,
    /// When the connection was first instructed to end, or began to end.
    since: Option<Instant>,
    /// Whether it ends after its open requests.
    ending: bool,
}

/// Runs a connection until it ends.
///
/// The gateway ends it after its open requests when the gateway drains, or after an idle time. A
/// peer that does not close then is disconnected. So is a peer that takes no byte of its answers.
/// Over HTTP/2 such a peer keeps its flow-control windows closed (RFC 9113 section 6.9) and its
/// connection alive by pings.
///
/// When another process has taken over, an HTTP/1 connection does not end with its last stream. The
/// head of that stream was sent before and could not announce the end, so its caller may send
/// another request first.
///
/// The timers are polled before the connection. A peer that keeps the connection's task busy
/// therefore cannot delay them.
async fn drive<C: GracefulConnection>(
    connection: C,
    shutdown: &mut watch::Receiver<Leave>,
    ends: &Ends<'_>,
) -> Result<(), C::Error> {
    let mut connection = std::pin::pin!(connection);
    let mut look = std::pin::pin!(tokio::time::sleep(ends.idle.min(IDLE_LOOK)));
    let mut stage = ClosingStage { leave: Leave::No, since: None, ending: false };
    loop {
        let heard = stage.leave;
        let left = tokio::select! {
            biased;
            asked = shutdown.wait_for(|leave| *leave > heard),
                if !stage.ending && heard < Leave::Now =>
            {
                stage.leave = asked.map_or(Leave::Now, |leave| *leave);
                stage.since = stage.since.or(Some(Instant::now()));
                // HTTP/1 has no announcement of the end. The connection stays usable for a last
                // request.
                let ends_later = stage.leave == Leave::WhenQuiet && !ends.is_told;
                ends_later.then_some(Duration::ZERO)
            }
            () = look.as_mut() => {
                if ends.is_kept(&stage) {
                    return Ok(());
                }
                let allowed = ends.allowed(&stage);
                match ends.activity.quiet_for() {
                    None => Some(allowed.min(IDLE_LOOK)),
                    Some(quiet) if quiet < allowed => Some((allowed - quiet).min(IDLE_LOOK)),
                    Some(_) if stage.ending => return Ok(()),
                    Some(_) => None,
                }
            }
            ended = connection.as_mut() => return ended,
        };
        if left.is_none() {
            stage.ending = true;
            stage.since = stage.since.or(Some(Instant::now()));
            connection.as_mut().graceful_shutdown();
        }
        look.as_mut().reset(Instant::now() + left.unwrap_or(LEAVE));
    }
}

/// Whether an error of type `E` caused `error`, also within an I/O error.
fn caused_by<E: std::error::Error + 'static>(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<E>() {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>()
            && let Some(inner) = error.get_ref()
            && inner.is::<E>()
        {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Answers a caller whose request head could not be read, if a head had begun.
async fn unread<S: AsyncRead + AsyncWrite + Unpin>(
    service: &impl Service,
    error: &hyper::Error,
    home: &ReclaimedStream<S>,
) {
    let code = match error {
        slow if caused_by::<HeadSlow>(slow) => Code::HeadersSlow,
        large if large.is_parse_too_large() => Code::HeadersTooLarge,
        malformed if malformed.is_parse() => Code::RequestMalformed,
        // Other errors, such as a closed connection, leave no caller to answer.
        _ => return,
    };
    let Some(mut returned) = home.take() else { return };
    let answer = service.unread(code);
    let told = async {
        returned.stream.write_all(&answer).await?;
        returned.stream.shutdown().await?;
        // Closing with unread bytes resets the connection, and the caller may lose the answer.
        tokio::io::copy(&mut returned.stream, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, told).await {
        tracing::debug!(%error, %code, "the caller was gone");
    }
}

/// Counts a flood of HTTP/2 frames, if one has ended the connection. Sends GOAWAY to the peer, if
/// that frame is ready and the peer takes it. Further bytes of the peer are not read.
async fn calm<S: AsyncWrite + Unpin>(
    service: &impl Service,
    client: IpAddr,
    home: &ReclaimedStream<S>,
) {
    // The HTTP/2 library drops the cause of an error, so the tap records a flood itself.
    let Some(mut returned) = home.take() else { return };
    if !returned.is_flooded {
        return;
    }
    service.flooded();
    tracing::debug!(%client, "a connection was ended: {Flood}");
    let Some(goaway) = returned.goaway else { return };
    let told = async {
        returned.stream.write_all(&goaway).await?;
        returned.stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, told).await {
        tracing::debug!(%error, "the peer was gone");
    }
}

/// The HTTP/1 settings of callers' connections.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The tap enforces the time limits of heads, and decides how a half-closed connection
    // continues.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEADERS_MAX)
        .half_close(false);
    builder
}

/// The HTTP/2 settings of callers' connections.
fn http2(timeouts: &Timeouts) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // Heads between the gateway's limit and this one are refused with a code. Above it the
        // HTTP/2 library answers by itself.
        .max_header_list_size(2 * HEADERS_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(timeouts.header);
    builder
}
