//! One request and its answer: the data for its records, its metrics and its log line.

mod report;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::audit::format::request::{
    Admission, BodyDigest, ModelDigest, OutboundReference, PlannedFetch, RequestContext, Server,
    Stripped,
};
use crate::audit::store::entry::{Closing, Ending, Entry};
use crate::clock::Clock;
use crate::crypto::encryption::KeyedDigest;
use crate::guard::admit::{Adjustments, Admitted};
use crate::guard::authenticate::CachedToken;
use crate::guard::egress::fetches::WantedContent;
use crate::guard::egress::findings::Findings;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::Permit;
use crate::id::{HandleId, RequestId};
use crate::metrics::Metrics;
use crate::model::Dialect;
use crate::model::usage::{Heard, Sent};
use crate::proxy::activity::DeliveredBytes;
use crate::proxy::buffer::Room;
use crate::proxy::times::Times;
use crate::proxy::{DataPlaneConfig, Gateway};
use crate::refusal::{Code, Refusal};

/// The code of an answer in which the upstream reports its own failure.
const UPSTREAM_ERROR: &str = Code::UpstreamError.as_str();
/// Codes of requests that certainly did not run: no server was reached, or none had a free slot.
const NOT_RUN: [&str; 6] = [
    Code::UpstreamUnavailable.as_str(),
    Code::UpstreamFull.as_str(),
    Code::ModelChanged.as_str(),
    Code::ModelRateExceeded.as_str(),
    Code::InFlightExceeded.as_str(),
    Code::Internal.as_str(),
];

/// The head of the caller's answer, except the gateway's own headers.
pub struct ResponseParts {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: HeaderValue,
    /// The upstream's `Retry-After`.
    pub retry_after: Option<HeaderValue>,
}

impl ResponseParts {
    /// The head of a successful answer that the gateway makes itself.
    #[must_use]
    pub const fn own(content_type: &'static str) -> Self {
        Self {
            status: 200,
            content_type: HeaderValue::from_static(content_type),
            retry_after: None,
        }
    }
}

/// The slots and the memory that a request uses. Dropping the value releases them.
#[derive(Default)]
pub struct Occupied {
    /// The caller's slots.
    pub caller: Permit,
    /// The slots at the model and its server.
    pub server: Permit,
    /// Memory for the answer.
    pub room: Option<Room>,
}

/// One request and its answer: the facts from its head to its outcome.
///
/// The records of its admission and outcome are made from it. Dropping it closes its entry, counts
/// the request in the metrics, and writes its log line.
pub struct Exchange {
    /// The request's id.
    pub id: RequestId,
    /// The id as text.
    pub id_text: String,
    /// The dialect of errors for this caller.
    pub dialect: Dialect,
    /// The config that was active when the request arrived. A reload does not change it.
    pub config: Arc<DataPlaneConfig>,
    /// The caller's address.
    pub peer: Option<IpAddr>,
    /// The bytes of the answer that the caller has read, if the connection counts them.
    pub reader: Option<Arc<DeliveredBytes>>,
    /// Whether the caller also wants the name of its outcome's record (`want-receipt: 1`).
    pub wants_receipt: bool,
    /// The caller, after its token was parsed. Set for a refused token too, if its names are known.
    pub caller: Option<Arc<CachedToken>>,
    /// The handle that was presented instead of the token.
    pub handle: Option<HandleId>,
    /// The operation.
    pub operation: &'static str,
    /// The model's canonical name, once it is known.
    pub model: Option<Arc<str>>,
    /// The upstream that the request is sent to.
    pub upstream: Option<Server>,
    /// The digest of the weights that answer.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The requests that remain of the agent's tightest rate.
    pub headroom: Option<Headroom>,
    /// The changes to the request and to its answer.
    pub adjustments: Adjustments,
    /// The slots and memory that the request uses.
    pub occupied: Occupied,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// The upstreams that were tried before the last one, each with the reason for its failure.
    tried: Vec<String>,
    /// When the request arrived. This and the next three are on the monotonic clock.
    began: Duration,
    forwarded: Option<Duration>,
    answered: Option<Duration>,
    first: Option<Duration>,
    /// The size of the forwarded body and its output cap. None if no upstream was tried.
    sent: Option<Sent>,
    heard: Heard,
    /// The status in the head of the upstream's answer; 0 without one.
    upstream_status: u16,
    /// The uncontrolled destinations in the answer, as recorded, and their full count.
    outbound: (Vec<OutboundReference>, u64),
    status: u16,
    /// The code of the outcome. It is "aborted" until the request ends in another form.
    code: &'static str,
    detail: Option<String>,
    /// A refusal that no metric has counted yet.
    uncounted: Option<Code>,
    entry: Option<Entry>,
    /// The code of a refused tool call that a text has replaced.
    replaced: Option<Code>,
}

