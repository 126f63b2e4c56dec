//! The bodies of our answers: a whole one, or a stream that carries what must live as long as the work does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::stream::Relay;

/// The body of an answer.
pub enum Body {
    /// All bytes at once.
    Whole(Bytes),
    /// A stream.
    Relay(Box<Relay>),
    /// An answer of the process that has taken over, and the event that ends a stream of it which that process does not end.
    Elsewhere(Box<Incoming>, Option<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes))),
            Self::Relay(relay) => relay.poll(cx),
            Self::Elsewhere(body, broken) => elsewhere(body, broken, cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relay(_) => SizeHint::default(),
            Self::Elsewhere(body, _) => body.size_hint(),
        }
    }
}

/// The next bytes of another process's answer. One that breaks ends with the event; what has a length shows by that.
fn elsewhere(body: &mut Incoming, broken: &mut Option<Bytes>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
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
