//! One request and its answer, and what is recorded, counted and logged of them.

mod report;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::audit::format::request::{
    Admission, BodyDigest, ModelDigest, OutboundReference, PlannedFetch, RequestContext, Server,
    Stripped, Used,
};
use crate::audit::store::entry::{Closing, Ending, Entry};
use crate::clock::Clock;
use crate::crypto::encryption::KeyedDigest;
use crate::guard::admit::{Adjustments, Admitted};
use crate::guard::authenticate::CachedToken;
use crate::guard::egress::answer::Findings;
use crate::guard::egress::fetches::WantedContent;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::Permit;
use crate::id::{HandleId, RequestId};
use crate::metrics::Metrics;
use crate::model::Dialect;
use crate::model::usage::{Heard, Sent, Usage, UsageSource, settle};
use crate::proxy::activity::DeliveredBytes;
use crate::proxy::buffer::Room;
use crate::proxy::times::Times;
use crate::proxy::{DataPlaneConfig, Gateway};
use crate::refusal::{Code, Refusal};

/// The code of an answer by which the upstream says that it failed.
const UPSTREAM_ERROR: &str = "upstream-error";
/// How requests end that surely did not run: no server was reached, or none had room.
const NOT_RUN: [&str; 6] = [
    Code::UpstreamUnavailable.as_str(),
    Code::UpstreamFull.as_str(),
    Code::ModelChanged.as_str(),
    Code::ModelRateExceeded.as_str(),
    Code::InFlightExceeded.as_str(),
    Code::Internal.as_str(),
];

/// What the caller is shown beside the body of an answer.
pub struct ResponseParts {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: HeaderValue,
    /// The upstream's `Retry-After`.
    pub retry_after: Option<HeaderValue>,
}

impl ResponseParts {
    /// A good answer of the gateway's own.
    #[must_use]
    pub const fn own(content_type: &'static str) -> Self {
        Self {
            status: 200,
            content_type: HeaderValue::from_static(content_type),
            retry_after: None,
        }
    }
}

/// What a request occupies. Dropping it gives everything back.
#[derive(Default)]
pub struct Occupied {
    /// The caller's slots.
    pub caller: Permit,
    /// The slots at the model and its server.
    pub server: Permit,
    /// Memory for the answer.
    pub room: Option<Room>,
}

/// One request and its answer: what is known of it, from its head to its outcome.
///
/// The records of its admission and its outcome are made from it. Dropping it closes its entry, counts the request in the
/// metrics, and writes its log line.
pub struct Exchange {
    /// The request's id.
    pub id: RequestId,
    /// The id as text.
    pub id_text: String,
    /// The shape of errors for this caller.
    pub dialect: Dialect,
    /// The config that was in force when the request came.
    pub config: Arc<DataPlaneConfig>,
    /// The caller's address.
    pub peer: Option<IpAddr>,
    /// What the caller has read of the answer, where that is known.
    pub reader: Option<Arc<DeliveredBytes>>,
    /// Whether the caller wants its outcome named too (`want-receipt: 1`).
    pub wants_receipt: bool,
    /// The caller, once it is known.
    pub caller: Option<Arc<CachedToken>>,
    /// The handle that was presented instead of the token.
    pub handle: Option<HandleId>,
    /// The operation.
    pub operation: &'static str,
    /// The model's canonical name, once it is known.
    pub model: Option<Arc<str>>,
    /// The upstream that is asked.
    pub upstream: Option<Server>,
    /// The digest of the weights that answer.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// What is left of the agent's rate.
    pub headroom: Option<Headroom>,
    /// What was changed in the request and in its answer.
    pub adjustments: Adjustments,
    /// What it occupies.
    pub occupied: Occupied,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Upstreams that were asked before the last one, each with the reason why it did not serve.
    tried: Vec<String>,
    began: Duration,
    forwarded: Option<Duration>,
    answered: Option<Duration>,
    first: Option<Duration>,
    sent: Option<Sent>,
    heard: Heard,
    /// The status of the upstream's head.
    upstream_status: u16,
    outbound: (Vec<OutboundReference>, u64),
    status: u16,
    code: &'static str,
    detail: Option<String>,
    /// A refusal that is in no counter yet.
    uncounted: Option<Code>,
    entry: Option<Entry>,
}

