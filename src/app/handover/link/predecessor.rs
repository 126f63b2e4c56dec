//! The successor's view of its predecessor. The successor records for it and reports changes to it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{AT_ONCE, CHANGES, IN_FLIGHT, RECORD, RecordRequest, Recorded, STREAM_WINDOW, WINDOW};
use crate::app::handover::wire::PassedRecord;
use crate::audit::format::event::{Event, Written};
use crate::audit::store::log::{Log, LogFault};
use crate::guard::passed::{InFlight, RemoteWork};
use crate::id::RequestId;
use crate::lock::locked;
use crate::model::Dialect;
use crate::proxy::Gateway;
use crate::proxy::entrance::origin;
use crate::proxy::respond::{Anonymous, RefusalResponse, refuse};

/// The predecessor of this process, while it drains.
pub(in crate::app) struct Predecessor {
    log: Arc<Log>,
    /// Its requests without an outcome.
    open: Mutex<OpenRequests>,
    /// Its work in flight, which counts towards the limits here. `None` after it has ended.
    in_flight: Mutex<Option<RemoteWork>>,
    /// Encoded records that change the state. The first subscription takes the receiver.
    changes: Mutex<Option<mpsc::UnboundedReceiver<Vec<u8>>>>,
    /// The end of its drain.
    until: Instant,
    /// True after it has ended.
    over: watch::Sender<bool>,
}

/// The predecessor's requests without an outcome. For each, the outcome that is recorded if the
/// predecessor ends first.
#[derive(Default)]
struct OpenRequests {
    unknown: HashMap<RequestId, Written>,
    /// No more reports can arrive.
    closed: bool,
}

impl Predecessor {
    /// A predecessor with these open requests, this work in flight, and this time to drain.
    /// `changes` has the records that change the state since the log was opened.
    pub(in crate::app) fn new(
        log: Arc<Log>,
        open: Vec<PassedRecord>,
        in_flight: RemoteWork,
        drain: Duration,
        changes: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> Arc<Self> {
        let mut unknown = HashMap::new();
        for record in open {
            if let Some(outcome) = record.read()
                && let Some(request) = outcome.request()
            {
                unknown.insert(request, outcome);
            }
        }
        Arc::new(Self {
            log,
            open: Mutex::new(OpenRequests { unknown, closed: false }),
            in_flight: Mutex::new(Some(in_flight)),
            changes: Mutex::new(Some(changes)),
            until: Instant::now() + drain,
            over: watch::Sender::new(false),
        })
    }

    /// The time that it may still drain. `None` after it has ended.
    pub(in crate::app) fn left(&self) -> Option<Duration> {
        (!*self.over.borrow()).then(|| self.until.saturating_duration_since(Instant::now()))
    }

    /// Waits until the predecessor has ended.
    pub(in crate::app) async fn over(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Records for the predecessor until it closes the connection. Then it records each open
    /// request as unknown.
    pub(in crate::app) async fn records(self: Arc<Self>, stream: UnixStream) {
        let own = Arc::clone(&self);
        let service = service_fn(move |request| {
            let own = Arc::clone(&own);
            async move { Ok::<_, Infallible>(own.answer(request).await) }
        });
        if let Err(error) = server().serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "the predecessor's way of records broke");
        }
        self.close();
    }

    /// Ends the predecessor's part. Open requests get the outcome `unknown`, and its work in flight
    /// no longer counts.
    pub(in crate::app) fn close(&self) {
        // The flag and the map change under one lock. A concurrent append then sees `closed`, and
        // records its request as unknown itself.
        let unknown = {
            let mut open = locked(&self.open);
            open.closed = true;
            std::mem::take(&mut open.unknown)
        };
        if !unknown.is_empty() {
            tracing::warn!(
                requests = unknown.len(),
                "the predecessor ended without saying what became of its requests"
            );
        }
        for outcome in unknown.into_values() {
            self.unknown(outcome);
        }
        drop(locked(&self.in_flight).take());
        // A predecessor that did not ask for the changes would else leave them in memory.
        drop(locked(&self.changes).take());
        if !self.over.send_replace(true) {
            tracing::info!("the predecessor has ended");
        }
    }

    /// Appends an outcome that the predecessor can no longer report.
    fn unknown(&self, outcome: Written) {
        self.log.append_with(Event::Written(Box::new(outcome)), None, |_| ());
    }

