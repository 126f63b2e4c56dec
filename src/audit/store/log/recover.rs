//! Resuming an epoch: checks that all acknowledged records are there, and repairs what a crash has
//! left after them.

mod heads;
mod segments;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::epoch::{EpochFolder, begun, make_folders, newest_epoch};
use super::fold::{Fold, fold};
use super::integrate::{CheckpointStart, Checkpointer};
use super::queue::RecoveredLog;
use super::reserve::Reserve;
use super::vkeys::Vkeys;
use super::writer::{LogFiles, RecordEncryptor, Segment};
use super::{LogFault, LogSettings};
use crate::audit::format::event::Event;
use crate::audit::format::head::HeadNote;
use crate::audit::format::journal::AcknowledgedTree;
use crate::audit::format::note::{Checkpoint, LogKeys};
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles};
use crate::audit::store::locked::locked;
use crate::audit::store::vault::Vault;
use crate::clock::Timestamp;
use crate::crypto::Draws;
use crate::durable::{self, Disk, Identity};
use crate::merkle::Tree;
use crate::merkle::proof::tree_at;
use crate::merkle::tile::{Edge, WIDTH, bundle_push};
use heads::{StoredHead, open_head, read_heads};
use segments::read_journal;

/// The content of a log when it was opened.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every record that the state is folded from, in order.
    pub records: Vec<Record>,
    /// An interrupted write that was cut off, for a message to the operator.
    pub torn: Option<Torn>,
}

/// An interrupted write that was cut off. None of its records was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: PathBuf,
    /// The offset of its first byte.
    pub offset: u64,
    /// Its number of bytes.
    pub bytes: u64,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { segment, offset, bytes } = self;
        write!(
            out,
            "an unfinished write of {bytes} bytes was cut off {} at byte {offset}; none of its \
                records was acknowledged",
            segment.display()
        )
    }
}

/// A log that is ready for its threads.
pub(super) struct Opened {
    pub(super) files: LogFiles,
    pub(super) encryptor: RecordEncryptor,
    pub(super) checkpointer: Checkpointer,
    pub(super) begin: RecoveredLog,
    pub(super) lock: durable::Lock,
    pub(super) recovered: Recovered,
    /// The first records of an epoch that has just begun, each with the operator who requested it.
    pub(super) first: Vec<(Event, Option<String>)>,
}

/// Parts that a process keeps from an open log, or takes over from another process.
#[derive(Default)]
pub(super) struct Carried {
    /// The lock of the newest epoch.
    pub(super) lock: Option<durable::Lock>,
    /// The record keys.
    pub(super) vault: Option<Arc<Mutex<Vault>>>,
}

