//! The metrics for Prometheus. Label values come from fixed sets: models and upstreams of the
//! config, operations, codes.

mod agents;
mod audit;
mod connections;
mod egress;
mod files;
mod process;
mod reports;
mod requests;
mod waits;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::model::usage::Absurd;
use crate::refusal::Code;

use agents::Agents;
use audit::Audit;
pub use audit::AuditGauges;
use connections::Connections;
use egress::Egress;
use files::Files;
use process::ProcessMetrics;
use requests::Requests;

/// The label of a model or agent that has no own label.
const OTHER: &str = "other";
/// The label if there is no value.
const NONE: &str = "none";

/// The measures of one request.
pub struct RequestMeasures<'r> {
    /// The model's canonical name.
    pub model: Option<&'r str>,
    /// The operation; empty if the path has none.
    pub operation: &'static str,
    /// `ok`, a refusal's code, `upstream-error` or `aborted`.
    pub code: &'static str,
    /// The agent.
    pub agent: Option<&'r str>,
    /// The upstream that the request was sent to.
    pub upstream: Option<&'r str>,
    /// Seconds from the request's head to the last byte.
    pub request_s: f64,
    /// Seconds until the request was sent to an upstream.
    pub overhead_s: f64,
    /// Seconds until the first byte of the answer.
    pub first_token_s: Option<f64>,
    /// Seconds until the upstream's head.
    pub upstream_s: Option<f64>,
    /// Input tokens that the upstream reported.
    pub tokens_in: u64,
    /// Output tokens that it reported.
    pub tokens_out: u64,
}

/// The reasons for refusing new requests: codes of refusals, and reasons without a code.
const UNREADY: [&str; 7] = [
    "audit-unavailable",
    "audit-full",
    "audit-resources",
    "audit-slow",
    "clock",
    "draining",
    "upstreams-down",
];

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    upstream_up: IntGaugeVec,
    files: Files,
    /// Slots at upstreams.
    pub waits: waits::Waits,
    egress: Egress,
    connections: Connections,
    reports: reports::Reports,
    audit: Audit,
    agents: IntGaugeVec,
    per_agent: Option<Agents>,
    process: ProcessMetrics,
}

/// The bounds of histograms: from 50 µs to 100 s.
const SECONDS: [f64; 18] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0, 30.0, 100.0,
];

/// Registers a metric and returns it.
///
/// # Errors
/// If the metric is invalid, or its name is already registered.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// The options of a histogram of seconds.
fn histogram(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(SECONDS.to_vec())
}

/// Registers a gauge.
fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
    register(registry, Gauge::new(name, help))
}

/// Registers a gauge of whole numbers.
fn int_gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help))
}

/// Registers gauges of whole numbers with one label.
fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), &[label]))
}

/// Registers counters with labels.
fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// Registers counters by `result`, `ok` or `refused`. Both exist from the start: `increase()` does
/// not see a series that begins with 1.
fn results(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
    let by = counters(registry, name, help, &["result"])?;
    for result in ["ok", "refused"] {
        // A lookup creates the series with value 0.
        let _ = by.with_label_values(&[result]);
    }
    Ok(by)
}

/// Registers the running version, as a label.
fn build_info(registry: &Registry) -> prometheus::Result<()> {
    let build =
        IntGaugeVec::new(Opts::new("token_shield_build_info", "The running version"), &["version"]);
    // The value is always 1: the information is in the label.
    register(registry, build)?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}

impl Metrics {
    /// Registers the metrics for the given models and upstreams. `agent_label` is the number of
    /// agents with their own label.
    ///
    /// # Errors
    /// If two metrics have the same name. It would be a bug.
    pub fn new(
        models: &[String],
        upstreams: &[String],
        agent_label: Option<usize>,
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        build_info(&registry)?;
        let upstream_up = gauges(
            &registry,
            "token_shield_upstream_up",
            "1 if the upstream counts as up, 0 after a failed dial or request",
            "upstream",
        )?;
        // An upstream counts as up until a dial or a request fails.
        for upstream in upstreams {
            upstream_up.with_label_values(&[upstream]).set(1);
        }
        let per_agent = match agent_label {
            Some(max) => Some(Agents::new(&registry, max)?),
            None => None,
        };
        Ok(Self {
            requests: Requests::new(&registry, models, upstreams)?,
            upstream_up,
            files: Files::new(&registry)?,
            waits: waits::Waits::new(&registry, upstreams)?,
            egress: Egress::new(&registry)?,
            connections: Connections::new(&registry)?,
            reports: reports::Reports::new(&registry, upstreams)?,
            audit: Audit::new(&registry)?,
            agents: gauges(&registry, "token_shield_agents", "Registered agents", "status")?,
            per_agent,
            process: ProcessMetrics::new(&registry)?,
            registry,
        })
    }

    /// Counts a connection that ended because its peer sent more control frames than its budget
    /// allows.
    pub fn flood(&self) {
        self.connections.flood();
    }

