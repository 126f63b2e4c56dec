//! Measures one request and writes its line, once, whatever way it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::format::request::{About, Led, ModelDigest, Server, Used};
use crate::audit::store::entry::{Closing, Ending, Entry};
use crate::clock::Clock;
use crate::guard::authenticate::Remembered;
use crate::guard::egress::answer::Findings;
use crate::guard::egress::judge::Judge;
use crate::id::{HandleId, RequestId};
use crate::metrics::{Answered, Metrics};
use crate::model::redact::Redactor;
use crate::model::usage::{Heard, Sent, Source, Usage, absurd, settle};
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

/// What is known of a request for its line in the log.
#[derive(Default)]
pub struct Facts {
    /// The caller, once it is known.
    pub caller: Option<Arc<Remembered>>,
    /// The operation.
    pub operation: &'static str,
    /// The model's canonical name, once it is known.
    pub model: Option<Arc<str>>,
    /// The upstream.
    pub upstream: Option<Server>,
    /// Which weights answer.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The handle that was shown in the token's place.
    pub handle: Option<HandleId>,
    /// The caller's address.
    pub peer: Option<IpAddr>,
    /// Upstreams that were asked before the last one, each with why it did not serve.
    tried: Vec<String>,
}

/// The running measurement of one request. Dropping it records the request.
pub struct Meter {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    request: RequestId,
    facts: Facts,
    began: Duration,
    forwarded: Option<Duration>,
    answered: Option<Duration>,
    first: Option<Duration>,
    sent: Option<Sent>,
    heard: Heard,
    /// The status of the upstream's head.
    upstream_status: u16,
    led: (Vec<Led>, u64),
    status: u16,
    code: &'static str,
    detail: Option<String>,
    /// A refusal that no counter has yet.
    uncounted: Option<Code>,
    entry: Option<Entry>,
    /// Takes secrets out of what the log and the record say.
    redactor: Option<Arc<Redactor>>,
}

impl Meter {
    /// Begins to measure.
    pub fn start(metrics: Arc<Metrics>, clock: Arc<dyn Clock>, request: RequestId) -> Self {
        let began = clock.monotonic();
        metrics.began();
        Self {
            metrics,
            clock,
            request,
            facts: Facts::default(),
            began,
            forwarded: None,
            answered: None,
            first: None,
            sent: None,
            heard: Heard::default(),
            upstream_status: 0,
            led: (Vec::new(), 0),
            status: 0,
            code: "aborted",
            detail: None,
            uncounted: None,
            entry: None,
            redactor: None,
        }
    }

    /// The same, with the gateway's own secrets taken out of what the log and the record say.
    #[must_use]
    pub fn redacting(mut self, redactor: &Arc<Redactor>) -> Self {
        self.redactor = Some(Arc::clone(redactor));
        self
    }

    fn redacted(&self, text: &str) -> String {
        self.redactor.as_ref().and_then(|redactor| redactor.text(text)).unwrap_or_else(|| text.to_owned())
    }

    /// What records say of the request; `None` where the caller is not known.
    #[must_use]
    pub fn about(&self, policy: &Arc<str>) -> Option<About> {
        Some(About {
            request: self.request,
            caller: Arc::clone(&self.facts.caller.as_ref()?.caller),
            handle: self.facts.handle,
            peer: self.facts.peer,
            operation: self.facts.operation,
            model: self.facts.model.clone(),
            policy: Arc::clone(policy),
        })
    }

    /// The request is admitted: its entry stays open until [`Meter::close`], or until it is dropped.
    pub fn admitted(&mut self, entry: Entry) {
        self.entry = Some(entry);
    }

    /// The record of the admission.
    #[must_use]
    pub fn record(&self) -> Option<String> {
        self.entry.as_ref().map(|entry| entry.record().to_owned())
    }

    /// The open entry.
    pub const fn entry(&mut self) -> Option<&mut Entry> {
        self.entry.as_mut()
    }

    /// Bytes of the answer.
    pub fn deliver(&mut self, bytes: &[u8]) {
        if let Some(entry) = &mut self.entry {
            entry.deliver(bytes);
        }
    }

