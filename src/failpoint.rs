//! Failpoints: faults in the order of disk writes and in durability, which tests arm.
//!
//! A test arms one, and shows that its check on a simulated disk fails then. Faults of any other
//! kind are patches in `tests/mutants/`. Without the feature `failpoints`, no failpoint is ever
//! armed, and the compiler removes the code for it.

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failpoint {
    /// The journal is written and not synced.
    JournalNotSynced = 1,
    /// Callers get their answer before the journal is synced.
    AcknowledgedBeforeSync,
    /// A failed sync of the journal is treated as a success.
    FailedSyncBelieved,
    /// The head is written before the batch that it covers.
    HeadLeads,
    /// The contents of tiles are not synced before the checkpoint.
    TilesNotSynced,
    /// The names of tiles are not synced before the checkpoint.
    NamesNotSynced,
    /// The checkpoint is published before its tiles are written.
    CheckpointBeforeTiles,
    /// New work on a full disk is recorded with the space of the reserve.
    FullDiskIgnored,
    /// A request is forwarded before its admission is durable.
    AdmissionNotAwaited,
    /// An answer is sent before its outcome is durable.
    OutcomeNotAwaited,
}

/// The armed failpoint's number; 0 if none is armed.
#[cfg(feature = "failpoints")]
static ARMED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Arms one failpoint in this process, and disarms the one before it.
#[cfg(feature = "failpoints")]
pub fn arm(failpoint: Option<Failpoint>) {
    let number = failpoint.map_or(0, |failpoint| failpoint as u8);
    ARMED.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// Whether this failpoint is armed in this process.
#[cfg(feature = "failpoints")]
#[must_use]
pub(crate) fn is_armed(failpoint: Failpoint) -> bool {
    ARMED.load(std::sync::atomic::Ordering::SeqCst) == failpoint as u8
}

/// Whether this failpoint is armed in this process. Never in this build.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub(crate) const fn is_armed(_: Failpoint) -> bool {
    false
}
