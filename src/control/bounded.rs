//! Listeners with a limited number of connections. Further connections wait in the backlog and use
//! no descriptor.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// The maximum time without a byte in either direction.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same when all slots are in use, and the interval of the checks.
const IDLE_SHORT: Duration = Duration::from_secs(5);

/// A listener with a limited number of connections.
pub struct Bounded<L> {
    /// The listener that accepts the connections.
    listener: L,
    /// One permit for each connection.
    places: Arc<Semaphore>,
    /// Whether silent connections are ended.
    ends_idle: bool,
}

impl<L> Bounded<L> {
    /// At most `connections_max` connections of `listener` at once.
    #[must_use]
    pub fn new(listener: L, connections_max: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections_max)), ends_idle: false }
    }

    /// Also ends silent connections. It is not for operators, because a command may take a long
    /// time.
    #[must_use]
    pub fn with_idle_limit(mut self) -> Self {
        self.ends_idle = true;
        self
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = LimitedConnection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The slot comes before `accept`, so that a waiting connection uses no descriptor.
        // The semaphore is never closed, so this never fails.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return std::future::pending().await;
        };
        let (stream, address) = self.listener.accept().await;
        let idle = self.ends_idle.then(|| IdleTimer {
            places: Arc::clone(&self.places),
            moved: Instant::now(),
            look: Box::pin(tokio::time::sleep(IDLE_SHORT)),
        });
        (LimitedConnection { stream, idle, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection and its slot.
pub struct LimitedConnection<S> {
    /// The connection.
    stream: S,
    /// The idle timer, if silent connections are ended.
    idle: Option<IdleTimer>,
    /// The slot. It is free again when the connection is dropped.
    _place: OwnedSemaphorePermit,
}

/// The timer for the last byte in either direction.
struct IdleTimer {
    /// The slots, to know whether others wait.
    places: Arc<Semaphore>,
    /// The time of the last byte.
    moved: Instant,
    /// The time of the next check.
    look: Pin<Box<Sleep>>,
}

impl IdleTimer {
    /// Ready once the connection has been silent for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.look.as_mut().poll(cx));
            // A silent peer must not keep others out.
            let allowed = if self.places.available_permits() == 0 { IDLE_SHORT } else { IDLE_MAX };
            let now = Instant::now();
            if now >= self.moved + allowed {
                return Poll::Ready(());
            }
            // The check repeats at this interval, because the allowed time depends on the free
            // slots.
            self.look.as_mut().reset(now + IDLE_SHORT);
        }
    }
}

impl<S> LimitedConnection<S> {
    /// The result of the connection, or an error if it is silent for too long.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(idle) = &mut self.idle else { return polled };
        if polled.is_ready() {
            idle.moved = Instant::now();
            return polled;
        }
        std::task::ready!(idle.poll(cx));
        let why = "the connection was silent for too long";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S> LimitedConnection<S> {
    /// The connection itself.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedConnection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let held = self.get_mut();
        let polled = Pin::new(&mut held.stream).poll_read(cx, buffer);
        held.timed(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedConnection<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let held = self.get_mut();
        let polled = Pin::new(&mut held.stream).poll_write(cx, bytes);
        held.timed(cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
