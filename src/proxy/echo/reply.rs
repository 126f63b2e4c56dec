//! The answers of `echo`, and their body on a connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// An answer of `echo`.
pub enum Reply {
    /// One JSON document.
    Whole(Vec<u8>),
    /// The events of a stream. Each is complete.
    Events(Vec<Vec<u8>>),
    /// The lines of a stream. Each is complete.
    Lines(Vec<Vec<u8>>),
}

/// The body of an answer. Each event or line is one frame, because a model server writes each token
/// when it is ready.
pub(super) struct ReplyBody {
    pieces: std::vec::IntoIter<Vec<u8>>,
    /// The length, if it is known before the body is written.
    length: Option<u64>,
}

impl ReplyBody {
    /// The body of `reply`.
    pub(super) fn new(reply: Reply) -> Self {
        match reply {
            Reply::Whole(bytes) => {
                let length = Some(bytes.len() as u64);
                Self { pieces: vec![bytes].into_iter(), length }
            }
            Reply::Events(pieces) | Reply::Lines(pieces) => {
                Self { pieces: pieces.into_iter(), length: None }
            }
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.next() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece))))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}
