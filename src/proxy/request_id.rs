//! Names of requests: unlike any other, telling nothing but the time, and made without a call to the system.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::crypto::{EntropyFault, entropy, sha256};
use crate::id::RequestId;

/// Makes the ids of a gateway's requests: SHA-256 of a key drawn at the start and a count, cut to what an id holds. Nobody
/// without the key can tell from one id what the next will be, nor how many lie between two.
pub struct RequestIds {
    key: [u8; 32],
    count: AtomicU64,
}

impl RequestIds {
    /// A source with a key of its own.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, EntropyFault> {
        Ok(Self { key: entropy()?, count: AtomicU64::new(0) })
    }

    /// The id of a request that comes at `now`.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> RequestId {
        let mut block = [0; 40];
        let (key, count) = block.split_at_mut(32);
        key.copy_from_slice(&self.key);
        count.copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let digest = sha256(&block);
        RequestId::new(now.0, digest[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_alike_in_one_source_or_in_two() {
        let sources = [RequestIds::new().expect("entropy"), RequestIds::new().expect("entropy")];
        let ids: HashSet<String> =
            (0..2000).map(|number| sources[number % 2].next(Timestamp(1_790_000_000_000)).to_string()).collect();
        assert_eq!(ids.len(), 2000);
    }
}
