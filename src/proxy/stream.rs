//! A stream on its way to the caller: filtered, timed, and cut when the caller may no longer act.
//!
//! Back-pressure is the poll itself: the upstream is read when the caller's connection asks for more. When the caller
//! leaves, the body is dropped, and with it the upstream's connection and the exchange. A caller who stays and
//! does not read is not polled for, so a guard beside the stream keeps its times and asks for its standing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;

use crate::audit::store::entry::Closing;
use crate::clock::Clock;
use crate::guard::egress::answer::ResponseFilters;
use crate::model::answer::{StreamFault, StreamFilter};
use crate::model::{Dialect, error};
use crate::proxy::exchange::OpenExchange;
use crate::proxy::forward::broke;
use crate::proxy::pool::Arriving;
use crate::proxy::times::Times;
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal};

/// Where a stream comes from.
pub enum StreamSource {
    /// An upstream, what its events pass through, and how it ends, once that is known.
    Upstream(Arriving, Box<StreamFilter<ResponseFilters>>, Option<End>),
    /// Prepared events, last first.
    Pieces(Vec<Vec<u8>>),
}

/// How an upstream's stream ends.
pub enum End {
    /// With its last event.
    Last(Vec<u8>),
    /// Without one, before it was complete.
    Cut(Box<Refusal>),
}

enum StreamStep {
    More(Bytes),
    End(Bytes),
}

impl StreamSource {
    /// Bytes of the upstream's that have come so far.
    const fn came(&self) -> u64 {
        match self {
            Self::Upstream(_, filter, _) => filter.taken(),
            Self::Pieces(_) => 0,
        }
    }

    /// Whether the upstream has told of an error of its own.
    const fn failed(&self) -> bool {
        match self {
            Self::Upstream(_, filter, _) => filter.failed(),
            Self::Pieces(_) => false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamStep, Refusal>> {
        let (upstream, filter, held) = match self {
            Self::Pieces(rest) => {
                let piece = Bytes::from(rest.pop().unwrap_or_default());
                return Poll::Ready(Ok(if rest.is_empty() {
                    StreamStep::End(piece)
                } else {
                    StreamStep::More(piece)
                }));
            }
            Self::Upstream(upstream, filter, held) => (upstream, filter, held),
        };
        if let Some(end) = held.take() {
            let last = match end {
                End::Last(last) => last,
                End::Cut(refusal) => return Poll::Ready(Err(*refusal)),
            };
            // Nothing may follow; an end that has come already lets the connection serve again.
            let _ = upstream.poll_frame(cx);
            let mut out = last;
            let finished = filter
                .finish(&mut out)
                .map_err(|fault| invalid(&fault))
                .and_then(|()| unblocked(filter));
            return Poll::Ready(finished.map(|()| StreamStep::End(Bytes::from(out))));
        }
        loop {
            unblocked(filter)?;
            match std::task::ready!(upstream.poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let mut out = Vec::with_capacity(data.len());
                    let last = filter.push(&data, &mut out).map_err(|fault| invalid(&fault))?;
                    // The last event waits until the outcome is durable; behind what is refused there is none.
                    if let Some(place) = last.filter(|_| unblocked(filter).is_ok()) {
                        *held = Some(End::Last(out.split_off(place)));
                        return if out.is_empty() {
                            self.poll(cx)
                        } else {
                            Poll::Ready(Ok(StreamStep::More(Bytes::from(out))))
                        };
                    }
                    if !out.is_empty() {
                        return Poll::Ready(Ok(StreamStep::More(Bytes::from(out))));
                    }
                }
                ended => {
                    let mut out = Vec::new();
                    filter.finish(&mut out).map_err(|fault| invalid(&fault))?;
                    unblocked(filter)?;
                    if filter.is_complete() {
                        return Poll::Ready(Ok(StreamStep::End(Bytes::from(out))));
                    }
                    // What had come goes on, and behind it the caller is told.
                    let cut =
                        ended.and_then(Result::err).map_or_else(unfinished, |error| broke(&error));
                    if out.is_empty() {
                        return Poll::Ready(Err(cut));
                    }
                    *held = Some(End::Cut(Box::new(cut)));
                    return Poll::Ready(Ok(StreamStep::More(Bytes::from(out))));
                }
            }
        }
    }
}

/// An end without finish reason and last event.
fn unfinished() -> Refusal {
    Refusal::new(Code::Truncated)
        .because("the stream ended without a finish reason and without its last event")
}

fn invalid(fault: &StreamFault) -> Refusal {
    let code =
        if *fault == StreamFault::Endless { Code::UpstreamEndless } else { Code::UpstreamInvalid };
    Refusal::new(code).because(fault)
}

/// What the body and its guard share.
struct StreamState {
    /// Nothing once the stream is over.
    work: Option<(StreamSource, OpenExchange)>,
    /// The last bytes, which wait until the outcome is durable.
    last: Option<Bytes>,
    /// The outcome on its way to the disk, and whom to tell if it does not get there.
    closing: Option<(Closing, Dialect, String)>,
    /// When something moved last, or when the caller began to wait.
    moved: Duration,
    /// Bytes of the upstream's that have come so far.
    came: u64,
    /// Bytes that the caller had taken when that was last looked at.
    written: u64,
    /// True while the caller waits for more; else the stream waits for the caller.
    awaited: bool,
    waker: Option<Waker>,
}

impl StreamState {
    /// Ends the stream: the upstream is let go, places are given back, and the caller is told in its last event.
    fn cut(&mut self, refusal: &Refusal) {
        let Some((source, mut exchange)) = self.work.take() else { return };
        told(&source, &mut exchange);
        exchange.cut(refusal);
        let event =
            Bytes::from(error::event(exchange.get().dialect, refusal, &exchange.get().id_text));
        self.end(exchange, event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Closes the entry; `last` waits for that.
    fn end(&mut self, mut exchange: OpenExchange, last: Bytes) {
        exchange.deliver(&last);
        self.last = (!last.is_empty()).then_some(last);
        let (closing, exchange) = exchange.close();
        self.closing = Some((closing, exchange.dialect, exchange.id_text.clone()));
    }

    /// The last bytes, once the outcome is durable; what says that it cannot be, where it cannot.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some((closing, dialect, request)) = &mut self.closing {
            if let Err(refusal) = std::task::ready!(std::pin::Pin::new(closing).poll(cx)) {
                self.last = Some(Bytes::from(error::event(*dialect, &refusal, request)));
            }
            self.closing = None;
        }
        Poll::Ready(self.last.take())
    }

