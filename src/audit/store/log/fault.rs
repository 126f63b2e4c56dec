//! Why a record is not, or may not be, in the log.

use std::path::{Path, PathBuf};

use super::{QUEUE_MAX, SYNC_MAX};
use crate::audit::format::event::Event;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::HeadFault;
use crate::audit::format::journal::SegmentFault;
use crate::audit::format::note::NoteFault;
use crate::audit::read::tiles::TileFault;
use crate::audit::store::vault::VaultFault;

use crate::crypto::EntropyFault;
use crate::durable;

/// What to do where something of the log is gone.
const ADVICE: &str = "restore it from a backup, or say that it is lost: token-shield audit begin --after-loss --reason …";

/// Why a record is not, or may not be, in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogFault {
    /// Another process writes this log.
    #[error("{} is locked{}: another token-shield is running on this data folder; stop it, or talk to it", .0.display(), held_by(.0))]
    Locked(PathBuf),
    /// There is no log, and none may be begun.
    #[error("there is no log in {}: serve, dev, restore and audit begin alone make one", .0.display())]
    None(PathBuf),
    /// The log is another user's: what this process writes there that user's gateway could not read.
    #[error("{} belongs to uid {owner}: run this as that user", path.display())]
    Owner {
        /// The log's folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A folder of the data folder is a symbolic link.
    #[error(
        "{} is a symbolic link: nothing was done, because whoever made it chooses what is written where; put the folder itself there (to keep the log on another disk, set data = \"DIR\" to a folder there, or mount the disk)",
        .0.display()
    )]
    Symlink(PathBuf),
    /// A folder of the data folder has another owner than the data folder.
    #[error(
        "{} belongs to uid {owner}, and {} to uid {data_owner}: nothing was done, because it is not clear whose log this is; look at what is in it, then give both to the gateway's user (chown -R)",
        path.display(),
        data.display()
    )]
    TwoOwners {
        /// The folder in the data folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// The data folder.
        data: PathBuf,
        /// Whose that is.
        data_owner: u32,
    },
    /// The gateway's name cannot be an origin's.
    #[error("name {0:?} cannot name a log: write 1 to 200 visible ASCII characters, no '+'")]
    Name(String),
    /// The log was begun under another name.
    #[error(
        "this log belongs to {found}, not to {expected}: set the old name again, or begin with another data folder"
    )]
    Origin {
        /// What the head says.
        found: String,
        /// What the config says.
        expected: String,
    },
    /// There are segments and no head: nobody can tell whether the log has lost its end.
    #[error("{} is missing, and the log is not empty: {ADVICE}", .0.display())]
    HeadMissing(PathBuf),
    /// Something that the newest checkpoint stands on is gone.
    #[error("{} is missing: {ADVICE}", .0.display())]
    Missing(PathBuf),
    /// There is a head that cannot be read.
    #[error("{} is damaged: {fault}: {ADVICE}", path.display())]
    HeadDamaged {
        /// The head's file.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeadFault,
    },
    /// The log holds less than it has acknowledged.
    #[error(
        "the log ends behind record {size}, but {acknowledged} were acknowledged: records have been lost or taken away: {ADVICE}"
    )]
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
    #[error("{}: {fault}: {ADVICE}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        fault: SegmentFault<RecordFault>,
    },
    /// The journal begins behind what the tiles hold.
    #[error(
        "records {signed} to {first} are neither in tiles nor in the journal: they have been lost or taken away: {ADVICE}"
    )]
    Gap {
        /// How many records are in tiles.
        signed: u64,
        /// Where the journal begins.
        first: u64,
    },
    /// The tree is not that of its checkpoint.
    #[error("the tiles of {} do not have the root that its checkpoint signs: {ADVICE}", .0.display())]
    Root(PathBuf),
    /// A tile or bundle.
    #[error("{0}: {ADVICE}")]
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
    #[error("{} is missing: {ADVICE}", .0.display())]
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
    /// The record keys are gone: nothing that was recorded can be read, and the books cannot be folded.
    #[error(
        "{} is missing, and what was recorded cannot be read without it: restore it from a backup; where there is none, begin with another data folder",
        .0.display()
    )]
    RecordKeysMissing(PathBuf),
    /// The reserve can never be whole.
    #[error(
        "[audit] reserve is {reserve} bytes, and the disk of {} has {disk} in all: set a smaller reserve in the config (reserve = \"4MiB\"), or a larger disk",
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
    NoSpace(durable::DiskFault),
    /// Something other than room is short: descriptors or memory. Nothing was written; the log goes on when there is some again.
    #[error("the log waits for what is short: {0}")]
    Short(durable::DiskFault),
    /// Fatal: the disk refused a write or a sync. The record may or may not be found at the next start.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// Fatal: a file of the log is not the one that was opened.
    #[error("the log's files are not what they were: {0}")]
    Changed(#[from] durable::Changed),
    /// Fatal: a sync did not come back.
    #[error("a sync has been running for more than {} s", SYNC_MAX.as_secs())]
    Hung,
    /// Fatal: the writer has ended where it should not.
    #[error("the log's writer has stopped")]
    Stopped,
    /// Another process has taken the log over, and is to be asked. Nothing was written.
    #[error("process {0} has taken over the audit log: ask again, and it is asked")]
    Elsewhere(u32),
    /// The log was closed. Nothing was written.
    #[error("the log is closed")]
    Closed,
}

/// Who holds the lock, in words.
fn held_by(lock: &Path) -> String {
    durable::holder(lock).map_or_else(String::new, |id| format!(" by process {id}"))
}

impl LogFault {
    /// The fault of a step of which nothing counts as done: a shortage that passes, or one that ends the log.
    pub(crate) fn of_step(fault: durable::DiskFault) -> Self {
        if fault.is_full() {
            Self::NoSpace(fault)
        } else if fault.passes() {
            Self::Short(fault)
        } else {
            Self::Disk(fault)
        }
    }

    /// The same fault for a log that is opened: what is gone was gone before.
    pub(super) fn at_start(self) -> Self {
        let Self::Changed(durable::Changed::Missing(path)) = self else { return self };
        Self::Missing(path)
    }

    /// The fault of a look at a file: it has changed, or something that a look needs is short.
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

    /// Whether a record of `event` is neither written nor refused for this: it waits for what is short, or the log ends.
    pub(super) fn waits_or_ends(&self, event: &Event) -> bool {
        if matches!(self, Self::NoSpace(_) | Self::Short(_)) {
            return !event.is_new_work();
        }
        matches!(self, Self::Disk(_) | Self::Changed(_))
    }

    /// What is short, where a log that could not be opened for it may be opened later.
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
        fault.passes().then_some(fault)
    }

    /// What is short, where waiting for it helps.
    pub(super) const fn shortage(&self) -> Option<&durable::DiskFault> {
        if let Self::NoSpace(fault) | Self::Short(fault) = self { Some(fault) } else { None }
    }
}
