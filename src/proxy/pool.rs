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

use crate::proxy::connect::Dialler;
use crate::proxy::descriptors::{may_stay_idle, upstream_place};

/// Idle connections kept.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    /// Nobody could be dialled.
    #[error("no connection: {0}")]
    Dial(#[from] std::io::Error),
    /// The connection broke, or what came was no HTTP.
    #[error("{0}")]
    Broke(#[from] hyper::Error),
}

type Sender = SendRequest<Full<Bytes>>;

struct Idle {
    sender: Sender,
    since: Instant,
}

/// The connections to one upstream.
pub struct Pool {
    dialler: Dialler,
    idle: Mutex<Vec<Idle>>,
}

impl Pool {
    /// No connections yet.
    #[must_use]
    pub const fn new(dialler: Dialler) -> Self {
        Self { dialler, idle: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request of origin-form target, with a Host. Where a kept connection turns out to have been closed before a byte
    /// of an answer came, `request` is asked for another, which goes over a new connection: a model call keeps no state.
    ///
    /// # Errors
    /// When nobody can be dialled, or the connection broke.
    pub async fn send(self: &Arc<Self>, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Response<Arriving>, SendFault> {
        if let Some(mut sender) = self.kept().await {
            match sender.send_request(request()).await {
                Ok(response) => return Ok(self.arriving(response, sender)),
                Err(error) if closed_without_an_answer(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let place = upstream_place().await?;
        let (mut sender, connection) = handshake(TokioIo::new(self.dialler.dial().await?)).await?;
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an upstream ended");
            }
        });
        let response = sender.send_request(request()).await?;
        Ok(self.arriving(response, sender))
    }

    /// A kept connection that is open as far as anybody knows.
    async fn kept(&self) -> Option<Sender> {
        loop {
            let Idle { mut sender, since } = self.lock().pop()?;
            if since.elapsed() < IDLE_FOR && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.lock();
        if !sender.is_closed() && idle.len() < IDLE_MAX && may_stay_idle() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Lets connections go that were not used for a while.
    pub fn sweep(&self) {
        self.lock().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_FOR);
    }

    /// Dials once, to see whether anybody is there.
    pub async fn probe(&self) -> bool {
        self.dialler.dial().await.is_ok()
    }

    fn arriving(self: &Arc<Self>, response: Response<Incoming>, sender: Sender) -> Response<Arriving> {
        response.map(|body| Arriving { body, lease: Some((Arc::clone(self), sender)) })
    }
}

/// True where the connection ended before a byte of an answer came.
fn closed_without_an_answer(error: &hyper::Error) -> bool {
    let reset = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|cause| matches!(cause.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe));
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || reset
}

/// The body of an answer as it comes. When it has come to its end the connection is kept for another request; dropped
/// before that, it closes the connection, and the server may stop.
pub struct Arriving {
    body: Incoming,
    lease: Option<(Arc<Pool>, Sender)>,
}

impl Arriving {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let over = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => {
                self.lease = None;
                false
            }
        };
        if over && let Some((pool, sender)) = self.lease.take() {
            pool.keep(sender);
        }
        Poll::Ready(frame)
    }

    /// The next frame, waited for.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}