    /// The refusal for a stream that stood still too long, or how long it may go on so.
    ///
    /// A caller that reads slowly is not asked for more for a while: what it takes meanwhile counts. It is looked at only
    /// when the time is over, so that a caller who stops is cut after twice that time at the latest.
    fn overdue(&mut self, times: &Times) -> Result<Duration, Refusal> {
        let now = times.clock.monotonic();
        let written = times.reader.as_ref().map_or(0, |reader| reader.total());
        if !self.awaited && written != self.written && now >= self.moved + times.idle_max {
            (self.moved, self.written) = (now, written);
        }
        let until = (self.moved + times.idle_max).min(times.ends);
        if now < until {
            return Ok(until - now);
        }
        let slow =
            |which| Refusal::new(Code::UpstreamSlow).because(format_args!("timeout {which}"));
        Err(match (now >= times.ends, self.awaited) {
            (true, _) => slow("total"),
            (false, true) => slow("stream_idle"),
            (false, false) => Code::ClientSlow.into(),
        })
    }
}

/// What a source has told of its answer.
fn told(source: &StreamSource, exchange: &mut OpenExchange) {
    if let StreamSource::Upstream(_, filter, _) = source {
        exchange.heard(filter.heard());
        exchange.found(filter.filters().first().findings());
    }
}

/// That nothing was found for which the answer must not go on.
fn unblocked(filter: &StreamFilter<ResponseFilters>) -> Result<(), Refusal> {
    filter.filters().first().findings().passes()
}

fn lock(running: &Mutex<StreamState>) -> MutexGuard<'_, StreamState> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream as the body of an answer.
pub struct Relay {
    running: Arc<Mutex<StreamState>>,
    clock: Arc<dyn Clock>,
    guard: AbortHandle,
}

impl Relay {
    /// Relays `source` for as long as the time limits of `exchange` and `watch` allow.
    #[must_use]
    pub fn new(source: StreamSource, exchange: OpenExchange, watch: RevocationWatcher) -> Self {
        let times = exchange.get().times();
        let (clock, moved) = (Arc::clone(&times.clock), times.clock.monotonic());
        let written = times.reader.as_ref().map_or(0, |reader| reader.total());
        let running = StreamState {
            work: Some((source, exchange)),
            last: None,
            closing: None,
            moved,
            came: 0,
            written,
            awaited: true,
            waker: None,
        };
        let running = Arc::new(Mutex::new(running));
        let guard = tokio::spawn(guard(Arc::downgrade(&running), watch, times)).abort_handle();
        Self { running, clock, guard }
    }

    /// The next bytes for the caller.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut running = lock(&self.running);
        let running = &mut *running;
        let Some((source, exchange)) = &mut running.work else { return running.poll_last(cx) };
        match source.poll(cx) {
            Poll::Ready(Ok(StreamStep::More(bytes))) => {
                running.moved = self.clock.monotonic();
                running.awaited = false;
                exchange.first_byte();
                exchange.deliver(&bytes);
                Poll::Ready(Some(bytes))
            }
            Poll::Ready(Ok(StreamStep::End(bytes))) => {
                told(source, exchange);
                exchange.done();
                if source.failed() {
                    exchange.failed();
                }
                if let Some((_, exchange)) = running.work.take() {
                    running.end(exchange, bytes);
                }
                running.poll_last(cx)
            }
            Poll::Ready(Err(refusal)) => {
                running.cut(&refusal);
                running.poll_last(cx)
            }
            Poll::Pending => {
                // What is held back has come all the same.
                let came = source.came();
                if !running.awaited || came != running.came {
                    running.awaited = true;
                    running.came = came;
                    running.moved = self.clock.monotonic();
                }
                if !running.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    running.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.guard.abort();
        if let Some((source, mut exchange)) = lock(&self.running).work.take() {
            told(&source, &mut exchange);
        }
    }
}

/// Stands beside a stream until it is over, whether or not anybody reads it.
async fn guard(stream: Weak<Mutex<StreamState>>, mut watch: RevocationWatcher, times: Times) {
    loop {
        let Some(wait) = stream.upgrade().map(|running| lock(&running).overdue(&times)) else {
            return;
        };
        let refusal = match wait {
            Err(refusal) => refusal,
            Ok(wait) => tokio::select! {
                refusal = watch.lost() => refusal,
                () = tokio::time::sleep(wait) => continue,
            },
        };
        if let Some(running) = stream.upgrade() {
            lock(&running).cut(&refusal);
        }
        return;
    }
}