/// Continues `epoch` as it was left, or begins the first epoch.
pub(super) fn resume(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    epoch: &EpochFolder,
    carried: Carried,
) -> Result<Opened, LogFault> {
    make_folders(settings, epoch)?;
    let lock = lock(epoch, carried.lock)?;
    let journal = epoch.journal();
    // An unknown name may be a segment that was renamed, so the start stops.
    let (paths, stray) = tiles::segments(&journal)?;
    if let Some(stray) = stray {
        return Err(LogFault::Stray(stray));
    }
    let found = tiles::checkpoint_note(&epoch.folder)?;
    let new = paths.is_empty() && found.is_none();
    let first = new && epoch.number == 1;
    settings.may_begin(first && !settings.head.exists())?;
    let vault = match carried.vault {
        Some(vault) => vault,
        None => Arc::new(Mutex::new(open_vault(settings, disk, first)?)),
    };
    // The head decides how much was acknowledged. It is read before the journal, which must reach
    // that size.
    let heads = read_heads(settings, epoch, new)?;
    let signer = epoch.signer(settings, new)?;
    let keys = signer.public(&epoch.origin)?;
    let basis = CheckpointState::read(epoch, &heads, found, &keys, settings)?;
    let read = read_journal(&paths, &basis, &heads, settings)?;
    // The keys are published only after these checks: other programs rely on them.
    epoch.publish(&keys, settings)?;
    let (torn, segment) = match read.last {
        Some(last) => (last.torn(), last.mend(&**disk)?),
        // No segment: a new epoch, or a crash while the epoch was being closed.
        None => (None, Segment::create(&**disk, &journal, basis.signed.size)?),
    };
    let mut segments = read.segments;
    segments.push((read.last_first, segment.identity.clone()));
    let (head_file, head) = open_head(&**disk, &settings.head)?;
    let head_identity = Identity::of(&head_file, &settings.head)?;
    let (edge, bundle) = (basis.edge, basis.bundle);
    let start = CheckpointStart { head, notes: heads.notes(), edge, bundle };
    let mut checkpointer = Checkpointer::new(settings, epoch, Arc::clone(disk), signer, start);
    let mut files = LogFiles {
        disk: Arc::clone(disk),
        journal,
        last: segment,
        head_file,
        head_identity,
        head: heads.head,
        head_doubtful: false,
        tree: read.tree,
    };
    if files.head.size < files.size() {
        // The batches after the head were just synced again. They are durable from now on.
        files.write_head()?;
        files.sync_head()?;
    }
    // The order counts: the checkpoint is finished before the cache is opened, and the cache before
    // the fold.
    let pending = finish(&mut checkpointer, read.pending, basis.unfinished)?;
    open_cache(settings, &mut checkpointer)?;
    super::sweep::sweep(&checkpointer)?;
    let Fold { records, at } = fold(settings, epoch, &mut checkpointer, &pending, &locked(&vault))?;
    // Only now, because the interrupted checkpoint and the sweep change these files.
    look_at_checkpoint(&mut checkpointer)?;
    let mut watched = watched(settings, epoch, &vault)?;
    watched.extend([files.head_identity.clone(), lock.identity().clone()]);
    let journal = Journal { watched, segments, pending, size: files.size(), at };
    let begin = begin(settings, disk, &checkpointer, journal)?;
    let encryptor = encryptor(settings, epoch, vault)?;
    let first = first_records(settings, epoch, files.size())?;
    let recovered = Recovered { records, torn };
    Ok(Opened { files, encryptor, checkpointer, begin, lock, recovered, first })
}

/// The files of keys that must not change while the log is open.
fn watched(
    settings: &LogSettings,
    epoch: &EpochFolder,
    vault: &Mutex<Vault>,
) -> Result<Vec<Identity>, LogFault> {
    let mut watched: Vec<Identity> = locked(vault).identity().cloned().into_iter().collect();
    watched.extend(epoch.key_identity(settings)?);
    Ok(watched)
}

/// Notes the files of the newest checkpoint.
fn look_at_checkpoint(checkpointer: &mut Checkpointer) -> Result<(), LogFault> {
    let found = super::checkpoint_files::look(&checkpointer.epoch, checkpointer.size());
    checkpointer.checkpoint_files = found.map_err(LogFault::at_start)?;
    Ok(())
}

/// The journal's content, and the files that it needs.
struct Journal {
    watched: Vec<Identity>,
    segments: Vec<(u64, Identity)>,
    pending: Vec<Vec<u8>>,
    size: u64,
    at: Timestamp,
}

/// The initial values of the queue.
fn begin(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    checkpointer: &Checkpointer,
    journal: Journal,
) -> Result<RecoveredLog, LogFault> {
    let (reserve, low) = take_reserve(settings, disk)?;
    let Journal { watched, segments, pending, size, at } = journal;
    Ok(RecoveredLog {
        epoch: checkpointer.epoch.clone(),
        vkeys: Vkeys::read(&settings.vkeys)?,
        watched,
        checkpoint_files: checkpointer.checkpoint_files.clone(),
        segments,
        reserve,
        low,
        pending,
        ragged: checkpointer.bundle.len(),
        size,
        signed: checkpointer.size(),
        at,
    })
}

