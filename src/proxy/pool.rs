//! Connections to one upstream, kept from request to request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::guard::limiter::Subject;
use crate::proxy::connect::{DialFault, Dialler};
use crate::proxy::descriptors::{may_stay_idle, upstream_place};
use crate::proxy::wire::{RequestProgress, Wire};

/// Idle connections kept.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    /// Nobody could be dialled.
    #[error("no connection: {0}")]
    Dial(std::io::Error),
    /// The server took a connection and ended it before anything was written.
    #[error("closed: the server ended the connection as soon as it was open: {0}")]
    Ended(std::io::Error),
    /// The connection broke, or what came was no HTTP, before the last byte of the request was written: it surely did not run.
    #[error("{}, before the request was written", cause(.0))]
    NotSent(hyper::Error),
    /// The connection broke, or what came was no HTTP. The request may have run.
    #[error("{}", cause(.0))]
    Broke(hyper::Error),
}

/// What broke a connection, in words. Nothing of what was sent or received stands in it.
pub(super) fn cause(error: &hyper::Error) -> String {
    let io =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {
            "reset: the server reset the connection".to_owned()
        }
        Some(std::io::ErrorKind::UnexpectedEof) => {
            "closed: the server ended the connection in the middle of its answer".to_owned()
        }
        Some(std::io::ErrorKind::TimedOut) => {
            "timeout: the server does not acknowledge what is sent".to_owned()
        }
        Some(std::io::ErrorKind::ConnectionAborted) => {
            "closed: the server had ended the connection".to_owned()
        }
        Some(_) => format!("{error}: {}", io.map(ToString::to_string).unwrap_or_default()),
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            "closed: the server ended the connection without an answer".to_owned()
        }
        None if error.is_parse() => format!("no valid HTTP: {error}"),
        None => error.to_string(),
    }
}

struct PooledConnection {
    sender: SendRequest<Full<Bytes>>,
    line: Arc<RequestProgress>,
}

struct IdleConnection {
    connection: PooledConnection,
    owner: Option<Subject>,
    since: Instant,
}

/// The connections to one upstream.
pub struct Pool {
    dialler: Dialler,
    idle: Mutex<Vec<IdleConnection>>,
}

impl Pool {
    /// No connections yet.
    #[must_use]
    pub const fn new(dialler: Dialler) -> Self {
        Self { dialler, idle: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request of origin-form target, with a Host, over a connection that served nobody but `owner`. Where a kept
    /// connection turns out to have ended before the last byte of the request was written, `request` is asked for another, which
    /// goes over a new connection. What may have run is never repeated.
    ///
    /// # Errors
    /// When nobody can be dialled, or the connection broke.
    pub async fn send(
        self: &Arc<Self>,
        owner: Option<Subject>,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<Response<Arriving>, SendFault> {
        let mut kept = self.kept(owner).await;
        loop {
            let was_kept = kept.is_some();
            let connection = match kept.take() {
                Some(connection) => connection,
                // Boxed: it is over long before the answer comes.
                None => Box::pin(self.open()).await?,
            };
            match self.over(connection, owner, request()).await {
                Err(SendFault::NotSent(_)) if was_kept => {}
                done => return done,
            }
        }
    }

    /// A new connection.
    async fn open(&self) -> Result<PooledConnection, SendFault> {
        let place = if self.dialler.opens_descriptor() {
            upstream_place().await.map_err(SendFault::Dial)?
        } else {
            None
        };
        let stream = self.dialler.dial().await.map_err(|fault| match fault {
            DialFault::Unreached(error) => SendFault::Dial(error),
            DialFault::Ended(error) => SendFault::Ended(error),
        })?;
        let (wire, line) = Wire::new(stream);
        let (sender, connection) =
            handshake(TokioIo::new(wire)).await.map_err(SendFault::NotSent)?;
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an upstream ended");
            }
        });
        Ok(PooledConnection { sender, line })
    }

    async fn over(
        self: &Arc<Self>,
        mut connection: PooledConnection,
        owner: Option<Subject>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Arriving>, SendFault> {
        connection.line.begin(request.body().size_hint().lower());
        match connection.sender.send_request(request).await {
            Ok(response) => Ok(response.map(|body| Arriving {
                body,
                lease: Some(Lease { pool: Arc::clone(self), connection, owner }),
            })),
            // An answer that cannot be read is an answer all the same.
            Err(error) if connection.line.abandon() || error.is_parse() => {
                Err(SendFault::Broke(error))
            }
            Err(error) => Err(SendFault::NotSent(error)),
        }
    }

    /// A connection kept for `owner` that is open as far as anybody knows.
    async fn kept(&self, owner: Option<Subject>) -> Option<PooledConnection> {
        loop {
            let IdleConnection { mut connection, since, .. } = {
                let mut idle = self.lock();
                let place = idle.iter().rposition(|idle| idle.owner == owner)?;
                idle.remove(place)
            };
            if since.elapsed() < IDLE_FOR && connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: PooledConnection, owner: Option<Subject>) {
        let mut idle = self.lock();
        if connection.sender.is_closed() || !may_stay_idle() {
            return;
        }
        if idle.len() >= IDLE_MAX {
            // The one that was not used for the longest gives way: its owner may never come back.
            idle.remove(0);
        }
        idle.push(IdleConnection { connection, owner, since: Instant::now() });
    }

    /// Lets connections go that were not used for a while.
    pub fn sweep(&self) {
        self.lock()
            .retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() < IDLE_FOR);
    }

    /// Dials once, to see whether anybody is there.
    ///
    /// # Errors
    /// Why nobody is.
    pub async fn probe(&self) -> Result<(), DialFault> {
        self.dialler.dial().await.map(drop)
    }
}

struct Lease {
    pool: Arc<Pool>,
    connection: PooledConnection,
    owner: Option<Subject>,
}

/// The body of an answer as it comes. When it has come to its end the connection is kept for another request; dropped
/// before that, it closes the connection, and the server may stop.
pub struct Arriving {
    body: Incoming,
    lease: Option<Lease>,
}

impl Arriving {
    /// The next frame.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let over = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => {
                self.lease = None;
                false
            }
        };
        if over && let Some(Lease { pool, connection, owner }) = self.lease.take() {
            pool.keep(connection, owner);
        }
        Poll::Ready(frame)
    }

    /// The next frame, waited for.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}
