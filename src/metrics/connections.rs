//! Metrics of callers' connections.

use prometheus::{IntCounter, Registry};

use super::counters;

/// Counts the connections that the gateway ended.
pub(super) struct Connections {
    floods: IntCounter,
}

impl Connections {
    /// Registers the counter.
    ///
    /// # Errors
    /// If its name is already registered.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let ended = counters(
            registry,
            "token_shield_connections_ended_total",
            "Connections of callers that the gateway ended for what came on them",
            &["reason"],
        )?;
        Ok(Self { floods: ended.with_label_values(&["flood"]) })
    }

    /// Counts a connection that ended because of its control frames.
    pub(super) fn flood(&self) {
        self.floods.inc();
    }
}