    /// Counts an upstream's usage report that cannot be true. Returns the number since the last
    /// warning if a new warning is due at `now`, on the monotonic clock.
    #[must_use]
    pub fn absurd_usage(&self, upstream: &str, what: Absurd, now: Duration) -> Option<u64> {
        self.reports.absurd(upstream, what, now)
    }

    /// Counts a request that begins.
    pub fn began(&self) {
        self.requests.began();
    }

    /// Counts bytes of content that were put into a request.
    pub fn fetched(&self, bytes: u64) {
        self.egress.fetched_bytes.inc_by(bytes);
    }

    /// Counts a decision of an egress filter, with its reason: for example `request` with `block`,
    /// `strip` or `inline`.
    pub fn egress(&self, filter: &str, verdict: &str, reason: &str) {
        self.egress.found.with_label_values(&[filter, verdict, reason]).inc();
    }

    /// Counts a refused request.
    pub fn refused(&self, code: Code) {
        self.requests.refused(code);
    }

    /// Records the measures of a request that has ended.
    pub fn answered(&self, answered: &RequestMeasures<'_>) {
        self.requests.answered(answered);
        if let Some(agents) = &self.per_agent
            && let Some(agent) = answered.agent
        {
            agents.count(agent);
        }
    }

    /// Counts how a token was verified: `hit`, `miss` or `refused`.
    pub fn token_cache(&self, result: &str) {
        self.requests.token_cache(result);
    }

    /// Sets whether an upstream is up.
    pub fn upstream_up(&self, upstream: &str, up: bool) {
        self.upstream_up.with_label_values(&[upstream]).set(i64::from(up));
    }

    /// Sets the expiry of the certificate in use, in seconds since 1970.
    pub fn certificate_expiry(&self, seconds: f64) {
        self.files.certificate_expiry.set(seconds);
    }

    /// Counts a reload: `ok` or `refused`.
    pub fn config_reload(&self, result: &str) {
        self.files.config_reloads.with_label_values(&[result]).inc();
    }

    /// Counts a read of a JWK Set: `ok`, or `refused` if it failed.
    pub fn jwks_read(&self, result: &str) {
        self.files.jwks_reads.with_label_values(&[result]).inc();
    }

    /// Counts a read of a changed certificate: `ok`, or `refused` if it cannot be used.
    pub fn certificate_read(&self, result: &str) {
        self.files.certificate_reads.with_label_values(&[result]).inc();
    }

    /// Sets the number of keys that have signed no live token for the time in their issuer's
    /// config.
    pub fn idle_keys(&self, count: usize) {
        self.files.idle_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a record of that kind.
    pub fn audit_record(&self, kind: &str) {
        self.audit.records.with_label_values(&[kind]).inc();
    }

    /// Sets how long the oldest record without a checkpoint has been waiting.
    pub fn audit_checkpoint_age(&self, seconds: f64) {
        self.audit.checkpoint_age.set(seconds);
    }

    /// Sets the gauges of the log and its disk.
    pub fn audit_gauges(&self, gauges: &AuditGauges) {
        self.audit.set(gauges);
    }

    /// Sets the reasons for refusing new requests. Empty if requests are accepted.
    pub fn unready(&self, reasons: &[&str]) {
        // Each reason has a series, also with value 0, so that an alert can see the change.
        for reason in UNREADY {
            self.audit
                .unready
                .with_label_values(&[reason])
                .set(i64::from(reasons.contains(&reason)));
        }
    }

    /// Sets how far the wall clock is behind the recorded time.
    pub fn clock_behind(&self, seconds: f64) {
        self.audit.clock_behind.set(seconds);
    }

    /// Records the duration of a sync of the journal.
    pub fn audit_sync(&self, seconds: f64) {
        self.audit.sync.observe(seconds);
    }

    /// Sets the number of registered agents with a status.
    pub fn agents(&self, status: &str, count: usize) {
        self.agents.with_label_values(&[status]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The names of all metrics, including those without values.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        // `gather` omits a vector without values, so their names are added here.
        let vectors: [&dyn Collector; 6] = [
            &self.audit.unready,
            &self.requests.by_code,
            &self.upstream_up,
            &self.files.config_reloads,
            &self.audit.records,
            &self.agents,
        ];
        let mut names = Vec::new();
        for vector in vectors {
            for about in vector.desc() {
                names.push(about.fq_name.clone());
            }
        }
        for family in self.registry.gather() {
            names.push(family.name().to_owned());
        }
        names
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// If a metric cannot be encoded.
    pub fn text(&self) -> prometheus::Result<String> {
        self.process.read();
        // The source counts by itself. The counter is raised by the difference, because it cannot
        // be set.
        self.audit
            .log_lines_dropped
            .inc_by(crate::log_lines::dropped().saturating_sub(self.audit.log_lines_dropped.get()));
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        // The encoder writes only UTF-8.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests;
