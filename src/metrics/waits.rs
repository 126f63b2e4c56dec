//! Metrics of the slots at upstreams, and of the requests that wait for one.

use prometheus::{HistogramVec, IntGaugeVec, Registry};

use super::{gauges, histogram, register};

/// The metrics of slots and waits, by upstream.
pub struct Waits {
    waiting: IntGaugeVec,
    held: IntGaugeVec,
    seconds: HistogramVec,
}

impl Waits {
    /// Registers the metrics for the configured upstreams.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(registry: &Registry, upstreams: &[String]) -> prometheus::Result<Self> {
        let seconds = histogram(
            "token_shield_upstream_wait_seconds",
            "How long requests waited for a place at an upstream",
        );
        let waits = Self {
            waiting: gauges(
                registry,
                "token_shield_upstream_waiting",
                "Requests that wait for a place at an upstream",
                "upstream",
            )?,
            held: gauges(
                registry,
                "token_shield_upstream_in_flight",
                "Places in use at an upstream",
                "upstream",
            )?,
            seconds: register(registry, HistogramVec::new(seconds, &["upstream"]))?,
        };
        // Created at the start with value 0: Prometheus does not see an increase from a missing
        // series.
        for upstream in upstreams {
            waits.waiting(upstream, 0);
            waits.held(upstream, 0);
            let _ = waits.seconds.with_label_values(&[upstream]);
        }
        Ok(waits)
    }

    /// Sets the number of requests that wait.
    pub fn waiting(&self, upstream: &str, count: usize) {
        self.waiting.with_label_values(&[upstream]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of slots that are in use.
    pub fn held(&self, upstream: &str, count: u64) {
        self.held.with_label_values(&[upstream]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Records that a request waited for `seconds`, with or without success.
    pub fn waited(&self, upstream: &str, seconds: f64) {
        self.seconds.with_label_values(&[upstream]).observe(seconds);
    }
}
