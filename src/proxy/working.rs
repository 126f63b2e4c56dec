//! The body of an answer on a caller's connection. It keeps the activity of the connection up to
//! date, and checks whether a half-closed caller still reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::proxy::activity::{Busy, DeliveredBytes, Owed, Unanswered};
use crate::proxy::body::{Body, Outgoing};
use crate::proxy::tap::{HALF_CLOSED_FIRST, HALF_CLOSED_MAX};

/// An event without content: a comment line (HTML standard, section 9.2.6). Writing it shows
/// whether a caller that closed its sending side still reads.
const COMMENT: &[u8] = b":\n\n";

/// The body of an answer, which keeps the activity of its connection up to date.
pub(super) struct Working {
    body: Body,
    busy: Arc<Busy>,
    /// Set until the gateway has produced the whole answer.
    unanswered: Option<Unanswered>,
    /// Set while the caller has bytes to take: HTTP/2 libraries poll a body when a flow-control
    /// window has room.
    owed: Option<Owed>,
    /// Counts the bytes that the client of an HTTP/2 stream takes.
    taken: Option<Arc<DeliveredBytes>>,
    /// Checks whether a caller that closed its sending side still reads. None if the body is no
    /// event stream of this process.
    asks: Option<Asks>,
}

/// Timer of the comment events that check whether a caller still reads.
struct Asks {
    next: Option<Pin<Box<Sleep>>>,
    wait: Duration,
}

impl Working {
    /// Wraps the body of a response.
    pub(super) fn wrap(
        response: http::Response<Body>,
        busy: Busy,
        unanswered: Unanswered,
        taken: Option<Arc<DeliveredBytes>>,
    ) -> http::Response<Self> {
        let is_whole = response.body().is_whole();
        let streams = response.body().is_relay();
        // Only a stream of events can contain a comment. In other bodies it would change the
        // content.
        let content_type = response.headers().get(CONTENT_TYPE);
        let events = content_type.is_some_and(|value| value == "text/event-stream");
        let asks = (streams && events).then_some(Asks { next: None, wait: HALF_CLOSED_FIRST });
        let owed = Some(busy.owes());
        // A complete answer needs no more work of the gateway, so it counts as answered now.
        let unanswered = (!is_whole).then_some(unanswered);
        response.map(|body| Self { body, busy: Arc::new(busy), unanswered, owed, taken, asks })
    }
}

impl Asks {
    /// Ready with a comment event when the next one is due. The interval doubles up to
    /// `HALF_CLOSED_MAX`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let next = self.next.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.wait)));
        std::task::ready!(next.as_mut().poll(cx));
        self.wait = (self.wait * 2).min(HALF_CLOSED_MAX);
        next.as_mut().reset(Instant::now() + self.wait);
        Poll::Ready(Bytes::from_static(COMMENT))
    }
}

impl HttpBody for Working {
    type Data = Outgoing;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Outgoing>, Self::Error>>> {
        let Self { body, busy, unanswered, owed, taken, asks } = self.get_mut();
        let mut polled = Pin::new(body).poll_frame(cx);
        if polled.is_pending()
            && let Some(asks) = asks
            && busy.is_half_closed()
            && let Poll::Ready(comment) = asks.poll(cx)
        {
            polled = Poll::Ready(Some(Ok(Frame::data(comment))));
        }
        match &polled {
            // Pending means that the gateway has no bytes: the caller is not late.
            Poll::Pending => *owed = None,
            Poll::Ready(None) => (*owed, *unanswered) = (None, None),
            Poll::Ready(Some(_)) if owed.is_none() => *owed = Some(busy.owes()),
            Poll::Ready(Some(_)) => {}
        }
        polled.map_ok(|frame| frame.map_data(|bytes| Outgoing::new(bytes, taken.clone(), busy)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