    /// Milliseconds since the request came.
    #[must_use]
    pub fn ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().saturating_sub(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// What became of the upstreams that were asked and, where the request was refused, why.
    fn cause(&self) -> Option<String> {
        let causes: Vec<&str> = self.facts.tried.iter().map(String::as_str).chain(self.detail.as_deref()).collect();
        (!causes.is_empty()).then(|| causes.join("; "))
    }

    fn ending(&self) -> Ending {
        Ending {
            code: self.code,
            detail: self.cause(),
            status: self.status,
            ms: self.ms(),
            usage: self.used(),
            upstream: self.facts.upstream.clone(),
            model_digest: self.facts.model_digest.clone(),
            led: self.led.clone(),
        }
    }

    /// What was used. Of a request that was not sent on nothing was, and an error status says that the request did not run; of all others
    /// at least what was sent is counted, whoever ended them.
    fn used(&self) -> Option<Used> {
        let Some(sent) = self.sent else {
            // The built-in model reports of itself.
            let told = self.heard.usage?;
            return Some(Used { input: told.input, output: told.output, source: Source::Reported.as_str() });
        };
        if self.answered.is_none() && NOT_RUN.contains(&self.code) {
            return None;
        }
        let (used, source) = match self.upstream_status {
            400..=499 | 503 => (Usage::default(), Source::Bound),
            _ => settle(sent, &self.heard),
        };
        Some(Used { input: used.input, output: used.output, source: source.as_str() })
    }

    /// Closes the entry as things stand; the last frame of the answer may go when what this gives is there. `None` where there is
    /// no entry.
    pub fn close(&mut self) -> Option<Closing> {
        let entry = self.entry.take()?;
        Some(entry.close(self.ending()))
    }

    /// The open entry and how it ends, for a request that is refused after it was admitted.
    pub fn take_entry(&mut self) -> Option<(Entry, Ending)> {
        let entry = self.entry.take()?;
        Some((entry, self.ending()))
    }

    /// What is known so far.
    pub const fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// An upstream was asked, and did not serve for the reason `why`.
    pub fn tried(&mut self, why: Option<String>) {
        let why = why.map(|why| self.redacted(&why));
        self.facts.tried.extend(why);
    }

    /// When the request came, on the monotonic clock.
    #[must_use]
    pub const fn began(&self) -> Duration {
        self.began
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

    /// The answer is complete; until then a request that ends has been left by its caller.
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
        let named = findings.named.iter().map(|led| Led { target: self.redacted(&led.target), ..led.clone() });
        self.led = (named.collect(), findings.count);
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
            tracing::debug!(request = %self.request, code = self.code, detail, "refused");
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Its caller has left: what became of the request is recorded all the same.
        drop(self.close());
        if let Some(code) = self.uncounted.take() {
            self.metrics.refused(code);
        }
        self.believe();
        let (now, used) = (self.clock.monotonic(), self.used());
        let whole = now.saturating_sub(self.began);
        // Overhead is the time until the upstream was asked; what follows is the model's.
        let overhead = self.forwarded.map_or(whole, |at| at.saturating_sub(self.began));
        let upstream = self.forwarded.zip(self.answered).map(|(asked, head)| head.saturating_sub(asked));
        let agent = self.facts.caller.as_ref().map(|caller| caller.verified.agent().as_str());
        self.metrics.answered(&Answered {
            model: self.facts.model.as_deref(),
            operation: self.facts.operation,
            code: self.code,
            agent,
            upstream: self.facts.upstream.as_ref().map(|server| &*server.name),
            request_s: whole.as_secs_f64(),
            overhead_s: overhead.as_secs_f64(),
            first_token_s: self.first.map(|at| at.saturating_sub(self.began).as_secs_f64()),
            upstream_s: upstream.map(|took| took.as_secs_f64()),
            tokens_in: used.map_or(0, |used| used.input),
            tokens_out: used.map_or(0, |used| used.output),
        });
        // Other details may say what a prompt or an answer would have reached.
        let upstreams =
            self.code.starts_with("upstream-") || self.code == Code::Truncated.as_str() || !self.facts.tried.is_empty();
        tracing::info!(
            request = %self.request,
            agent = agent.unwrap_or("-"),
            peer = self.facts.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
            operation = if self.facts.operation.is_empty() { "-" } else { self.facts.operation },
            model = self.facts.model.as_deref().unwrap_or("-"),
            upstream = self.facts.upstream.as_ref().map_or("-", |server| &*server.name),
            status = self.status,
            code = self.code,
            ms = whole.as_millis() as u64,
            cause = self.cause().filter(|_| upstreams),
            "request"
        );
        self.led_elsewhere(agent.unwrap_or("-"));
    }
}

impl Meter {
    /// Notes a report of usage that cannot be true. What is recorded in its place is bounded all the same.
    fn believe(&self) {
        let Some((sent, server)) = self.sent.as_ref().zip(self.facts.upstream.as_ref()) else { return };
        // An error brings no usage, or that of nothing.
        let Some(what) = absurd(*sent, &self.heard).filter(|_| self.upstream_status < 400) else { return };
        if let Some(reports) = self.metrics.absurd_usage(&server.name, what, self.clock.monotonic()) {
            let (upstream, what) = (&*server.name, what.as_str());
            tracing::warn!(request = %self.request, upstream, what, reports, "an upstream reports usage that cannot be true");
        }
    }

    /// Says in the log where a request, or its answer, would have led: the first of the places, by its host alone. Records name more.
    fn led_elsewhere(&self, agent: &str) {
        let (request, (named, count)) = (&self.request, &self.led);
        if let Some(led) = named.first() {
            let (host, reason, verdict) = (host(&led.target), led.reason, led.verdict);
            tracing::warn!(%request, agent, door = "answer", host, reason, verdict, count, "uncontrolled destination");
        } else if self.code == Code::EgressUncontrolled.as_str() {
            let host = self.detail.as_deref().map_or_else(String::new, host);
            tracing::warn!(%request, agent, door = "request", host, verdict = "block", "uncontrolled destination");
        }
    }
}

/// The host in what names a destination, with what else is said of it behind; nothing where it cannot be read.
fn host(target: &str) -> String {
    target.split(": ").next().and_then(|target| Judge::host(target.split(" (").next().unwrap_or(target))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_host_that_was_judged() {
        for (target, expect) in [
            ("https://evil.example/", "evil.example"),
            ("https://evil.example/ (x: https://good.example/)", "evil.example"),
            ("http://10.0.0.1/a?secret: 10.0.0.1 is not public", "10.0.0.1"),
            ("what is no strict JSON (x: https://good.example/)", ""),
            ("web_search", ""),
        ] {
            assert_eq!(host(target), expect, "{target}");
        }
    }
}