/// The keys and salts that encrypt the epoch's records.
fn encryptor(
    settings: &LogSettings,
    epoch: &EpochFolder,
    vault: Arc<Mutex<Vault>>,
) -> Result<RecordEncryptor, LogFault> {
    let salts = Draws::new()?;
    Ok(RecordEncryptor {
        vault,
        salts,
        encrypted: settings.encrypted,
        origin: epoch.origin.as_str().into(),
    })
}

/// The lock of `epoch`: the one that was carried over, or a new one.
fn lock(epoch: &EpochFolder, carried: Option<durable::Lock>) -> Result<durable::Lock, LogFault> {
    match carried {
        Some(lock) if lock.identity().path() == lock_file(epoch) => Ok(lock),
        // The lock of the epoch before this one: an attempt to begin this one stopped after the
        // head had named it.
        Some(_) | None => take_lock(epoch),
    }
}

/// Opens the cache after an interrupted checkpoint is finished. The fold brings the cache up to
/// date from its end. A power failure may have removed the last records of the cache. With the size
/// of that checkpoint, the stamp would cover records that the cache lacks.
fn open_cache(settings: &LogSettings, checkpointer: &mut Checkpointer) -> Result<(), LogFault> {
    let missing = super::remains::are_missing(settings)?;
    checkpointer.cache = super::cache::Cache::open(&settings.cache, missing);
    if let Some(cache) = checkpointer.cache.as_mut() {
        super::remains::fill(settings, cache)?;
    }
    Ok(())
}

/// The first records of an epoch that has just begun. The first epoch begins without one.
fn first_records(
    settings: &LogSettings,
    epoch: &EpochFolder,
    size: u64,
) -> Result<Vec<(Event, Option<String>)>, LogFault> {
    if epoch.number == 1 || size > 0 {
        return Ok(Vec::new());
    }
    Ok(vec![(begun(settings, epoch)?, None)])
}

/// Opens the record keys. Only a new log has none: their file may be created then, and must exist
/// in every other case.
fn open_vault(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    is_first: bool,
) -> Result<Vault, LogFault> {
    let may_be_new = is_first && !settings.head.exists();
    if settings.encrypted && !may_be_new && !settings.record_keys.exists() {
        return Err(LogFault::RecordKeysMissing(settings.record_keys.clone()));
    }
    Ok(Vault::open_on(&settings.record_keys, Arc::clone(disk))?)
}

/// Fills the reserve at the start: on a full disk it is too late. The flag is true where the
/// reserve is not whole.
fn take_reserve(settings: &LogSettings, disk: &Arc<dyn Disk>) -> Result<(Reserve, bool), LogFault> {
    let mut reserve =
        Reserve::open(Arc::clone(disk), &settings.dir.join("reserve"), settings.reserve)?;
    let low = !reserve.fill();
    if low {
        let (bytes, whole, free) = (reserve.bytes(), reserve.whole_bytes(), reserve.free());
        let why = "the disk of the audit log is full: its reserve is not whole, and no new work \
            is admitted";
        tracing::error!(bytes, whole, ?free, "{why}");
    }
    Ok((reserve, low))
}

/// Finishes a checkpoint that is in the head but not in the folder. It gets the same bytes as in
/// the head. Returns the records after it.
fn finish(
    checkpointer: &mut Checkpointer,
    mut pending: Vec<Vec<u8>>,
    unfinished: Option<UnfinishedCheckpoint>,
) -> Result<Vec<Vec<u8>>, LogFault> {
    let Some(UnfinishedCheckpoint { note, size }) = unfinished else { return Ok(pending) };
    let count = usize::try_from(size - checkpointer.size()).unwrap_or(usize::MAX);
    let later = pending.split_off(count.min(pending.len()));
    checkpointer.sign_checkpoint(&pending, Some(&note))?;
    Ok(later)
}

/// Takes the epoch's lock.
pub(super) fn take_lock(epoch: &EpochFolder) -> Result<durable::Lock, LogFault> {
    let lock = lock_file(epoch);
    durable::Lock::take(&lock)?.ok_or(LogFault::Locked(lock))
}

