//! What is counted and logged of an exchange when it is over.

use super::Exchange;
use crate::guard::egress::policy::EgressPolicy;
use crate::metrics::RequestMeasures;
use crate::model::usage::absurd;
use crate::refusal::Code;

impl Drop for Exchange {
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
        let upstream =
            self.forwarded.zip(self.answered).map(|(asked, head)| head.saturating_sub(asked));
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
        // Other details may say what a prompt or an answer would have reached.
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
    /// Notes a report of usage that cannot be true. What is recorded in its place is bounded all the same.
    fn believe(&self) {
        let Some((sent, server)) = self.sent.as_ref().zip(self.upstream.as_ref()) else { return };
        // An error brings no usage, or that of nothing.
        let Some(what) = absurd(*sent, &self.heard).filter(|_| self.upstream_status < 400) else {
            return;
        };
        if let Some(reports) = self.metrics.absurd_usage(&server.name, what, self.clock.monotonic())
        {
            let (upstream, what) = (&*server.name, what.as_str());
            tracing::warn!(request = %self.id, upstream, what, reports, "an upstream reports usage that cannot be true");
        }
    }

    /// Says in the log where a request, or its answer, would have led: the first of the places, by its host alone. Records name more.
    fn log_outbound(&self, agent: &str) {
        let (request, (named, count)) = (&self.id, &self.outbound);
        if let Some(outbound) = named.first() {
            let (host, reason, verdict) =
                (host(&outbound.target), outbound.reason, outbound.verdict);
            tracing::warn!(%request, agent, filter = "answer", host, reason, verdict, count, "uncontrolled destination");
        } else if self.code == Code::EgressUncontrolled.as_str() {
            let host = self.detail.as_deref().map_or_else(String::new, host);
            tracing::warn!(%request, agent, filter = "request", host, verdict = "block", "uncontrolled destination");
        }
    }
}

/// The host in what names a destination, with what else is said of it behind; nothing where it cannot be read.
fn host(target: &str) -> String {
    target
        .split(": ")
        .next()
        .and_then(|target| EgressPolicy::host(target.split(" (").next().unwrap_or(target)))
        .unwrap_or_default()
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
