//! The bodies of answers: complete, streamed, or forwarded from the process that has taken over.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::activity::{Busy, DeliveredBytes, Owed};
use crate::proxy::stream::Relay;

/// The body of an answer. Only the modules of this folder make one.
pub struct Body(BodyKind);

/// The kinds of a [`Body`].
enum BodyKind {
    /// All bytes at once.
    Whole(Bytes),
    /// A stream.
    Relay(Box<Relay>),
    /// An answer of the process that has taken over. The event ends the caller's stream if that
    /// process breaks it off.
    Elsewhere(Box<Incoming>, Option<Bytes>),
}

impl Body {
    /// A complete body.
    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self(BodyKind::Whole(bytes))
    }

    /// A stream of this process.
    pub(super) fn relay(relay: Relay) -> Self {
        Self(BodyKind::Relay(Box::new(relay)))
    }

    /// An answer of the process that has taken over; `broken` is the event for a stream that breaks
    /// off.
    pub(super) fn elsewhere(body: Incoming, broken: Option<Bytes>) -> Self {
        Self(BodyKind::Elsewhere(Box::new(body), broken))
    }

    /// Whether the body is complete in memory.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.0, BodyKind::Whole(_))
    }

    /// Whether the body is a stream of this process.
    #[must_use]
    pub const fn is_relay(&self) -> bool {
        matches!(self.0, BodyKind::Relay(_))
    }

    /// The bytes of a complete body; empty for a stream.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.0 {
            BodyKind::Whole(bytes) => bytes,
            BodyKind::Relay(_) | BodyKind::Elsewhere(..) => Bytes::new(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.get_mut().0 {
            // The second poll of a whole body finds it empty and ends the body.
            BodyKind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            BodyKind::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes))),
            BodyKind::Relay(relay) => relay.poll(cx),
            BodyKind::Elsewhere(body, broken) => elsewhere(body, broken, cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, BodyKind::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodyKind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The length of a stream is unknown, so that HTTP/1.1 sends it in chunks.
            BodyKind::Relay(_) => SizeHint::default(),
            BodyKind::Elsewhere(body, _) => body.size_hint(),
        }
    }
}

/// Bytes for a caller, counted when its connection takes them. Over HTTP/2 the connection takes
/// them when the stream's flow-control window has room (RFC 9113 section 5.2). The count therefore
/// shows how fast the client reads this one stream.
pub struct Outgoing {
    bytes: Bytes,
    taken: Option<Arc<DeliveredBytes>>,
    owed: Owed,
    /// Keeps the request open until its last bytes are taken.
    _busy: Arc<Busy>,
}

impl Outgoing {
    /// Bytes of a request's answer. The counter `taken` counts them, if it is set.
    #[must_use]
    pub fn new(bytes: Bytes, taken: Option<Arc<DeliveredBytes>>, busy: &Arc<Busy>) -> Self {
        Self { bytes, taken, owed: busy.owes(), _busy: Arc::clone(busy) }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(taken) = &self.taken {
            taken.add(count);
        }
        self.owed.moved();
    }
}

/// The next bytes of another process's answer. If that answer breaks off, the event ends it. With a
/// content length no event is needed: the missing bytes show the fault.
fn elsewhere(
    body: &mut Incoming,
    broken: &mut Option<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    loop {
        return Poll::Ready(match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Some(data),
                // Trailers are dropped: answers of the gateway have none.
                Err(_) => continue,
            },
            Some(Err(_)) => broken.take(),
            None => None,
        });
    }
}
