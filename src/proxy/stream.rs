//! A stream to the caller: filtered, limited in time, and cut when the caller may no longer act.
//!
//! Back-pressure comes from polling: the upstream is read when the caller's connection wants more.
//! When the caller disconnects, the body is dropped, and with it the upstream's connection and the
//! exchange.
//!
//! A caller that stays connected and does not read causes no polls. Therefore a guard task beside
//! the stream enforces its time limits and watches the caller's status.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;

use crate::audit::store::entry::Closing;
use crate::clock::Clock;
use crate::guard::egress::answer::ResponseFilters;
use crate::lock::locked;
use crate::model::answer::{StreamFault, StreamFilter};
use crate::model::{Dialect, error};
use crate::proxy::activity::keep_waker;
use crate::proxy::exchange::OpenExchange;
use crate::proxy::forward::broke;
use crate::proxy::pool::Arriving;
use crate::proxy::times::Times;
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal};

/// The source of a stream.
pub enum StreamSource {
    /// An upstream's body, the filter for its events, and its end, after that is known.
    Upstream(Arriving, Box<StreamFilter<ResponseFilters>>, Option<End>),
    /// Prepared events; the last event is first.
    Pieces(Vec<Vec<u8>>),
}

/// The end of an upstream's stream.
pub enum End {
    /// Complete, with the bytes of its last event.
    Last(Vec<u8>),
    /// Incomplete, without a last event.
    Cut(Box<Refusal>),
}

/// The result of one poll of a source.
enum StreamStep {
    More(Bytes),
    End(Bytes),
}

impl StreamSource {
    /// Bytes of the upstream that have arrived so far.
    const fn came(&self) -> u64 {
        match self {
            Self::Upstream(_, filter, _) => filter.taken(),
            Self::Pieces(_) => 0,
        }
    }

    /// The number of the last event for the caller, if the events have numbers.
    const fn last_number(&self) -> Option<u64> {
        match self {
            Self::Upstream(_, filter, _) => filter.last_number(),
            Self::Pieces(_) => None,
        }
    }

    /// Whether the upstream has reported an error inside its stream.
    const fn failed(&self) -> bool {
        match self {
            Self::Upstream(_, filter, _) => filter.failed(),
            Self::Pieces(_) => false,
        }
    }

    /// The events that end the answer instead of an error event, if a text replaces a refused tool
    /// call.
    fn replaced(&mut self, refusal: &Refusal) -> Option<Vec<u8>> {
        let Self::Upstream(_, filter, _) = self else { return None };
        if refusal.code != Code::AnswerUncontrolled {
            return None;
        }
        // Copied, because the end of the answer changes the filter.
        let text = filter.filters().first().findings().replacement()?.to_owned();
        let events = filter.end_with(&text)?;
        // Held text may have a finding that blocks the answer.
        filter.filters().first().findings().replacement()?;
        Some(events)
    }

