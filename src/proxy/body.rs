//! The bodies of our answers: a whole one, or a stream that carries what must live as long as the work does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::proxy::stream::Relay;

/// The body of an answer.
pub enum Body {
    /// All bytes at once.
    Whole(Bytes),
    /// Prepared pieces, one frame each, and what is given back when they are through.
    Pieces(Box<Pieces>),
    /// An upstream's stream.
    Relay(Box<Relay>),
}

/// Prepared pieces of an answer.
pub struct Pieces {
    /// The pieces, last first.
    pub rest: Vec<Vec<u8>>,
    /// Lives as long as the stream; asked before each piece whether it may go on.
    pub guard: crate::proxy::stream::Carried,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes))),
            Self::Pieces(pieces) => pieces.poll(cx),
            Self::Relay(relay) => relay.poll(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces(_) | Self::Relay(_) => SizeHint::default(),
        }
    }
}

impl Pieces {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(refusal) = self.guard.lost_standing(cx) {
            self.rest.clear();
            return Poll::Ready(Some(self.guard.last_event(&refusal)));
        }
        let piece = self.rest.pop().map(Bytes::from);
        if let Some(bytes) = &piece {
            self.guard.delivered(bytes);
        }
        Poll::Ready(piece)
    }
}