/// The lock of the newest epoch, where `file` is a copy of the descriptor that has it.
pub(super) fn adopt(settings: &LogSettings, file: File) -> Result<durable::Lock, LogFault> {
    let path = lock_path(settings)?;
    durable::Lock::adopt(file, &path)?.ok_or(LogFault::Locked(path))
}

/// The path of the newest epoch's lock.
pub(super) fn lock_path(settings: &LogSettings) -> Result<PathBuf, LogFault> {
    let newest = newest_epoch(settings)?.unwrap_or(1);
    Ok(lock_file(&EpochFolder::new(settings, newest)?))
}

/// The path of an epoch's lock.
fn lock_file(epoch: &EpochFolder) -> PathBuf {
    epoch.folder.join("lock")
}

/// A checkpoint that is in the head but not in the folder.
struct UnfinishedCheckpoint {
    /// The signed note in the head.
    note: String,
    /// The number of records that it covers.
    size: u64,
}

/// The part of an epoch that its checkpoint covers.
struct CheckpointState {
    folder: PathBuf,
    signed: Checkpoint,
    edge: Edge,
    bundle: Vec<u8>,
    unfinished: Option<UnfinishedCheckpoint>,
    /// Signed or acknowledged sizes with their roots. The journal's tree must match each of them.
    marks: Vec<AcknowledgedTree>,
}

impl CheckpointState {
    /// Reads and verifies the checkpoint, its tree, and the checkpoint in the head.
    fn read(
        epoch: &EpochFolder,
        heads: &StoredHead,
        found: Option<String>,
        keys: &LogKeys,
        settings: &LogSettings,
    ) -> Result<Self, LogFault> {
        let signed = match found {
            Some(note) => {
                let path = epoch.folder.join("checkpoint");
                keys.open(&note).map_err(|fault| LogFault::note(&path, fault))?
            }
            None => Checkpoint { origin: epoch.origin.clone(), size: 0, root: Tree::new().root() },
        };
        let mut marks = vec![
            AcknowledgedTree { size: heads.head.size, root: heads.head.root },
            AcknowledgedTree { size: signed.size, root: signed.root },
        ];
        let mut unfinished = None;
        if let Some(HeadNote { note, .. }) = &heads.note {
            let noted = keys.open(note).map_err(|fault| LogFault::note(&settings.head, fault))?;
            // The head's note is written before the tiles, so a larger one means an interrupted
            // checkpoint.
            if noted.size > signed.size {
                unfinished = Some(UnfinishedCheckpoint { note: note.clone(), size: noted.size });
            }
            marks.push(AcknowledgedTree { size: noted.size, root: noted.root });
        }
        let tiles = Tiles::new(&epoch.folder, signed.size);
        let edge = Edge::load(signed.size, |tile| tiles.hashes(tile))?;
        // The signature alone is no proof of the tiles; the root is.
        if edge.tree().root() != signed.root {
            return Err(LogFault::Root(epoch.folder.clone()));
        }
        let mut bundle = Vec::new();
        if !signed.size.is_multiple_of(WIDTH) {
            for record in &tiles.bundle(signed.size / WIDTH)? {
                bundle_push(&mut bundle, record);
            }
        }
        Ok(Self { folder: epoch.folder.clone(), signed, edge, bundle, unfinished, marks })
    }

    /// The number of records that are signed or acknowledged.
    fn acknowledged(&self) -> u64 {
        let mut most = 0;
        for mark in &self.marks {
            most = mark.size.max(most);
        }
        most
    }

    /// The tree over the first `size` records. The checkpoint covers all of them.
    fn tree_at(&self, size: u64) -> Result<Tree, LogFault> {
        Ok(tree_at(&mut Tiles::new(&self.folder, self.signed.size), size)?)
    }
}

/// Opens an existing file for reads and writes.
fn open_for_writing(path: &Path) -> Result<File, LogFault> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(durable::DiskFault::of("open", path))?)
}

/// A length in memory as a `u64`.
fn u64_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