    /// The next filtered bytes.
    ///
    /// # Errors
    /// Why the stream must end: a finding, an invalid event, or a broken connection.
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
            // No event may follow. If the end of the body has already arrived, this poll returns
            // the connection to the pool.
            let _ = upstream.poll_frame(cx);
            let mut out = last;
            filter.finish(&mut out).map_err(|fault| invalid(&fault))?;
            unblocked(filter)?;
            return Poll::Ready(Ok(StreamStep::End(Bytes::from(out))));
        }
        loop {
            // Checked before each read: after a finding, no further byte of the upstream may pass.
            unblocked(filter)?;
            match std::task::ready!(upstream.poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let mut out = Vec::with_capacity(data.len());
                    let last = filter.push(&data, &mut out).map_err(|fault| invalid(&fault))?;
                    // The last event waits until the outcome is durable. After a refusing finding
                    // there is no last event.
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
                    // Bytes that arrived before the cut are sent first. The event about the cut
                    // follows them.
                    let cut = match (unblocked(filter), ended) {
                        (Err(refusal), _) => refusal,
                        (Ok(()), _) if filter.is_complete() => {
                            return Poll::Ready(Ok(StreamStep::End(Bytes::from(out))));
                        }
                        (Ok(()), Some(Err(error))) => broke(&error),
                        (Ok(()), Some(Ok(_)) | None) => unfinished(),
                    };
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

/// The refusal for an end without a finish reason and without the last event.
fn unfinished() -> Refusal {
    Refusal::new(Code::Truncated)
        .because("the stream ended without a finish reason and without its last event")
}

/// The refusal for a fault of the stream's form or size.
fn invalid(fault: &StreamFault) -> Refusal {
    let code =
        if *fault == StreamFault::Endless { Code::UpstreamEndless } else { Code::UpstreamInvalid };
    Refusal::new(code).because(fault)
}

/// An outcome that is being written, and what an error event needs if that fails.
struct OpenClosing {
    /// The outcome.
    closing: Closing,
    /// The dialect of the caller.
    dialect: Dialect,
    /// The id of the request.
    request: String,
    /// The number of the last event.
    number: Option<u64>,
}

/// The state that the body and its guard share.
struct StreamState {
    /// None after the stream has ended.
    work: Option<(StreamSource, OpenExchange)>,
    /// The last bytes. They wait until the outcome is durable.
    last: Option<Bytes>,
    /// The outcome that is being written.
    closing: Option<OpenClosing>,
    /// When bytes last moved, or when the caller began to wait. On the monotonic clock.
    moved: Duration,
    /// Bytes of the upstream that had arrived at the last check.
    came: u64,
    /// Bytes that the caller had taken at the last check.
    written: u64,
    /// True while the caller waits for more bytes. False while the stream waits for the caller.
    awaited: bool,
    /// Wakes the caller's connection when the guard cuts the stream.
    waker: Option<Waker>,
}

impl StreamState {
    /// Ends the stream. The upstream's connection closes, slots are released, and the last event
    /// reports the reason to the caller.
    fn cut(&mut self, refusal: &Refusal) {
        let Some((mut source, mut exchange)) = self.work.take() else { return };
        let (dialect, number) = (exchange.get().dialect, source.last_number());
        let replaced = source.replaced(refusal);
        // Afterwards, because the held text may have findings too.
        told(&source, &mut exchange);
        exchange.cut(refusal);
        let event = match replaced {
            Some(events) => events,
            None => error::event(dialect, refusal, &exchange.get().id_text, number),
        };
        self.end(exchange, Bytes::from(event), number);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Closes the entry. `last` is sent after the outcome is durable.
    fn end(&mut self, mut exchange: OpenExchange, last: Bytes, number: Option<u64>) {
        exchange.deliver(&last);
        self.last = (!last.is_empty()).then_some(last);
        let (closing, exchange) = exchange.close();
        let (dialect, request) = (exchange.dialect, exchange.id_text.clone());
        self.closing = Some(OpenClosing { closing, dialect, request, number });
    }

    /// The last bytes, after the outcome is durable. If it cannot be made durable, an event that
    /// reports that.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(open) = &mut self.closing {
            if let Err(refusal) = std::task::ready!(std::pin::Pin::new(&mut open.closing).poll(cx))
            {
                // Without a durable outcome the caller must not get the prepared last event.
                self.last = Some(Bytes::from(error::event(
                    open.dialect,
                    &refusal,
                    &open.request,
                    open.number,
                )));
            }
            self.closing = None;
        }
        Poll::Ready(self.last.take())
    }

    /// The refusal for a stream without progress for too long, or the remaining time.
    ///
    /// A slow caller's connection may not poll for a while, so the bytes that it takes count as
    /// progress. They are checked only at the end of the time. A caller that stops is therefore cut
    /// after twice that time at the latest.
    fn overdue(&mut self, times: &Times) -> Result<Duration, Refusal> {
        let now = times.clock.monotonic();
        let written = times.taken();
        if !self.awaited && written != self.written && now >= self.moved + times.idle_max {
            (self.moved, self.written) = (now, written);
        }
        let until = (self.moved + times.idle_max).min(times.ends);
        if now < until {
            return Ok(until - now);
        }
        Err(match (now >= times.ends, self.awaited) {
            (true, _) => slow("total"),
            (false, true) => slow("stream_idle"),
            (false, false) => Code::ClientSlow.into(),
        })
    }
}

/// The refusal for an upstream that exceeds the time limit `which`.
fn slow(which: &str) -> Refusal {
    Refusal::new(Code::UpstreamSlow).because(format_args!("timeout {which}"))
}

/// Copies the usage and findings of a source to its exchange.
fn told(source: &StreamSource, exchange: &mut OpenExchange) {
    if let StreamSource::Upstream(_, filter, _) = source {
        exchange.heard(filter.heard());
        exchange.found(filter.filters().first().findings());
    }
}

/// Checks that no finding stops the answer.
fn unblocked(filter: &StreamFilter<ResponseFilters>) -> Result<(), Refusal> {
    filter.filters().first().findings().passes()
}

/// The locked state. Each step leaves it valid, so a poisoned lock is usable.
fn lock(running: &Mutex<StreamState>) -> MutexGuard<'_, StreamState> {
    locked(running)
}

/// A stream as the body of an answer.
pub struct Relay {
    running: Arc<Mutex<StreamState>>,
    clock: Arc<dyn Clock>,
    guard: AbortHandle,
}

impl Relay {
    /// Relays `source` as long as the time limits of `exchange` and `watch` allow.
    #[must_use]
    pub fn new(source: StreamSource, exchange: OpenExchange, watch: RevocationWatcher) -> Self {
        let times = exchange.get().times();
        let (clock, moved) = (Arc::clone(&times.clock), times.clock.monotonic());
        let written = times.taken();
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
        // The guard has a weak reference: a dropped body must drop the exchange, also while the
        // guard sleeps.
        let guard = tokio::spawn(guard(Arc::downgrade(&running), watch, times)).abort_handle();
        Self { running, clock, guard }
    }

    /// The next bytes for the caller; none at the end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut running = lock(&self.running);
        let running = &mut *running;
        // Without work only the last bytes remain, which wait for the outcome.
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
                let number = source.last_number();
                if let Some((_, exchange)) = running.work.take() {
                    running.end(exchange, bytes, number);
                }
                running.poll_last(cx)
            }
            Poll::Ready(Err(refusal)) => {
                running.cut(&refusal);
                running.poll_last(cx)
            }
            Poll::Pending => {
                // Bytes that the filter holds back have arrived too: they show that the upstream is
                // alive.
                let came = source.came();
                if !running.awaited || came != running.came {
                    running.awaited = true;
                    running.came = came;
                    running.moved = self.clock.monotonic();
                }
                keep_waker(&mut running.waker, cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The caller disconnected. The exchange gets the usage so far before its drop records the
        // outcome.
        self.guard.abort();
        if let Some((source, mut exchange)) = lock(&self.running).work.take() {
            told(&source, &mut exchange);
        }
    }
}

/// Enforces limits on a stream until it ends, also if its caller does not read.
async fn guard(stream: Weak<Mutex<StreamState>>, mut watch: RevocationWatcher, times: Times) {
    loop {
        let Some(running) = stream.upgrade() else { return };
        let wait = lock(&running).overdue(&times);
        // The reference must not outlive this check: a dropped body drops the exchange.
        drop(running);
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
