//! The bodies of our answers: a whole one, or a stream that carries what must live as long as the work does.

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

enum BodyKind {
    /// All bytes at once.
    Whole(Bytes),
    /// A stream.
    Relay(Box<Relay>),
    /// An answer of the process that has taken over, and the event that ends a stream of it which that process does not end.
    Elsewhere(Box<Incoming>, Option<Bytes>),
}

impl Body {
    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self(BodyKind::Whole(bytes))
    }

    pub(super) fn relay(relay: Relay) -> Self {
        Self(BodyKind::Relay(Box::new(relay)))
    }

    pub(super) fn elsewhere(body: Incoming, broken: Option<Bytes>) -> Self {
        Self(BodyKind::Elsewhere(Box::new(body), broken))
    }

    /// Whether all its bytes are there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.0, BodyKind::Whole(_))
    }

    /// Whether it is a stream of this process.
    #[must_use]
    pub const fn is_relay(&self) -> bool {
        matches!(self.0, BodyKind::Relay(_))
    }

    /// The bytes of a whole body; none of a stream.
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
            BodyKind::Relay(_) => SizeHint::default(),
            BodyKind::Elsewhere(body, _) => body.size_hint(),
        }
    }
}

/// Bytes on their way to a caller, counted as its connection takes them. Over HTTP/2 that is when the stream's flow-control
/// window (RFC 9113 section 5.2) has room for them, so that it tells how the reader of this one stream gets on.
pub struct Outgoing {
    bytes: Bytes,
    taken: Option<Arc<DeliveredBytes>>,
    owed: Owed,
    /// The request is at work until its last bytes are taken.
    _busy: Arc<Busy>,
}

impl Outgoing {
    /// Bytes of a request's answer, which are counted by `taken`, where there is one.
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

/// The next bytes of another process's answer. One that breaks ends with the event; what has a length shows by that.
fn elsewhere(
    body: &mut Incoming,
    broken: &mut Option<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    loop {
        return Poll::Ready(match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Some(data),
                Err(_) => continue,
            },
            Some(Err(_)) => broken.take(),
            None => None,
        });
    }
}
