//! The reasons why a record is not in the log, or may not be in it.

use std::path::{Path, PathBuf};

use super::{QUEUE_MAX, SYNC_MAX};
use crate::audit::format::event::Event;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::HeadFault;
use crate::audit::format::journal::SegmentFault;
use crate::audit::format::note::NoteFault;
use crate::audit::read::tiles::{TileFault, epoch_name};
use crate::audit::store::vault::VaultFault;
use crate::crypto::EntropyFault;
use crate::durable;

/// The advice to the operator where a part of the log is missing.
const ADVICE: &str = "restore it from a backup, or confirm its loss: token-shield audit begin \
    --after-loss --reason …";

/// The reasons why a record is not in the log, or may not be in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogFault {
    /// Another process writes this log.
    #[error("{} is locked{}: another token-shield is running on this data folder; stop it, or talk \
        to it", .0.display(), held_by(.0))]
    Locked(PathBuf),
    /// The log does not exist, and may not be begun.
    #[error("there is no log in {}: serve, dev, restore and audit begin alone make \
        one", .0.display())]
    None(PathBuf),
    /// The log belongs to another user. That user's gateway could not read the files of this
    /// process.
    #[error("{} belongs to uid {owner}: run this as that user", path.display())]
    Owner {
        /// The log's folder.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// A folder of the data folder is a symbolic link.
    #[error(
        "{} is a symbolic link: no change was made, because the user who made the link chooses \
            where files are written; put the folder itself there (to keep the log on another disk, \
            set data = \"DIR\" to a folder there, or mount the disk)",
        .0.display()
    )]
    Symlink(PathBuf),
    /// A folder of the data folder has another owner than the data folder itself.
    #[error(
        "{} belongs to uid {owner}, and {} to uid {data_owner}: no change was made, because it is \
            not clear whose log this is; check the content, then give both to the gateway's user \
            (chown -R)",
        path.display(),
        data.display()
    )]
    TwoOwners {
        /// The folder in the data folder.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The data folder.
        data: PathBuf,
        /// The user id of the data folder's owner.
        data_owner: u32,
    },
    /// The gateway's name cannot be part of an origin.
    #[error("name {0:?} cannot name a log: write 1 to 200 visible ASCII characters, no '+'")]
    Name(String),
    /// The log was begun under another name.
    #[error(
        "this log belongs to {found}, not to {expected}: set the old name again, or begin with \
            another data folder"
    )]
    Origin {
        /// The name in the head.
        found: String,
        /// The name in the config.
        expected: String,
    },
    /// There are segments, but no head. Whether the log has lost its end is unknown.
    #[error("{} is missing, and the log is not empty: {ADVICE}", .0.display())]
    HeadMissing(PathBuf),
    /// A file that the newest checkpoint depends on is missing.
    #[error("{} is missing: {ADVICE}", .0.display())]
    Missing(PathBuf),
    /// The head cannot be decoded.
    #[error("{} is damaged: {fault}: {ADVICE}", path.display())]
    HeadDamaged {
        /// The head's file.
        path: PathBuf,
        /// The defect.
        fault: HeadFault,
    },
    /// The log has fewer records than it has acknowledged.
    #[error(
        "the log ends after record {size}, but {acknowledged} were acknowledged: records have \
            been lost or taken away: {ADVICE}"
    )]
    Behind {
        /// The number of records that are there.
        size: u64,
        /// The number of acknowledged records.
        acknowledged: u64,
    },
    /// A file that is not part of a journal, or a segment after a gap.
    #[error("{} does not belong there: the folder holds the journal alone, whose segments are \
        named after their first record, without a gap", .0.display())]
    Stray(PathBuf),
    /// A segment has changed since it was written.
    #[error("{}: {fault}: {ADVICE}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The defect.
        fault: SegmentFault<RecordFault>,
    },
    /// The journal begins after the end of the tiles, with a gap between.
    #[error(
        "records {signed} to {first} are neither in tiles nor in the journal: they have been lost \
            or taken away: {ADVICE}"
    )]
    Gap {
        /// The number of records in tiles.
        signed: u64,
        /// The index of the journal's first record.
        first: u64,
    },
    /// The root of the tree differs from its checkpoint.
    #[error("the tiles of {} do not have the root that its checkpoint signs: \
        {ADVICE}", .0.display())]
    Root(PathBuf),
    /// A tile or bundle is missing or damaged.
    #[error("{0}: {ADVICE}")]
    Tile(#[from] TileFault),
    /// A record cannot be decoded.
    #[error("{epoch}: record {index}: {fault}")]
    Record {
        /// The epoch.
        epoch: String,
        /// The record's index in it.
        index: u64,
        /// The defect.
        fault: RecordFault,
    },
    /// A checkpoint or a key of the log is invalid.
    #[error("{}: {fault}", path.display())]
    Note {
        /// The file that contains it.
        path: PathBuf,
        /// The defect.
        fault: NoteFault,
    },
    /// The checkpoint cannot be signed.
    #[error("the checkpoint cannot be signed: {0}")]
    Sign(#[from] NoteFault),
    /// The signing keys that the config names cannot be loaded.
    #[error("[audit] signing_key: {0}")]
    SigningKey(String),
    /// The signing keys of an epoch that continues are missing.
    #[error("{} is missing: {ADVICE}", .0.display())]
    KeyLost(PathBuf),
    /// A start after a loss was interrupted. It began a new epoch, but the record of the loss is
    /// missing.
    #[error(
        "a part of {0} is lost, and the epoch that records the loss was not finished: run \
            token-shield audit begin --after-loss --reason … again"
    )]
    LossUnsaid(String),
    /// The cache covers more records than the log has.
    #[error(
        "the log ends before record {size} of {epoch}, which its cache contains: an older log \
            has replaced this log (token-shield audit begin --after-loss --reason … accepts that)"
    )]
    CacheAhead {
        /// The epoch that the cache covers last.
        epoch: String,
        /// The number of its records that the cache covers.
        size: u64,
    },
    /// The records of an epoch were pruned, and the cache lacks those that the state needs.
    #[error(
        "the records of {epoch} were pruned, and {} does not have those that the state needs: \
            restore that file, or put the folder {epoch}/tile back from where token-shield audit \
            prune moved it",
        cache.display()
    )]
    Pruned {
        /// The epoch.
        epoch: String,
        /// The cache's file.
        cache: PathBuf,
    },
    /// The record keys are missing. No encrypted record can be read, and the state cannot be
    /// folded.
    #[error(
        "{} is missing, and what was recorded cannot be read without it: restore it from a backup; \
            where there is none, begin with another data folder",
        .0.display()
    )]
    RecordKeysMissing(PathBuf),
    /// The reserve is larger than the disk.
    #[error(
        "[audit] reserve is {reserve} bytes, and the disk of {} has {disk} in all: set a smaller \
            reserve in the config (reserve = \"4MiB\"), or a larger disk",
        path.display()
    )]
    ReserveTooLarge {
        /// The reserve's file.
        path: PathBuf,
        /// Bytes of the reserve.
        reserve: u64,
        /// Bytes of the disk.
        disk: u64,
    },
    /// A fault of the record keys.
    #[error(transparent)]
    Vault(#[from] VaultFault),
    /// The system gives no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFault),
    /// Only the reserve is left on the disk. New work is refused; a later retry can succeed.
    #[error("the disk is full: no new work is recorded until there is room again")]
    Low,
    /// The event has a name that does not fit into a record. It was not written.
    #[error("the event cannot be recorded: {0}")]
    Event(#[from] RecordFault),
    /// The queue is full. The event was not written; a later retry can succeed.
    #[error("the log has {QUEUE_MAX} records waiting")]
    Busy,
    /// There is no room for another segment. The event was not written; the log continues when
    /// there is room.
    #[error("no room for more records: {0}")]
    NoSpace(durable::DiskFault),
    /// Descriptors or memory are short. The event was not written; the log continues when there is
    /// enough.
    #[error("the log waits for what is short: {0}")]
    Short(durable::DiskFault),
    /// Fatal: a write or a sync failed. Whether the next start finds the record is unknown.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// Fatal: a file of the log is no longer the file that was opened.
    #[error("the log's files are not what they were: {0}")]
    Changed(#[from] durable::Changed),
    /// Fatal: a sync does not return.
    #[error("a sync has been running for more than {} s", SYNC_MAX.as_secs())]
    Hung,
    /// Fatal: the writer has ended unexpectedly.
    #[error("the log's writer has stopped")]
    Stopped,
    /// Another process has taken the log over; callers must retry there. The event was not written.
    #[error("process {0} has taken over the audit log: ask again, and it is asked")]
    Elsewhere(u32),
    /// The log was closed. The event was not written.
    #[error("the log is closed")]
    Closed,
}

/// The process that has the lock, as words for the message.
fn held_by(lock: &Path) -> String {
    durable::holder(lock).map_or_else(String::new, |id| format!(" by process {id}"))
}

impl LogFault {
    /// The fault of a record, by its epoch's number and its index.
    pub(super) fn record(epoch: u32, index: u64, fault: RecordFault) -> Self {
        Self::Record { epoch: epoch_name(epoch), index, fault }
    }

    /// The fault of a checkpoint or a key in the file `path`.
    pub(super) fn note(path: &Path, fault: NoteFault) -> Self {
        Self::Note { path: path.to_owned(), fault }
    }

    /// The fault of a step that counts as not done: a shortage that can pass, or a fault that ends
    /// the log.
    pub(crate) fn of_step(fault: durable::DiskFault) -> Self {
        if fault.is_full() {
            Self::NoSpace(fault)
        } else if fault.passes() {
            Self::Short(fault)
        } else {
            Self::Disk(fault)
        }
    }

    /// The same fault while a log is opened. Then a missing file was missing before this process
    /// started.
    pub(super) fn at_start(self) -> Self {
        // At a start there is no earlier file to compare with.
        let Self::Changed(durable::Changed::Missing(path)) = self else { return self };
        Self::Missing(path)
    }

    /// The fault of a check of a file: the file has changed, or the check itself lacks a resource.
    pub(super) fn of_change(changed: durable::Changed) -> Self {
        let durable::Changed::Unreadable(fault) = changed else { return Self::Changed(changed) };
        Self::of_step(fault)
    }

    /// The fault of a step with the record keys.
    pub(super) fn of_vault(fault: VaultFault) -> Self {
        match fault {
            VaultFault::Disk(fault) => Self::of_step(fault),
            VaultFault::Changed(changed) => Self::of_change(changed),
            VaultFault::Damaged { .. } | VaultFault::Entropy(_) | VaultFault::Unknown => {
                Self::Vault(fault)
            }
        }
    }

    /// Whether an event with this fault is kept: it waits for a resource, or the log ends. Such an
    /// event is not refused.
    pub(super) fn waits_or_ends(&self, event: &Event) -> bool {
        // New work can be refused during a shortage. Outcomes and commands must be recorded, so
        // they wait.
        if matches!(self, Self::NoSpace(_) | Self::Short(_)) {
            return !event.is_new_work();
        }
        // The log ends with these faults. The record then counts as not acknowledged.
        matches!(self, Self::Disk(_) | Self::Changed(_))
    }

    /// The resource that was short, where the log may be opened again later.
    pub(super) fn shortage_at_open(&self) -> Option<&durable::DiskFault> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "every other fault stays")]
        let fault = match self {
            Self::NoSpace(fault)
            | Self::Short(fault)
            | Self::Disk(fault)
            | Self::Tile(TileFault::Disk(fault))
            | Self::Vault(VaultFault::Disk(fault)) => fault,
            _ => return None,
        };
        if fault.passes() { Some(fault) } else { None }
    }

    /// The resource that is short, where the log waits for it.
    pub(super) const fn shortage(&self) -> Option<&durable::DiskFault> {
        if let Self::NoSpace(fault) | Self::Short(fault) = self { Some(fault) } else { None }
    }
}
