//! A stream on its way from the upstream to the caller: filtered, timed, and cut when the caller may no longer act.
//!
//! Back-pressure is the poll itself: the upstream is read when the caller's connection asks for more. When the caller
//! leaves, the body is dropped, and with it the upstream's connection and everything in [`Carried`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::audit::entry::Entry;
use crate::clock::Clock;
use crate::guard::authenticate::{Authenticator, Remembered};
use crate::guard::limiter::Permit;
use crate::model::answer::StreamFilter;
use crate::model::{Dialect, error};
use crate::proxy::meter::Meter;
use crate::refusal::{Code, Refusal};

/// Resolves, with the receiver, when a book has changed.
type Change = Pin<Box<dyn Future<Output = watch::Receiver<u64>> + Send>>;

fn next_change(mut changes: watch::Receiver<u64>) -> Change {
    Box::pin(async move {
        if changes.changed().await.is_err() {
            // The books are gone: the gateway is ending, and the drain's time limit rules.
            std::future::pending::<()>().await;
        }
        changes
    })
}

/// Notices when a caller whose request is in flight may no longer act.
pub struct Watch {
    authenticator: Arc<Authenticator>,
    token: Arc<Remembered>,
    change: Change,
}

impl Watch {
    /// Watches the caller of `token`; `changes` counts changes of the books.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>, token: Arc<Remembered>, changes: watch::Receiver<u64>) -> Self {
        Self { authenticator, token, change: next_change(changes) }
    }

    /// The refusal, once there is one. Wakes the task on the next change.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        loop {
            let Poll::Ready(changes) = self.change.as_mut().poll(cx) else { return Poll::Pending };
            self.change = next_change(changes);
            if let Err(refusal) = self.authenticator.may_still_act(&self.token.verified) {
                return Poll::Ready(refusal);
            }
        }
    }

    /// Waits until the caller may no longer act.
    pub async fn lost(&mut self) -> Refusal {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

/// What rides inside the body of an answer until its last byte, or until the caller leaves.
pub struct Carried {
    /// Whether the caller may still act.
    pub watch: Watch,
    /// Measures the answer when dropped.
    pub meter: Meter,
    /// How the caller's errors are shaped.
    pub dialect: Dialect,
    /// The request's id as text.
    pub request: String,
    /// The place in flight.
    pub permit: Permit,
    /// The open entry.
    pub entry: Entry,
}

impl Carried {
    /// The refusal that ends the stream, if the caller lost its standing.
    pub fn lost_standing(&mut self, cx: &mut Context<'_>) -> Option<Refusal> {
        match self.watch.poll(cx) {
            Poll::Ready(refusal) => Some(refusal),
            Poll::Pending => None,
        }
    }

    /// The last event of a stream that is cut, in the caller's dialect.
    pub fn last_event(&mut self, refusal: &Refusal) -> Bytes {
        self.meter.cut(refusal);
        Bytes::from(error::event(self.dialect, refusal, &self.request))
    }

    /// Notes that bytes go out.
    pub fn delivered(&mut self, bytes: &Bytes) {
        if !bytes.is_empty() {
            self.meter.first_byte();
        }
    }
}

/// An upstream's stream.
pub struct Relay {
    upstream: Option<Incoming>,
    filter: StreamFilter,
    carried: Carried,
    clock: Arc<dyn Clock>,
    idle_max: Duration,
    ends: Duration,
    heard: Duration,
    alarm: Pin<Box<Sleep>>,
}

impl Relay {
    /// Relays `upstream` through `filter`. `idle_max` bounds the silence between two chunks; `ends` is the moment of the
    /// monotonic clock at which the whole request has had its time.
    #[must_use]
    pub fn new(
        (upstream, filter): (Incoming, StreamFilter),
        carried: Carried,
        clock: Arc<dyn Clock>,
        idle_max: Duration,
        ends: Duration,
    ) -> Self {
        let heard = clock.monotonic();
        let alarm = Box::pin(tokio::time::sleep(idle_max));
        Self { upstream: Some(upstream), filter, carried, clock, idle_max, ends, heard, alarm }
    }

    /// The next bytes for the caller.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(None) };
        if let Some(refusal) = self.carried.lost_standing(cx) {
            return self.cut(&refusal);
        }
        loop {
            match Pin::new(&mut *upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.heard = self.clock.monotonic();
                    let Ok(data) = frame.into_data() else { continue };
                    let mut out = Vec::with_capacity(data.len());
                    if let Err(fault) = self.filter.push(&data, &mut out) {
                        return self.cut(&Refusal::new(Code::UpstreamInvalid).because(fault));
                    }
                    if !out.is_empty() {
                        let bytes = Bytes::from(out);
                        self.carried.delivered(&bytes);
                        return Poll::Ready(Some(bytes));
                    }
                }
                Poll::Ready(Some(Err(error))) => return self.cut(&Refusal::new(Code::UpstreamInvalid).because(error)),
                Poll::Ready(None) => return self.finish(),
                Poll::Pending => return self.wait(cx),
            }
        }
    }

    /// Nothing has come: sleeps until something does, or until the silence or the whole has lasted too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = self.clock.monotonic();
            let silent_until = self.heard + self.idle_max;
            if now >= silent_until || now >= self.ends {
                let which = if now >= self.ends { "whole" } else { "stream_idle" };
                return self.cut(&Refusal::new(Code::UpstreamSlow).because(format_args!("timeout {which}")));
            }
            let wait = silent_until.min(self.ends).saturating_sub(now);
            self.alarm.as_mut().reset(tokio::time::Instant::now() + wait);
        }
        Poll::Pending
    }

    fn finish(&mut self) -> Poll<Option<Bytes>> {
        self.upstream = None;
        let mut out = Vec::new();
        if let Err(fault) = self.filter.finish(&mut out) {
            return self.cut(&Refusal::new(Code::UpstreamInvalid).because(fault));
        }
        self.carried.meter.usage(self.filter.usage());
        if out.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Bytes::from(out))) }
    }

    fn cut(&mut self, refusal: &Refusal) -> Poll<Option<Bytes>> {
        self.upstream = None;
        self.carried.meter.usage(self.filter.usage());
        Poll::Ready(Some(self.carried.last_event(refusal)))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.upstream.is_some() {
            self.carried.meter.usage(self.filter.usage());
            self.carried.meter.aborted();
        }
    }
}
