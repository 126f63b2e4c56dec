//! Faults that are put in on purpose, so that tests can show that they would be noticed. Builds without the feature `seeded-faults`
//! have none of them: the question is a constant there.

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say what is done wrong")]
pub enum Seed {
    JournalNotSynced = 1,
    AcknowledgedBeforeSync,
    FailedSyncBelieved,
    HeadLeads,
    TilesNotSynced,
    NamesNotSynced,
    CheckpointBeforeTiles,
    CacheStampedAhead,
    ChangedFilesUnnoticed,
    LockIgnored,
    ClockGoesBack,
    SaltReused,
    DestroyedKeyKept,
    FullDiskIgnored,
    LeafHashWithoutPrefix,
    PostQuantumLineUnchecked,
    ClassicalLineUnchecked,
    PaddingUnchecked,
    HeadUnchecked,
    FormerCheckpointUnchecked,
    ForeignFilesUnnoticed,
    MissingRecordsUnasked,
    AdmissionNotAwaited,
    OutcomeNotAwaited,
    HostsComparedAsWritten,
    MappedAddressesBelieved,
    OwnUnasked,
    TokenUnasked,
    PortUnasked,
    SuffixWithoutDot,
    FirstAddressJudged,
    ResolvedAgain,
    UpstreamsByNameAlone,
    StatusUnasked,
    LabelBelieved,
    SizeUncounted,
    AllowanceUnasked,
    WindowOutgrown,
    ReasoningSkipped,
    DefinitionsForgotten,
    ReferencesUnread,
    UserinfoUnseen,
    FencesBelieved,
    TokensKept,
    HeldLost,
    ArgumentsRewritten,
    CallsLetGo,
    BlockedGoesOn,
}

#[cfg(feature = "seeded-faults")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Puts that fault into this process, or takes out the one that is there.
#[cfg(feature = "seeded-faults")]
pub fn plant(seed: Option<Seed>) {
    PLANTED.store(seed.map_or(0, |seed| seed as u8), std::sync::atomic::Ordering::SeqCst);
}

/// Whether that fault is in this process.
#[cfg(feature = "seeded-faults")]
#[must_use]
pub(crate) fn has(seed: Seed) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::SeqCst) == seed as u8
}

/// Whether that fault is in this process: never.
#[cfg(not(feature = "seeded-faults"))]
#[must_use]
pub(crate) const fn has(_: Seed) -> bool {
    false
}
