//! The outcome, the metrics and the log line of an exchange when it ends.

use super::{Exchange, NOT_RUN};
use crate::audit::format::request::Used;
use crate::audit::store::entry::Ending;
use crate::guard::egress::policy::EgressPolicy;
use crate::metrics::RequestMeasures;
use crate::model::usage::{Usage, UsageSource, absurd, settle};
use crate::proxy::media_type::before;
use crate::refusal::Code;

impl Drop for Exchange {
    fn drop(&mut self) {
        // If the caller has left, the entry is still open. Its outcome is recorded here.
        drop(self.close());
        if let Some(code) = self.uncounted.take() {
            self.metrics.refused(code);
        }
        self.believe();
        let (now, used) = (self.clock.monotonic(), self.used());
        let whole = now.saturating_sub(self.began);
        // Overhead is the time until the request was sent to an upstream. The rest is the model's
        // time.
        let overhead = self.forwarded.map_or(whole, |at| at.saturating_sub(self.began));
        let upstream = match (self.forwarded, self.answered) {
            (Some(asked), Some(head)) => Some(head.saturating_sub(asked)),
            (Some(_) | None, _) => None,
        };
        let agent = self.caller.as_ref().map(|caller| caller.verified.agent().as_str());
        self.metrics.answered(&RequestMeasures {
            model: self.model.as_deref(),
            operation: self.operation,
            code: self.code,
            agent,
            upstream: self.upstream.as_ref().map(|server| &*server.name),
            request_s: whole.as_secs_f64(),
            overhead_s: overhead.as_secs_f64(),
            first_token_s: self.first.map(|at| at.saturating_sub(self.began).as_secs_f64()),
            upstream_s: upstream.map(|took| took.as_secs_f64()),
            tokens_in: used.map_or(0, |used| used.input),
            tokens_out: used.map_or(0, |used| used.output),
        });
        // Other details may contain destinations from a prompt or an answer. The log line must not
        // have them.
        let upstreams = self.code.starts_with("upstream-")
            || self.code == Code::Truncated.as_str()
            || !self.tried.is_empty();
        tracing::info!(
            request = %self.id,
            agent = agent.unwrap_or("-"),
            peer = self.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
            operation = if self.operation.is_empty() { "-" } else { self.operation },
            model = self.model.as_deref().unwrap_or("-"),
            upstream = self.upstream.as_ref().map_or("-", |server| &*server.name),
            status = self.status,
            code = self.code,
            ms = whole.as_millis() as u64,
            cause = self.cause().filter(|_| upstreams),
            "request"
        );
        self.log_outbound(agent.unwrap_or("-"));
    }
}

impl Exchange {
    /// The failures of the tried upstreams and the detail of the refusal, joined by `; `.
    fn cause(&self) -> Option<String> {
        let mut causes: Vec<&str> = Vec::new();
        for tried in &self.tried {
            causes.push(tried);
        }
        causes.extend(self.detail.as_deref());
        (!causes.is_empty()).then(|| causes.join("; "))
    }

    /// The end of the request, for its record.
    pub(super) fn ending(&self) -> Ending {
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

    /// The usage. None for a request that was not forwarded. Zero after a status that shows that
    /// the request did not run. All others count at least the tokens that were sent.
    fn used(&self) -> Option<Used> {
        let Some(sent) = self.sent else {
            // No upstream was used: the built-in model reports its own usage.
            let told = self.heard.usage?;
            return Some(Used {
                input: told.input,
                output: told.output,
                source: UsageSource::Reported.as_str(),
            });
        };
        // After a head from an upstream the request may have run, even if a later step failed.
        if self.answered.is_none() && NOT_RUN.contains(&self.code) {
            return None;
        }
        let (used, source) = match self.upstream_status {
            // 4xx and 503 refuse the request before the model runs. Other errors may come later.
            400..=499 | 503 => (Usage::default(), UsageSource::Bound),
            _ => settle(sent, &self.heard),
        };
        Some(Used { input: used.input, output: used.output, source: source.as_str() })
    }

    /// Reports usage that cannot be true. The recorded usage is bounded independently of it.
    fn believe(&self) {
        let (Some(sent), Some(server)) = (&self.sent, &self.upstream) else { return };
        // An error reports no usage, or zero.
        let Some(what) = absurd(*sent, &self.heard).filter(|_| self.upstream_status < 400) else {
            return;
        };
        if let Some(reports) = self.metrics.absurd_usage(&server.name, what, self.clock.monotonic())
        {
            let (upstream, what) = (&*server.name, what.as_str());
            tracing::warn!(request = %self.id, upstream, what, reports, "an upstream reports usage \
                that cannot be true");
        }
    }

    /// Logs that a request or its answer contains an uncontrolled destination: only the host of the
    /// first one. Records have more.
    fn log_outbound(&self, agent: &str) {
        let (request, (named, count)) = (&self.id, &self.outbound);
        if let Some(outbound) = named.first() {
            let (host, reason, verdict) =
                (host(&outbound.target), outbound.reason, outbound.verdict);
            tracing::warn!(
                %request,
                agent,
                filter = "answer",
                host,
                reason,
                verdict,
                count,
                "uncontrolled destination"
            );
        } else if self.code == Code::EgressUncontrolled.as_str() {
            let host = match &self.detail {
                Some(detail) => host(detail),
                None => String::new(),
            };
            tracing::warn!(
                %request,
                agent,
                filter = "request",
                host,
                verdict = "block",
                "uncontrolled destination"
            );
        }
    }
}

/// The host in the name of a destination, without the notes that follow the name. Empty if it
/// cannot be parsed.
fn host(target: &str) -> String {
    // A detail has the form `URL (note)` or `URL: note`.
    let url = before(before(target, ": "), " (");
    EgressPolicy::host(url).unwrap_or_default()
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
