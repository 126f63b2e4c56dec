//! The writer's thread. Only this thread writes batches to the journal.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::queue::{QueuedEvent, SharedQueue, WriterEnd};
use super::shortage::LogThread;
use super::steps::step;
use super::{Appended, LogFault};
use crate::audit::format::envelope::RECORD_BYTES_MAX;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::Head;
use crate::audit::format::journal::Builder;
use crate::audit::format::key::EncryptionKey;
use crate::audit::format::record::Record;
use crate::audit::store::locked::locked;
use crate::audit::store::vault::Vault;
use crate::crypto::Draws;
use crate::durable;
use crate::durable::Disk;
use crate::durable::Identity;
use crate::failpoint::{Failpoint, is_armed};
use crate::id::Principal;
use crate::merkle::Tree;

/// The pause before a retry where a record key could not be written.
const KEY_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a new segment. All of them are written as zeros before the segment is used. A batch
/// therefore changes no file length, and a full disk is noticed between batches.
pub(super) const SEGMENT_BYTES: usize = 1024 * 1024;

/// Writes batches until the log closes or fails.
pub(super) fn run(shared: &SharedQueue, mut files: LogFiles, encryptor: &RecordEncryptor) {
    let _end = WriterEnd(shared);
    while let Some(work) = shared.take() {
        let written = match gather(shared, &files, encryptor, work) {
            Ok(None) => continue,
            Ok(Some(batch)) => write(shared, &mut files, encryptor, batch),
            // An event that may not be refused has no key yet. It is first in the queue again, so
            // its retry keeps the order.
            Err(fault) => match fault.shortage() {
                Some(shortage) if shared.wait_out(LogThread::Writer, shortage, KEY_PAUSE) => Ok(()),
                _ => Err(fault),
            },
        };
        if let Err(fault) = written {
            return shared.fail(fault);
        }
    }
    // The head is synced once at the end. During the epoch its size may lag; at a close it must be
    // exact on the disk.
    shared.begin_ending();
    if let Err(fault) = shared.patiently(LogThread::Writer, || files.sync_head()) {
        shared.fail(fault);
    }
}

/// Makes a batch durable, and answers its callers. Where a resource is short before the first byte
/// is written, the batch waits.
fn write(
    shared: &SharedQueue,
    files: &mut LogFiles,
    encryptor: &RecordEncryptor,
    batch: Batch,
) -> Result<(), LogFault> {
    if is_armed(Failpoint::AcknowledgedBeforeSync) {
        shared.written(batch.after.size(), batch.records.clone());
    }
    let length = batch.bytes.len();
    // A full disk takes room from the reserve first. Only when that fails, or another resource is
    // short, do new requests get refused.
    while let Err(fault) = prepare(shared, files, encryptor, length) {
        let Some(shortage) = fault.shortage() else { return Err(fault) };
        if !(shortage.is_full() && shared.give_room(shortage)) {
            shared.put_off(shortage);
            return shared
                .patiently(LogThread::Writer, || prepare(shared, files, encryptor, length));
        }
    }
    files.append(shared, &batch.bytes, &batch.after)?;
    shared.written(files.size(), batch.records);
    Ok(())
}

/// Makes the record keys durable, and makes room for a batch of that length.
fn prepare(
    shared: &SharedQueue,
    files: &mut LogFiles,
    encryptor: &RecordEncryptor,
    length: usize,
) -> Result<(), LogFault> {
    encryptor.settle()?;
    shared.begun(files.make_room(length)?);
    Ok(())
}

/// The keys and salts that encrypt records.
pub(super) struct RecordEncryptor {
    pub(super) vault: Arc<Mutex<Vault>>,
    pub(super) salts: Draws,
    pub(super) encrypted: bool,
    /// The origin of the log: `<gateway name>/<epoch>`.
    pub(super) origin: Arc<str>,
}