    /// Answers one request of the predecessor. An invalid one gets 400.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        if path == CHANGES {
            return self.told();
        }
        let answer = match request.into_body().collect().await {
            Ok(body) if path == RECORD => self.record(&body.to_bytes()).await,
            Ok(body) if path == IN_FLIGHT => self.in_flight(&body.to_bytes()),
            Ok(_) | Err(_) => None,
        };
        let (status, body) = match answer {
            Some(body) => (StatusCode::OK, body),
            None => (StatusCode::BAD_REQUEST, Vec::new()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
        *response.status_mut() = status;
        response
    }

    /// The changes of the state, one record in each line, until the connection closes. A second
    /// subscription gets an empty body.
    fn told(&self) -> Response<BoxBody<Bytes, Infallible>> {
        let changes = locked(&self.changes).take();
        Response::new(match changes {
            Some(changes) => ChangeStream(changes).boxed(),
            None => Full::default().boxed(),
        })
    }

    /// Takes in the predecessor's work in flight. Slots there and here share one limit.
    fn in_flight(&self, body: &[u8]) -> Option<Vec<u8>> {
        let now: InFlight = serde_json::from_slice(body).ok()?;
        if let Some(elsewhere) = &*locked(&self.in_flight) {
            elsewhere.set(now);
        }
        Some(Vec::new())
    }

    /// Appends one record. `None` for invalid input, or for an outcome of a request that is not
    /// open.
    async fn record(self: &Arc<Self>, body: &[u8]) -> Option<Vec<u8>> {
        let RecordRequest { record, unknown } = serde_json::from_slice(body).ok()?;
        let (record, unknown) = (record.read()?, unknown.and_then(PassedRecord::read));
        // From here on only this process reports the outcome of the request. A second outcome finds
        // no entry and is refused, so that each admission has exactly one outcome.
        let closed = match record.request() {
            // `?` refuses the outcome of a request that was closed or never admitted.
            Some(request) if record.kind() == "outcome" => {
                Some(locked(&self.open).unknown.remove(&request)?)
            }
            Some(_) | None => None,
        };
        let (told, hears) = oneshot::channel();
        let own = Arc::clone(self);
        // The callback runs even if the predecessor has closed the connection meanwhile. The
        // request is therefore never lost.
        self.log.append_with(Event::Written(Box::new(record)), None, move |sealed| {
            let left_open = match (&sealed, closed, unknown) {
                // A durable admission opens the request. A failed outcome leaves it open.
                (Ok(sealed), _, Some(unknown)) => Some(unknown.of_admission(sealed.index)),
                (Err(_), Some(closed), _) => Some(closed),
                (Ok(_) | Err(_), _, _) => None,
            };
            if let Some(outcome) = left_open {
                own.keep(outcome);
            }
            drop(told.send(sealed));
        });
        let sealed = hears.await.unwrap_or(Err(LogFault::Stopped));
        #[allow(clippy::wildcard_enum_match_arm, reason = "every other fault means the same")]
        let told = match sealed {
            Ok(sealed) => Recorded::Durable(sealed.origin.to_string(), sealed.index, sealed.at.0),
            Err(LogFault::Low | LogFault::NoSpace(_)) => Recorded::Low,
            Err(LogFault::Busy) => Recorded::Busy,
            Err(fault) => Recorded::No(fault.to_string()),
        };
        serde_json::to_vec(&told).ok()
    }

    /// Keeps a request open. It is recorded as unknown at once if no more reports can arrive.
    fn keep(&self, outcome: Written) {
        let mut open = locked(&self.open);
        if open.closed {
            drop(open);
            self.unknown(outcome);
        } else if let Some(request) = outcome.request() {
            open.unknown.insert(request, outcome);
        }
    }
}

/// Answers the requests on connections that the predecessor has kept, until it closes the link.
pub(in crate::app) async fn requests(gateway: Arc<Gateway>, stream: UnixStream) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let gateway = Arc::clone(&gateway);
        async move {
            // The predecessor names the caller's address in a header. The address counts for limits
            // as on a direct connection.
            let answer = match origin(request.headers_mut()) {
                Ok(origin) => gateway.serve(request, origin).await,
                Err(refusal) => refuse(
                    &RefusalResponse::Anonymous(Anonymous::new(refusal)),
                    Dialect::OpenAi,
                    "-",
                    None,
                ),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    if let Err(error) = server().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "the predecessor's way of requests broke");
    }
}

/// The HTTP/2 server of both connections.
fn server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(AT_ONCE)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        // Each caller that disconnects from the predecessor resets a stream here. The default
        // limits protect against rapid resets by a hostile peer; this peer is trusted.
        .max_pending_accept_reset_streams(AT_ONCE as usize)
        .max_local_error_reset_streams(None)
        .max_header_list_size(1 << 20);
    builder
}

/// A body with one frame for each line of a channel. It ends with the channel.
struct ChangeStream(mpsc::UnboundedReceiver<Vec<u8>>);

impl http_body::Body for ChangeStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut().0.poll_recv(cx) {
            Poll::Ready(Some(line)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(line))))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