impl Exchange {
    /// Begins with a request that has just come. Boxed: it is moved several times, and every future would reserve room for it.
    #[must_use]
    pub fn start(gateway: &Gateway, dialect: Dialect, peer: Option<IpAddr>) -> Box<Self> {
        let id = gateway.request_ids.next(gateway.clock.now());
        gateway.metrics.began();
        Box::new(Self {
            id,
            id_text: id.to_string(),
            dialect,
            config: gateway.config.load_full(),
            peer,
            reader: None,
            wants_receipt: false,
            caller: None,
            handle: None,
            operation: "",
            model: None,
            upstream: None,
            model_digest: None,
            headroom: None,
            adjustments: Adjustments::default(),
            occupied: Occupied::default(),
            metrics: Arc::clone(&gateway.metrics),
            clock: Arc::clone(&gateway.clock),
            tried: Vec::new(),
            began: gateway.clock.monotonic(),
            forwarded: None,
            answered: None,
            first: None,
            sent: None,
            heard: Heard::default(),
            upstream_status: 0,
            outbound: (Vec::new(), 0),
            status: 0,
            code: "aborted",
            detail: None,
            uncounted: None,
            entry: None,
        })
    }

    /// When the request has had its time, on the monotonic clock.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.began + self.config.timeouts.whole
    }

    /// The time limits of its answer.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            clock: Arc::clone(&self.clock),
            idle_max: self.config.timeouts.stream_idle,
            ends: self.deadline(),
            reader: self.reader.clone(),
        }
    }

    fn redacted(&self, text: &str) -> String {
        match self.config.redactor.text(text) {
            Some(redacted) => redacted,
            None => text.to_owned(),
        }
    }

    /// What every record says of the request; `None` where the caller is not known.
    #[must_use]
    pub fn about(&self) -> Option<RequestContext> {
        Some(RequestContext {
            request: self.id,
            caller: Arc::clone(&self.caller.as_ref()?.caller),
            handle: self.handle,
            peer: self.peer,
            operation: self.operation,
            model: self.model.clone(),
            policy: Arc::clone(&self.config.policy),
        })
    }

    /// The record of its admission; `None` where the caller is not known.
    #[must_use]
    pub fn admission(
        &self,
        admitted: &Admitted,
        received: &[u8],
        digest_key: [u8; 16],
    ) -> Option<Admission> {
        let digest = |bytes: &[u8]| KeyedDigest::of(&digest_key, bytes);
        let mut stripped = Vec::new();
        for reach in admitted.stripped() {
            let (path, target) = (reach.path.clone(), reach.target.clone());
            stripped.push(Stripped { kind: reach.kind.as_str(), path, target });
        }
        let mut fetches = Vec::new();
        if let Some(wanted) = admitted.call().and_then(|call| call.fetches.as_ref()) {
            for WantedContent { reach, .. } in &wanted.wanted {
                let target_digest = digest(reach.target.as_bytes());
                fetches.push(PlannedFetch {
                    path: reach.path.clone(),
                    target: reach.target.clone(),
                    target_digest,
                });
            }
        }
        Some(Admission {
            about: self.about()?,
            upstream: self.upstream.clone(),
            model_digest: self.model_digest.clone(),
            output_tokens: admitted.output_tokens(),
            stripped,
            fetches,
            digest_key,
            received: BodyDigest { bytes: received.len() as u64, digest: digest(received) },
            forwarded: None,
        })
    }

    /// The request is admitted. Its entry is open until the exchange is closed or dropped.
    pub fn admitted(&mut self, entry: Entry) {
        self.entry = Some(entry);
    }

    /// The open entry.
    pub const fn entry(&mut self) -> Option<&mut Entry> {
        self.entry.as_mut()
    }

    fn deliver(&mut self, bytes: &[u8]) {
        if let Some(entry) = &mut self.entry {
            entry.deliver(bytes);
        }
    }

    /// Milliseconds since the request came.
    #[must_use]
    pub fn ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().saturating_sub(self.began).as_millis())
            .unwrap_or(u64::MAX)
    }

    /// What became of the upstreams that were asked and, where the request was refused, why.
    fn cause(&self) -> Option<String> {
        let causes: Vec<&str> =
            self.tried.iter().map(String::as_str).chain(self.detail.as_deref()).collect();
        (!causes.is_empty()).then(|| causes.join("; "))
    }

    fn ending(&self) -> Ending {
        Ending {
            code: self.code,
            detail: self.cause(),
            status: self.status,
            ms: self.ms(),
            usage: self.used(),
            upstream: self.upstream.clone(),
            model_digest: self.model_digest.clone(),
            outbound: self.outbound.clone(),
        }
    }

    /// The usage. A request that was not forwarded has none, and an error status means that it did not
    /// run. Of all others at least the tokens that were sent count, no matter which side ended them.
    fn used(&self) -> Option<Used> {
        let Some(sent) = self.sent else {
            // The built-in model reports of itself.
            let told = self.heard.usage?;
            return Some(Used {
                input: told.input,
                output: told.output,
                source: UsageSource::Reported.as_str(),
            });
        };
        if self.answered.is_none() && NOT_RUN.contains(&self.code) {
            return None;
        }
        let (used, source) = match self.upstream_status {
            400..=499 | 503 => (Usage::default(), UsageSource::Bound),
            _ => settle(sent, &self.heard),
        };
        Some(Used { input: used.input, output: used.output, source: source.as_str() })
    }

    /// The same with the open entry.
    ///
    /// # Errors
    /// Itself, where it has none.
    pub fn open(self: Box<Self>) -> Result<OpenExchange, Box<Self>> {
        if self.entry.is_some() { Ok(OpenExchange(self)) } else { Err(self) }
    }

    fn close(&mut self) -> Option<Closing> {
        let entry = self.entry.take()?;
        Some(entry.close(self.ending()))
    }

    /// The open entry and how it ends, for a request that is refused after it was admitted.
    pub fn take_entry(&mut self) -> Option<(Entry, Ending)> {
        let entry = self.entry.take()?;
        Some((entry, self.ending()))
    }

    /// An upstream was asked, and did not serve for the reason `why`.
    pub fn tried(&mut self, why: Option<String>) {
        let why = why.map(|why| self.redacted(&why));
        self.tried.extend(why);
    }

    /// The upstream is asked now.
    pub fn forwarded(&mut self) {
        self.forwarded = Some(self.clock.monotonic());
    }

    /// What the upstream is sent.
    pub const fn sends(&mut self, sent: Sent) {
        self.sent = Some(sent);
    }

    /// The upstream's head came.
    pub fn head(&mut self, status: u16) {
        self.answered = Some(self.clock.monotonic());
        self.upstream_status = status;
    }

    /// The caller is sent a head of that status; the rest streams.
    pub const fn begun(&mut self, status: u16) {
        self.status = status;
    }

    /// The answer is complete. A request that ends before was aborted by its caller.
    pub fn done(&mut self) {
        self.status = if self.upstream_status == 0 { 200 } else { self.upstream_status };
        self.code = if self.status >= 400 { UPSTREAM_ERROR } else { "ok" };
    }

    /// The upstream has told of an error within the answer.
    pub const fn failed(&mut self) {
        self.code = UPSTREAM_ERROR;
    }

    /// The first byte of the answer goes out.
    pub fn first_byte(&mut self) {
        if self.first.is_none() {
            self.first = Some(self.clock.monotonic());
        }
    }

    /// What the model has said and reported.
    pub const fn heard(&mut self, heard: Heard) {
        self.heard = heard;
    }

    /// What the answer would have made its reader reach.
    pub fn found(&mut self, findings: &Findings) {
        let named = findings.named.iter().map(|outbound| OutboundReference {
            target: self.redacted(&outbound.target),
            ..outbound.clone()
        });
        self.outbound = (named.collect(), findings.count);
    }

    /// The request is to be refused, if that can be recorded.
    pub fn judged(&mut self, refusal: &Refusal) {
        self.status = refusal.code.status();
        self.ends(refusal);
    }

    fn ends(&mut self, refusal: &Refusal) {
        self.code = refusal.code.as_str();
        self.detail = refusal.detail.as_deref().map(|detail| self.redacted(detail));
        self.uncounted = Some(refusal.code);
    }

    /// The request is refused.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.judged(refusal);
        self.counted(refusal.code);
    }

    /// The answer ends here, behind a head that is gone.
    pub fn cut(&mut self, refusal: &Refusal) {
        self.ends(refusal);
        self.counted(refusal.code);
    }

    fn counted(&mut self, code: Code) {
        self.uncounted = None;
        self.metrics.refused(code);
        if let Some(detail) = &self.detail {
            tracing::debug!(request = %self.id, code = self.code, detail, "refused");
        }
    }
}

