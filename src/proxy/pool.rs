//! Connections to one upstream, reused for several requests.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
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
use crate::lock::locked;
use crate::proxy::connect::{DialFault, Dialler};
use crate::proxy::descriptors::{may_stay_idle, upstream_place};
use crate::proxy::wire::{RequestProgress, Wire};

/// The largest number of idle connections.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept open.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    /// No connection was possible.
    #[error("no connection: {0}")]
    Dial(std::io::Error),
    /// The server accepted a connection and ended it before a byte was written.
    #[error("closed: the server ended the connection as soon as it was open: {0}")]
    Ended(std::io::Error),
    /// Before the last byte of the request was written, the connection broke or invalid HTTP
    /// arrived. The request certainly did not run.
    #[error("{}, before the request was written", cause(.0))]
    NotSent(hyper::Error),
    /// The connection broke, or invalid HTTP arrived. The request may have run.
    #[error("{}", cause(.0))]
    Broke(hyper::Error),
}

/// The I/O error that caused `error`, if there is one.
pub(super) fn io_cause(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// The cause of a broken connection, in words. It contains no bytes that were sent or received.
pub(super) fn cause(error: &hyper::Error) -> String {
    let io = io_cause(error);
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
        Some(_) => match io {
            Some(io) => format!("{error}: {io}"),
            None => error.to_string(),
        },
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            "closed: the server ended the connection without an answer".to_owned()
        }
        None if error.is_parse() => format!("no valid HTTP: {error}"),
        None => error.to_string(),
    }
}

/// An open connection, and the progress of the request on it.
struct PooledConnection {
    sender: SendRequest<Full<Bytes>>,
    line: Arc<RequestProgress>,
}

/// A connection without a request.
struct IdleConnection {
    connection: PooledConnection,
    /// The principal whose requests it carried, if connections are separated by principal.
    owner: Option<Subject>,
    since: Instant,
}

/// The connections to one upstream. Idle ones are in order of their last use.
pub struct Pool {
    dialler: Dialler,
    idle: Mutex<Vec<IdleConnection>>,
}

impl Pool {
    /// A pool without connections.
    #[must_use]
    pub const fn new(dialler: Dialler) -> Self {
        Self { dialler, idle: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        locked(&self.idle)
    }

    /// Sends a request over a connection that served only `owner`. The request has an origin-form
    /// target and a Host.
    ///
    /// A kept connection may turn out to have ended before the last byte of the request was
    /// written. Then `request` makes another one, which is sent over another connection. A request
    /// that may have run is never repeated.
    ///
    /// # Errors
    /// If no connection is possible, or if the connection broke.
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
                // Boxed: its future ends long before the answer arrives.
                None => Box::pin(self.open()).await?,
            };
            match self.over(connection, owner, request()).await {
                // The server closed the idle connection at the same moment. `kept` is now empty, so
                // the next one is new.
                Err(SendFault::NotSent(_)) if was_kept => {}
                done => return done,
            }
        }
    }

    /// Opens a new connection.
    ///
    /// # Errors
    /// Why none could be opened.
    async fn open(&self) -> Result<PooledConnection, SendFault> {
        // The slot comes before the dial, so that outgoing connections never exceed their share of
        // descriptors.
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

    /// Sends one request over `connection`.
    async fn over(
        self: &Arc<Self>,
        mut connection: PooledConnection,
        owner: Option<Subject>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Arriving>, SendFault> {
        connection.line.begin(request.body().size_hint().lower());
        match connection.sender.send_request(request).await {
            Ok(response) => Ok(response.map(|body| Arriving {
                unread: None,
                body,
                lease: Some(Lease { pool: Arc::clone(self), connection, owner }),
            })),
            // An answer that cannot be parsed is still an answer: the request may have run.
            Err(error) if connection.line.abandon() || error.is_parse() => {
                Err(SendFault::Broke(error))
            }
            Err(error) => Err(SendFault::NotSent(error)),
        }
    }

    /// A kept connection of `owner` that is open as far as the gateway can see.
    async fn kept(&self, owner: Option<Subject>) -> Option<PooledConnection> {
        loop {
            let IdleConnection { mut connection, since, .. } = {
                let mut idle = self.lock();
                // The newest one first: it is the least likely to be closed by the server.
                let place = idle.iter().rposition(|idle| idle.owner == owner)?;
                idle.remove(place)
            };
            if since.elapsed() < IDLE_FOR && connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    /// Puts a connection back, if it is open and idle connections have a free share.
    fn keep(&self, connection: PooledConnection, owner: Option<Subject>) {
        let mut idle = self.lock();
        if connection.sender.is_closed() || !may_stay_idle() {
            return;
        }
        if idle.len() >= IDLE_MAX {
            // The connection that was unused for the longest time is replaced: its owner may never
            // return.
            idle.remove(0);
        }
        idle.push(IdleConnection { connection, owner, since: Instant::now() });
    }

    /// Closes connections that were unused for 30 s.
    pub fn sweep(&self) {
        self.lock()
            .retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() < IDLE_FOR);
    }

    /// Dials once, to check whether the server accepts connections.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn probe(&self) -> Result<(), DialFault> {
        self.dialler.dial().await?;
        Ok(())
    }
}

/// A connection in use, and the pool that gets it back.
struct Lease {
    pool: Arc<Pool>,
    connection: PooledConnection,
    owner: Option<Subject>,
}

/// The body of an arriving answer. At its end the connection returns to the pool. Dropping it
/// before closes the connection, so that the server can stop the generation.
pub struct Arriving {
    body: Incoming,
    lease: Option<Lease>,
    /// Bytes that were read and given back.
    unread: Option<Bytes>,
}

impl Arriving {
    /// Gives bytes back: they are the next frame.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = (!bytes.is_empty()).then_some(bytes);
    }

    /// The next frame.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(bytes) = self.unread.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let over = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => {
                // After an error the position in the stream is unknown, so the connection is not
                // reused.
                self.lease = None;
                false
            }
        };
        if over && let Some(Lease { pool, connection, owner }) = self.lease.take() {
            pool.keep(connection, owner);
        }
        Poll::Ready(frame)
    }

    /// Waits for the next frame.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}
