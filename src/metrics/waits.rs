//! What is measured of the places at upstreams, and of those who wait for one.

use prometheus::{HistogramVec, IntGaugeVec, Opts, Registry};

use super::{histogram, register};

/// By upstream.
pub struct Waits {
    waiting: IntGaugeVec,
    held: IntGaugeVec,
    seconds: HistogramVec,
}

impl Waits {
    pub(super) fn new(registry: &Registry, upstreams: &[String]) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), &["upstream"]))
        };
        let seconds = histogram(
            "token_shield_upstream_wait_seconds",
            "How long requests waited for a place at an upstream",
        );
        let waits = Self {
            waiting: gauge(
                "token_shield_upstream_waiting",
                "Requests that wait for a place at an upstream",
            )?,
            held: gauge("token_shield_upstream_in_flight", "Places in use at an upstream")?,
            seconds: register(registry, HistogramVec::new(seconds, &["upstream"]))?,
        };
        // From the start on: an increase from nothing is invisible.
        for upstream in upstreams {
            waits.waiting(upstream, 0);
            waits.held(upstream, 0);
            let _ = waits.seconds.with_label_values(&[upstream]);
        }
        Ok(waits)
    }

    /// So many requests wait.
    pub fn waiting(&self, upstream: &str, count: usize) {
        self.waiting.with_label_values(&[upstream]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many places are in use.
    pub fn held(&self, upstream: &str, count: u64) {
        self.held.with_label_values(&[upstream]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A request waited for so many seconds, whether it got a place or not.
    pub fn waited(&self, upstream: &str, seconds: f64) {
        self.seconds.with_label_values(&[upstream]).observe(seconds);
    }
}
