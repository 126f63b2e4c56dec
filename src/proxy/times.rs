//! The time limits of one answer, or of one request's body.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::proxy::activity::DeliveredBytes;

/// Time limits, and what they are measured with.
pub struct Times {
    /// What they are measured with.
    pub clock: Arc<dyn Clock>,
    /// Longest silence of either side.
    pub idle_max: Duration,
    /// When the whole request has had its time, on the monotonic clock.
    pub ends: Duration,
    /// What the caller took, where that is known.
    pub reader: Option<Arc<DeliveredBytes>>,
}

impl Times {
    /// How long the next piece may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.idle_max.min(self.ends.saturating_sub(self.clock.monotonic()))
    }
}
