//! Ids of requests. They are unique, reveal only the time, and need no system call.

use crate::clock::Timestamp;
use crate::crypto::{Draws, EntropyFault};
use crate::id::RequestId;

/// Makes the ids of a gateway's requests.
pub struct RequestIds(Draws);

impl RequestIds {
    /// A source with its own random key.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn new() -> Result<Self, EntropyFault> {
        Draws::new().map(Self)
    }

    /// The id of a request that arrives at `now`.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> RequestId {
        RequestId::new(now.0, u128::from_be_bytes(self.0.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_alike_in_one_source_or_in_two() {
        let sources = [RequestIds::new().expect("entropy"), RequestIds::new().expect("entropy")];
        let ids: HashSet<String> = (0..2000)
            .map(|number| sources[number % 2].next(Timestamp(1_790_000_000_000)).to_string())
            .collect();
        assert_eq!(ids.len(), 2000);
    }
}