/// An exchange whose entry is open: its request is admitted, and its outcome is not recorded yet.
pub struct OpenExchange(Box<Exchange>);

impl OpenExchange {
    /// The exchange.
    #[must_use]
    pub const fn get(&self) -> &Exchange {
        &self.0
    }

    /// Bytes of the answer.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.0.deliver(bytes);
    }

    /// The name of the admission's record: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        self.0.entry.as_ref().map_or("", Entry::record)
    }

    /// See [`Exchange::done`].
    pub fn done(&mut self) {
        self.0.done();
    }

    /// See [`Exchange::failed`].
    pub const fn failed(&mut self) {
        self.0.failed();
    }

    /// See [`Exchange::first_byte`].
    pub fn first_byte(&mut self) {
        self.0.first_byte();
    }

    /// See [`Exchange::heard`].
    pub const fn heard(&mut self, heard: Heard) {
        self.0.heard(heard);
    }

    /// See [`Exchange::found`].
    pub fn found(&mut self, findings: &Findings) {
        self.0.found(findings);
    }

    /// See [`Exchange::cut`].
    pub fn cut(&mut self, refusal: &Refusal) {
        self.0.cut(refusal);
    }

    /// Closes the entry with what is known now. The last bytes of the answer may go once the outcome is durable.
    #[must_use]
    pub fn close(mut self) -> (Closing, Box<Exchange>) {
        (self.0.close().unwrap_or_else(Closing::never), self.0)
    }
}
