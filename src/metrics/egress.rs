//! Metrics of the egress filters' decisions.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::{counters, register};

/// Decisions of the request filter and the response filter, and bytes of fetched content.
pub(super) struct Egress {
    pub(super) found: IntCounterVec,
    pub(super) fetched_bytes: IntCounter,
}

impl Egress {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let found = "Decisions of the egress filters";
        let fetched = IntCounter::new(
            "token_shield_fetched_bytes_total",
            "Bytes of content that was put into requests",
        );
        Ok(Self {
            found: counters(
                registry,
                "token_shield_egress_total",
                found,
                &["filter", "verdict", "reason"],
            )?,
            fetched_bytes: register(registry, fetched)?,
        })
    }
}
