//! The time limits of one answer, or of one request's body.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::proxy::activity::DeliveredBytes;

/// Time limits, with the clock that measures them.
pub struct Times {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The longest silence of either side.
    pub idle_max: Duration,
    /// The end of the whole request's time, on the monotonic clock.
    pub ends: Duration,
    /// The bytes that the caller took, if they are counted.
    pub reader: Option<Arc<DeliveredBytes>>,
}

impl Times {
    /// How long the next piece may take: the shorter one of the two limits.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.idle_max.min(self.ends.saturating_sub(self.clock.monotonic()))
    }
}