impl RecordEncryptor {
    /// Locks the record keys.
    fn vault(&self) -> MutexGuard<'_, Vault> {
        locked(&self.vault)
    }

    /// Syncs new record keys. They must be durable before a record under them, or a crash would
    /// leave a record that no key decrypts.
    fn settle(&self) -> Result<(), LogFault> {
        self.vault().sync().map_err(LogFault::of_vault)
    }

    /// Encodes a record, encrypted under its principal's key where the log is encrypted. Fails
    /// above [`RECORD_BYTES_MAX`].
    fn encode(&self, record: &Record) -> Result<Vec<u8>, LogFault> {
        let mut vault = self.vault();
        let key = if self.encrypted {
            // A record without a principal uses the key of the empty name.
            let principal = record.event.principal().map_or("", Principal::as_str);
            let (id, key) = vault.of(principal, record.at).map_err(LogFault::of_vault)?;
            Some(EncryptionKey { id, key, salt: self.salts.next() })
        } else {
            None
        };
        let bytes = record.encode(key.as_ref());
        if bytes.len() > RECORD_BYTES_MAX {
            let most = RECORD_BYTES_MAX;
            return Err(
                RecordFault::TooLong { member: "the record", bytes: bytes.len(), most }.into()
            );
        }
        Ok(bytes)
    }

    /// Encodes a record. One that changes the state is decoded again, and returned as a start reads
    /// it. A record that the next start could not read would end the log permanently.
    fn write(&self, given: &Record) -> Result<(Vec<u8>, Option<Record>), LogFault> {
        let bytes = self.encode(given)?;
        if !given.event.is_control() {
            return Ok((bytes, None));
        }
        // `None` from `decode` means a payload without a key. The key was just used, so that is a
        // fault here.
        let read = Record::decode(&bytes, &*self.vault())?.ok_or(RecordFault::Closed)?;
        Ok((bytes, Some(read)))
    }
}

/// The records that one sync makes durable.
struct Batch {
    bytes: Vec<u8>,
    after: Tree,
    records: Vec<Vec<u8>>,
}

/// Builds one batch of the waiting events, as far as they fit. Passes their callbacks to `shared`.
/// `None` where no event could be recorded.
///
/// # Errors
/// Without a batch, because a resource for its first record is short or the record keys cannot be
/// written. That record is first in the queue again.
fn gather(
    shared: &SharedQueue,
    files: &LogFiles,
    encryptor: &RecordEncryptor,
    mut work: VecDeque<QueuedEvent>,
) -> Result<Option<Batch>, LogFault> {
    let mut builder = Builder::new(files.tree.clone());
    let mut at = shared.state().at;
    let (mut answers, mut records) =
        (Vec::with_capacity(work.len()), Vec::with_capacity(work.len()));
    let mut ends = None;
    while let Some(QueuedEvent { event, by, then }) = work.pop_front() {
        let given = Record { at: shared.now_after(at), by, event };
        let (bytes, read) = match encryptor.write(&given) {
            Ok(written) => written,
            Err(fault) if fault.waits_or_ends(&given.event) => {
                work.push_front(QueuedEvent { event: given.event, by: given.by, then });
                ends = Some(fault);
                break;
            }
            Err(fault) => {
                then(Err(fault));
                continue;
            }
        };
        // The batch is full. The event starts the next batch.
        let Ok(index) = builder.push(&bytes) else {
            work.push_front(QueuedEvent { event: given.event, by: given.by, then });
            break;
        };
        let record = read.unwrap_or(given);
        at = record.at;
        answers.push((then, Appended { origin: Arc::clone(&encryptor.origin), index, at, record }));
        records.push(bytes);
    }
    let any = !answers.is_empty();
    // Before a byte is written: if the sync hangs, the watch answers these callers with the
    // failure.
    shared.begin_writing(answers, work);
    if !any && let Some(fault) = ends {
        return Err(fault);
    }
    Ok(any.then(|| {
        let (bytes, after) = builder.finish();
        Batch { bytes, after, records }
    }))
}

/// The open files of a recovered log, and their content.
pub(super) struct LogFiles {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: PathBuf,
    pub(super) last: Segment,
    pub(super) head_file: File,
    pub(super) head_identity: Identity,
    /// The head as it was last written.
    pub(super) head: Head,
    /// Whether a sync of the head has failed. It is written again before the next sync, because a
    /// failed sync may drop the written page.
    pub(super) head_doubtful: bool,
    pub(super) tree: Tree,
}

/// The segment that is being written.
pub(super) struct Segment {
    pub(super) file: File,
    pub(super) identity: Identity,
    /// The byte offset of the next batch.
    pub(super) end: u64,
}

impl LogFiles {
    /// The number of durable records.
    pub(super) const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Makes sure that the segment has room for a batch of that length. Returns the first index and
    /// identity of a new segment, if one was begun.
    fn make_room(&mut self, batch: usize) -> Result<Option<(u64, Identity)>, LogFault> {
        let length = u64::try_from(batch).unwrap_or(u64::MAX);
        if self.last.end.saturating_add(length) <= self.last.identity.length() {
            return Ok(None);
        }
        self.sync_head()?;
        // Crash after this: the last segment contains zeros, and may be short, after a full one. A
        // start fills it.
        self.last = Segment::create(&*self.disk, &self.journal, self.size())?;
        Ok(Some((self.size(), self.last.identity.clone())))
    }