impl Exchange {
    /// Starts an exchange. Boxed: it is moved often, and every future would reserve room for it.
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
            // A caller that disconnects drops the exchange at any await. Then this code remains.
            code: "aborted",
            detail: None,
            uncounted: None,
            entry: None,
            replaced: None,
        })
    }

    /// The end of the request's total time, on the monotonic clock.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.began + self.config.timeouts.whole
    }

    /// The time limits of the answer.
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

    /// The part that all records of the request have; `None` if the caller is unknown.
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

    /// The record of the admission; `None` if the caller is unknown. Its digests are keyed, so that
    /// only a party with `digest_key` can test guesses of a prompt.
    #[must_use]
    pub fn admission(
        &self,
        admitted: &Admitted,
        received: &[u8],
        digest_key: [u8; 16],
    ) -> Option<Admission> {
        let mut stripped = Vec::new();
        for reach in admitted.stripped() {
            let (path, target) = (reach.path.clone(), reach.target.clone());
            stripped.push(Stripped { kind: reach.kind.as_str(), path, target });
        }
        // Contents that the gateway will fetch itself. The record names them before the fetch.
        let mut fetches = Vec::new();
        if let Some(call) = admitted.call()
            && let Some(wanted) = &call.fetches
        {
            for WantedContent { reach, .. } in &wanted.wanted {
                let target_digest = KeyedDigest::of(&digest_key, reach.target.as_bytes());
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
            received: BodyDigest {
                bytes: received.len() as u64,
                digest: KeyedDigest::of(&digest_key, received),
            },
            forwarded: None,
        })
    }

    /// Sets the entry of the admission. It is open until the exchange is closed or dropped.
    pub fn admitted(&mut self, entry: Entry) {
        self.entry = Some(entry);
    }

    /// The open entry, if there is one.
    pub const fn entry(&mut self) -> Option<&mut Entry> {
        self.entry.as_mut()
    }

    fn deliver(&mut self, bytes: &[u8]) {
        if let Some(entry) = &mut self.entry {
            entry.deliver(bytes);
        }
    }

    /// Milliseconds since the request arrived.
    #[must_use]
    pub fn ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().saturating_sub(self.began).as_millis())
            .unwrap_or(u64::MAX)
    }

    /// The same exchange, with the proof that it has an open entry.
    ///
    /// # Errors
    /// Itself without one.
    pub fn open(self: Box<Self>) -> Result<OpenExchange, Box<Self>> {
        if self.entry.is_some() { Ok(OpenExchange(self)) } else { Err(self) }
    }

    fn close(&mut self) -> Option<Closing> {
        let entry = self.entry.take()?;
        Some(entry.close(self.ending()))
    }

    /// The open entry and its outcome, for a request that is refused after its admission.
    pub fn take_entry(&mut self) -> Option<(Entry, Ending)> {
        let entry = self.entry.take()?;
        Some((entry, self.ending()))
    }

    /// Records that an upstream was tried and failed for the reason `why`.
    pub fn tried(&mut self, why: Option<String>) {
        // The reason may contain text of the server, and so a credential.
        let why = why.map(|why| self.redacted(&why));
        self.tried.extend(why);
    }

    /// Records that the request is sent to an upstream now.
    pub fn forwarded(&mut self) {
        self.forwarded = Some(self.clock.monotonic());
    }

    /// Records the size of the request for the upstream.
    pub const fn sends(&mut self, sent: Sent) {
        self.sent = Some(sent);
    }

    /// Records that the head of the upstream's answer arrived.
    pub fn head(&mut self, status: u16) {
        self.answered = Some(self.clock.monotonic());
        self.upstream_status = status;
    }

    /// Records that the caller gets a head with that status; the body streams.
    pub const fn begun(&mut self, status: u16) {
        self.status = status;
    }

    /// Records that the answer is complete. Without this call, the caller aborted the request.
    pub fn done(&mut self) {
        // Without an upstream the gateway made the answer itself.
        self.status = if self.upstream_status == 0 { 200 } else { self.upstream_status };
        self.code = match self.replaced {
            _ if self.status >= 400 => UPSTREAM_ERROR,
            Some(code) => code.as_str(),
            None => "ok",
        };
    }

    /// Records that a text replaces a refused tool call.
    pub fn replaced(&mut self, refusal: &Refusal) {
        self.replaced = Some(refusal.code);
        self.explained(refusal);
        self.metrics.refused(refusal.code);
    }

    /// Records why the upstream's answer is not passed on as it is.
    pub fn explained(&mut self, refusal: &Refusal) {
        self.detail = refusal.detail.as_deref().map(|detail| self.redacted(detail));
    }

    /// Records that the upstream reported an error inside its answer.
    pub const fn failed(&mut self) {
        self.code = UPSTREAM_ERROR;
    }

    /// Records that the first byte of the answer is sent now.
    pub fn first_byte(&mut self) {
        if self.first.is_none() {
            self.first = Some(self.clock.monotonic());
        }
    }

    /// Records the usage and text of the model's answer.
    pub const fn heard(&mut self, heard: Heard) {
        self.heard = heard;
    }

    /// Records the destinations that the answer would have made its client reach.
    pub fn found(&mut self, findings: &Findings) {
        // Targets come from the answer and may contain a credential.
        let mut named = Vec::with_capacity(findings.named.len());
        for outbound in &findings.named {
            let target = self.redacted(&outbound.target);
            named.push(OutboundReference { target, ..outbound.clone() });
        }
        self.outbound = (named, findings.count);
    }

    /// Records that the request is to be refused, if the refusal can be recorded.
    pub fn judged(&mut self, refusal: &Refusal) {
        self.status = refusal.code.status();
        self.ends(refusal);
    }

    fn ends(&mut self, refusal: &Refusal) {
        self.code = refusal.code.as_str();
        self.detail = refusal.detail.as_deref().map(|detail| self.redacted(detail));
        self.uncounted = Some(refusal.code);
    }

    /// Records that the request is refused.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.judged(refusal);
        self.counted(refusal.code);
    }

    /// Records that the answer ends here, after its head was already sent.
    pub fn cut(&mut self, refusal: &Refusal) {
        self.ends(refusal);
        self.counted(refusal.code);
    }

    /// Counts a refusal in the metrics. The drop of the exchange then does not count it again.
    fn counted(&mut self, code: Code) {
        self.uncounted = None;
        self.metrics.refused(code);
        if let Some(detail) = &self.detail {
            tracing::debug!(request = %self.id, code = self.code, detail, "refused");
        }
    }
}

/// An exchange with an open entry: the request is admitted, and its outcome is not recorded yet.
pub struct OpenExchange(Box<Exchange>);

impl OpenExchange {
    /// The exchange.
    #[must_use]
    pub const fn get(&self) -> &Exchange {
        &self.0
    }

    /// Adds bytes of the answer to the outcome.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.0.deliver(bytes);
    }

    /// The name of the admission's record: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        match &self.0.entry {
            Some(entry) => entry.record(),
            None => "",
        }
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

    /// Closes the entry. The last bytes of the answer may be sent after the outcome is durable.
    #[must_use]
    pub fn close(mut self) -> (Closing, Box<Exchange>) {
        (self.0.close().unwrap_or_else(Closing::never), self.0)
    }
}
