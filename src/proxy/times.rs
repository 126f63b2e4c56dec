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

/// The limits on a body that is read into memory.
pub struct ReadLimits {
    /// The largest size, in bytes.
    pub bytes_max: u64,
    /// The time limits.
    pub times: Times,
}

impl Times {
    /// The bytes that the caller took; 0 if they are not counted.
    #[must_use]
    pub fn taken(&self) -> u64 {
        match &self.reader {
            Some(reader) => reader.total(),
            None => 0,
        }
    }
    /// How long the next piece may take: the shorter one of the two limits.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.idle_max.min(self.ends.saturating_sub(self.clock.monotonic()))
    }
}