    /// Makes a batch durable. The segment has room for it.
    fn append(&mut self, shared: &SharedQueue, batch: &[u8], after: &Tree) -> Result<(), LogFault> {
        if is_armed(Failpoint::HeadLeads) {
            self.tree = after.clone();
            self.write_head()?;
        }
        // Crash here: a part of the batch, or all of it, is after the head. No caller was answered.
        // A start keeps the batch if it is whole, and cuts it off if not.
        shared.patiently(LogThread::Writer, || self.put(batch))?;
        // Crash here: the batch is whole, and the head lags. A start keeps the batch.
        // Checked after the sync: a sync of a deleted or replaced file succeeds, but the next start
        // would not find the records.
        shared.patiently(LogThread::Writer, || self.check_files())?;
        self.last.end =
            self.last.end.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        self.tree = after.clone();
        shared.patiently(LogThread::Writer, || self.write_head())
        // Crash here: all is durable, and no caller was answered. If the head is torn, the other
        // slot still has the previous head.
    }

    /// Writes a batch into the journal and syncs it. After a shortage it may run again from the
    /// start: it writes the bytes of a failed sync again.
    fn put(&self, batch: &[u8]) -> Result<(), LogFault> {
        let path = self.last.identity.path();
        self.disk.write(&self.last.file, batch, self.last.end).map_err(step("write", path))?;
        if is_armed(Failpoint::JournalNotSynced) {
            return Ok(());
        }
        let synced = self.disk.sync(&self.last.file).map_err(step("sync", path));
        if is_armed(Failpoint::FailedSyncBelieved) { Ok(()) } else { synced }
    }

    /// Checks that the segment and the head are still the files that were opened.
    fn check_files(&self) -> Result<(), LogFault> {
        self.last.identity.check().map_err(LogFault::of_change)?;
        self.head_identity.check().map_err(LogFault::of_change)
    }

    /// Writes the head for the current tree, without a sync. After a power failure the head may
    /// lag. That loses no record: the journal is synced, and a lagging head only states less.
    pub(super) fn write_head(&mut self) -> Result<(), LogFault> {
        let head = Head {
            origin: self.head.origin.clone(),
            size: self.tree.size(),
            root: self.tree.root(),
            write: self.head.write.saturating_add(1),
        };
        let written = self.disk.write(&self.head_file, &head.encode(), head.offset());
        written.map_err(step("write", self.head_identity.path()))?;
        self.head = head;
        Ok(())
    }

    /// Syncs the head, and writes it again first where an earlier sync failed.
    pub(super) fn sync_head(&mut self) -> Result<(), LogFault> {
        if self.head_doubtful {
            self.write_head()?;
        }
        let synced = self
            .disk
            .sync(&self.head_file)
            .map_err(durable::DiskFault::of("sync", self.head_identity.path()));
        self.head_doubtful = synced.is_err();
        synced.map_err(LogFault::of_step)
    }
}

impl Segment {
    /// Makes the segment whose first record will be `first`: zeros, synced, its name too.
    pub(super) fn create(disk: &dyn Disk, journal: &Path, first: u64) -> Result<Self, LogFault> {
        let path = journal.join(format!("{first:020}"));
        Self::filled(disk, journal, &path).map_err(|fault| {
            if fault.passes() {
                // The file has no record. If this removal fails, the next try or start fills it.
                let _ = disk.unlink(&path);
            }
            LogFault::of_step(fault)
        })
    }

    /// Creates and fills the file of a segment, and syncs it and its name.
    fn filled(disk: &dyn Disk, journal: &Path, path: &Path) -> Result<Self, durable::DiskFault> {
        let file = disk.create(path).map_err(durable::DiskFault::of("create", path))?;
        disk.write(&file, &vec![0; SEGMENT_BYTES], 0)
            .map_err(durable::DiskFault::of("fill", path))?;
        disk.sync(&file).map_err(durable::DiskFault::of("sync", path))?;
        disk.sync_dir(journal).map_err(durable::DiskFault::of("sync", journal))?;
        let identity = Identity::of(&file, path)?;
        Ok(Self { file, identity, end: 0 })
    }
}
