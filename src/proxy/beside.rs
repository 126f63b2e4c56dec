//! Work on long answers, beside the threads that serve connections.

use crate::proxy::exchange::Exchange;
use crate::refusal::{Code, Refusal};

/// Answers longer than this are parsed on a blocking thread, so that other requests do not wait (64
/// KiB).
const BESIDE_MIN: usize = 64 << 10;

/// Runs work on an answer of `bytes` bytes; above [`BESIDE_MIN`] on a blocking thread.
///
/// The work holds the slots and the room of the exchange until it is done, because it continues if
/// the caller leaves.
pub(super) async fn beside<T: Send + 'static>(
    bytes: usize,
    exchange: &mut Exchange,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if bytes <= BESIDE_MIN {
        return Ok(work());
    }
    // Moved into the closure: a caller that cancels must not free its slots while the work still
    // runs.
    let occupied = std::mem::take(&mut exchange.occupied);
    let done = tokio::task::spawn_blocking(move || (work(), occupied)).await;
    let (done, occupied) = done.map_err(|why| Refusal::new(Code::Internal).because(why))?;
    exchange.occupied = occupied;
    Ok(done)
}
