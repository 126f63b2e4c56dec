//! Why a record is not, or may not be, in the log.

use std::path::PathBuf;

use super::{QUEUE_MAX, SYNC_MAX};
use crate::audit::head::HeadFault;
use crate::audit::journal::SegmentFault;
use crate::audit::note::NoteFault;
use crate::audit::record::RecordFault;
use crate::audit::tiles::TileFault;
use crate::audit::vault::VaultFault;
use crate::crypto::EntropyFault;
use crate::durable;

/// Why a record is not, or may not be, in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogFault {
    /// Another process writes this log.
    #[error("{} is locked: another token-shield is running on this data folder; stop it, or talk to it", .0.display())]
    Locked(PathBuf),
    /// The gateway's name cannot be an origin's.
    #[error("name {0:?} cannot name a log: write 1 to 200 visible ASCII characters, no '+'")]
    Name(String),
    /// The log was begun under another name.
    #[error("this log belongs to {found}, not to {expected}: set the old name again, or begin with another data folder")]
    Origin {
        /// What the head says.
        found: String,
        /// What the config says.
        expected: String,
    },
    /// There are segments and no head: nobody can tell whether the log has lost its end.
    #[error("{} is missing, and the log is not empty: restore it from where it was last seen", .0.display())]
    HeadMissing(PathBuf),
    /// There is a head that cannot be read.
    #[error("{} is damaged: {fault}", path.display())]
    HeadDamaged {
        /// The head's file.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeadFault,
    },
    /// The log holds less than it has acknowledged.
    #[error("the log ends behind record {size}, but {acknowledged} were acknowledged: records have been lost or taken away")]
    Behind {
        /// How many records there are.
        size: u64,
        /// How many there were.
        acknowledged: u64,
    },
    /// A file that is no part of a journal, or a segment with a hole before it.
    #[error("{} does not belong there: the folder holds the journal alone, whose segments are named after their first record, without a gap", .0.display())]
    Stray(PathBuf),
    /// A segment is not as it was written.
    #[error("{}: {fault}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        fault: SegmentFault<RecordFault>,
    },
    /// The journal begins behind what the tiles hold.
    #[error("records {signed} to {first} are neither in tiles nor in the journal: they have been lost or taken away")]
    Gap {
        /// How many records are in tiles.
        signed: u64,
        /// Where the journal begins.
        first: u64,
    },
    /// The tree is not that of its checkpoint.
    #[error("the tiles of {} do not have the root that its checkpoint signs", .0.display())]
    Root(PathBuf),
    /// A tile or bundle.
    #[error(transparent)]
    Tile(#[from] TileFault),
    /// A record that cannot be read.
    #[error("{epoch}: record {index}: {fault}")]
    Record {
        /// The epoch.
        epoch: String,
        /// The record's index in it.
        index: u64,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// A checkpoint or a key of the log.
    #[error("{}: {fault}", path.display())]
    Note {
        /// Where it was found.
        path: PathBuf,
        /// What is wrong with it.
        fault: NoteFault,
    },
    /// The checkpoint cannot be signed.
    #[error("the checkpoint cannot be signed: {0}")]
    Sign(#[from] NoteFault),
    /// The signing keys, where the config names them.
    #[error("[audit] signing_key: {0}")]
    SigningKey(String),
    /// The signing keys of an epoch that goes on are gone.
    #[error("{} is missing: restore it, or begin a new epoch: token-shield audit begin --after-loss --reason …", .0.display())]
    KeyLost(PathBuf),
    /// A new epoch was begun because something of that one is lost, and that was not said yet.
    #[error(
        "something of {0} is lost, and an epoch that says so was not finished: token-shield audit begin --after-loss --reason … again"
    )]
    LossUnsaid(String),
    /// The cache has seen more of the log than there is.
    #[error(
        "the log ends before record {size} of {epoch}, which the cache of its books has seen: an older log was put in its place (token-shield audit begin --after-loss --reason … accepts that)"
    )]
    CacheAhead {
        /// The epoch that the cache has seen.
        epoch: String,
        /// How many of its records.
        size: u64,
    },
    /// The records of an epoch were moved away, and the cache does not have what the books need of them.
    #[error(
        "the records of {epoch} were pruned, and {} does not have what the books need of them: restore that file, or put the folder {epoch}/tile back from where token-shield audit prune moved it",
        cache.display()
    )]
    Pruned {
        /// The epoch.
        epoch: String,
        /// The cache's file.
        cache: PathBuf,
    },
    /// The record keys.
    #[error(transparent)]
    Vault(#[from] VaultFault),
    /// Randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFault),
    /// The disk is full but for the reserve: nothing new is admitted. Trying later helps.
    #[error("the disk is full: nothing new is recorded until there is room again")]
    Low,
    /// The event has a name that does not fit into a record. Nothing was written.
    #[error("the event cannot be recorded: {0}")]
    Event(#[from] RecordFault),
    /// Too much waits already. Nothing was written; trying later helps.
    #[error("the log has {QUEUE_MAX} records waiting")]
    Busy,
    /// There is no room for another segment. Nothing was written; the log goes on when there is room.
    #[error("no room for more records: {0}")]
    NoSpace(durable::Fault),
    /// Fatal: the disk refused a write or a sync. The record may or may not be found at the next start.
    #[error(transparent)]
    Disk(#[from] durable::Fault),
    /// Fatal: a file of the log is not the one that was opened.
    #[error("the log's files are not what they were: {0}")]
    Changed(#[from] durable::Changed),
    /// Fatal: a sync did not come back.
    #[error("a sync has been running for more than {} s", SYNC_MAX.as_secs())]
    Hung,
    /// Fatal: the writer has ended where it should not.
    #[error("the log's writer has stopped")]
    Stopped,
    /// The log was closed. Nothing was written.
    #[error("the log is closed")]
    Closed,
}
