//! The writer's thread: batches go to the disk here, and nowhere else.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queue::{End, Shared, Waiting};
use super::{LogFault, Sealed};
use crate::audit::head::Head;
use crate::audit::journal::Builder;
use crate::audit::record::{RECORD_BYTES_MAX, Record, RecordFault, Seal};
use crate::audit::vault::Vault;
use crate::crypto::Draws;
use crate::durable;
use crate::durable::Disk;
use crate::durable::Identity;
use crate::id::Principal;
use crate::merkle::Tree;
use crate::seeded::{Seed, has};

/// Bytes of a new segment, all of them written as zeros before it is used, so that a batch changes no length and a full
/// disk is noticed between batches.
pub(super) const SEGMENT_BYTES: usize = 1024 * 1024;

/// Writes batches until the log closes or fails.
pub(super) fn run(shared: &Shared, mut files: Files, desk: &Desk) {
    let _end = End(shared);
    while let Some(work) = shared.take() {
        let Some(batch) = gather(shared, &files, desk, work) else {
            continue;
        };
        if has(Seed::AcknowledgedBeforeSync) {
            shared.written(None, batch.after.size(), batch.records.clone());
        }
        let mut written = desk.settle().and_then(|()| files.append(&batch.bytes, &batch.after));
        while let Err(LogFault::NoSpace(fault)) = &written
            && shared.give_room(fault)
        {
            written = desk.settle().and_then(|()| files.append(&batch.bytes, &batch.after));
        }
        match written {
            Ok(segment) => shared.written(segment, files.size(), batch.records),
            Err(fault @ LogFault::NoSpace(_)) => shared.not_written(&fault),
            Err(fault) => return shared.fail(fault),
        }
    }
    shared.begin_ending();
    if let Err(fault) = files.sync_head() {
        shared.fail(fault);
    }
}

/// What records are sealed with.
pub(super) struct Desk {
    pub(super) vault: Arc<Mutex<Vault>>,
    pub(super) salts: Draws,
    pub(super) sealed: bool,
    /// The log that is written: `<gateway name>/<epoch>`.
    pub(super) origin: Arc<str>,
}

impl Desk {
    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New record keys are on the disk before anything that they seal.
    fn settle(&self) -> Result<(), LogFault> {
        Ok(self.vault().sync()?)
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>, LogFault> {
        let mut vault = self.vault();
        let seal = if self.sealed {
            let principal = record.event.principal().map_or("", Principal::as_str);
            let (id, key) = vault.of(principal, record.at)?;
            Some(Seal { id, key, salt: if has(Seed::SaltReused) { [0; 16] } else { self.salts.next() } })
        } else {
            None
        };
        let bytes = record.encode(seal.as_ref());
        if bytes.len() > RECORD_BYTES_MAX {
            let most = RECORD_BYTES_MAX;
            return Err(RecordFault::TooLong { member: "the record", bytes: bytes.len(), most }.into());
        }
        Ok(bytes)
    }

    /// Encodes what is to be recorded. What changes the books is read back before it is written: a record that the next start
    /// could not read would end the log for good. Such a one comes back as that start will read it.
    fn write(&self, given: &Record) -> Result<(Vec<u8>, Option<Record>), LogFault> {
        let bytes = self.encode(given)?;
        if !given.event.is_control() {
            return Ok((bytes, None));
        }
        let read = Record::decode(&bytes, &*self.vault())?.ok_or(RecordFault::Closed)?;
        Ok((bytes, Some(read)))
    }
}

/// What goes to the disk at once.
struct Batch {
    bytes: Vec<u8>,
    after: Tree,
    records: Vec<Vec<u8>>,
}

/// One batch of all that waits, as far as it fits; those in it are handed to `shared` to be answered. `None`: nothing of it
/// could be recorded.
fn gather(shared: &Shared, files: &Files, desk: &Desk, mut work: VecDeque<Waiting>) -> Option<Batch> {
    let mut builder = Builder::new(files.tree.clone());
    let mut at = shared.state().at;
    let (mut answers, mut records) = (Vec::with_capacity(work.len()), Vec::with_capacity(work.len()));
    while let Some(Waiting { event, by, then }) = work.pop_front() {
        let given = Record { at: shared.now_after(at), by, event };
        let (bytes, read) = match desk.write(&given) {
            Ok(written) => written,
            Err(fault) => {
                then(Err(fault));
                continue;
            }
        };
        let Ok(index) = builder.push(&bytes) else {
            work.push_front(Waiting { event: given.event, by: given.by, then });
            break;
        };
        let record = read.unwrap_or(given);
        at = record.at;
        answers.push((then, Sealed { origin: Arc::clone(&desk.origin), index, at, record }));
        records.push(bytes);
    }
    let any = !answers.is_empty();
    shared.begin_writing(answers, work);
    any.then(|| {
        let (bytes, after) = builder.finish();
        Batch { bytes, after, records }
    })
}

/// The files of a log that has been recovered, and what is in them.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: PathBuf,
    pub(super) last: Segment,
    pub(super) head_file: File,
    pub(super) head_identity: Identity,
    /// The head as it was last written.
    pub(super) head: Head,
    pub(super) tree: Tree,
}

/// The segment that is being written.
pub(super) struct Segment {
    pub(super) file: File,
    pub(super) identity: Identity,
    /// Where the next batch goes.
    pub(super) end: u64,
}

impl Files {
    pub(super) const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Makes a batch durable, and gives the segment that had to be begun for it.
    fn append(&mut self, batch: &[u8], after: &Tree) -> Result<Option<(u64, Identity)>, LogFault> {
        let mut begun = None;
        let length = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        if self.last.end.saturating_add(length) > self.last.identity.length() {
            // Crash here: a last segment of zeros, perhaps short, behind one that is full. A start fills it up.
            self.last = Segment::create(&*self.disk, &self.journal, self.size())?;
            self.sync_head()?;
            begun = Some((self.size(), self.last.identity.clone()));
        }
        if has(Seed::HeadLeads) {
            self.tree = after.clone();
            self.write_head()?;
        }
        let path = self.last.identity.path();
        self.disk.write(&self.last.file, batch, self.last.end).map_err(durable::Fault::of("write", path))?;
        // Crash here: part of the batch, or all of it, beyond the head. Nobody was told. A start keeps it if it is whole and
        // cuts it off if not.
        if !has(Seed::JournalNotSynced) {
            let synced = self.disk.sync(&self.last.file).map_err(durable::Fault::of("sync", path));
            if !has(Seed::FailedSyncBelieved) {
                synced?;
            }
        }
        // Crash here: the batch is whole, and the head lags behind it. A start keeps it.
        if !has(Seed::ChangedFilesUnnoticed) {
            self.last.identity.check()?;
            self.head_identity.check()?;
        }
        self.last.end = self.last.end.saturating_add(length);
        self.tree = after.clone();
        self.write_head()?;
        // Crash here: everything is there, and nobody was told. Torn head: the other slot still has the head before.
        Ok(begun)
    }

    /// Writes the head for what is in the tree. It is not synced: after a power cut it may lag, which costs nothing, since it
    /// can only say less than what the journal's own sync has made sure of.
    pub(super) fn write_head(&mut self) -> Result<(), LogFault> {
        let head = Head {
            origin: self.head.origin.clone(),
            size: self.tree.size(),
            root: self.tree.root(),
            write: self.head.write.saturating_add(1),
        };
        let fault = durable::Fault::of("write", self.head_identity.path());
        self.disk.write(&self.head_file, &head.encode(), head.offset()).map_err(fault)?;
        self.head = head;
        Ok(())
    }

    pub(super) fn sync_head(&self) -> Result<(), LogFault> {
        Ok(self.disk.sync(&self.head_file).map_err(durable::Fault::of("sync", self.head_identity.path()))?)
    }
}

impl Segment {
    /// Makes the segment whose first record will be `first`: zeros, synced, its name too.
    pub(super) fn create(disk: &dyn Disk, journal: &Path, first: u64) -> Result<Self, LogFault> {
        let path = journal.join(format!("{first:020}"));
        Self::filled(disk, journal, &path).map_err(|fault| {
            if !matches!(fault.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return LogFault::Disk(fault);
            }
            // It holds nothing; what is left of it would be filled up at the next try, or the next start.
            let _ = disk.unlink(&path);
            LogFault::NoSpace(fault)
        })
    }

    fn filled(disk: &dyn Disk, journal: &Path, path: &Path) -> Result<Self, durable::Fault> {
        let file = disk.create(path).map_err(durable::Fault::of("create", path))?;
        disk.write(&file, &vec![0; SEGMENT_BYTES], 0).map_err(durable::Fault::of("fill", path))?;
        disk.sync(&file).map_err(durable::Fault::of("sync", path))?;
        disk.sync_dir(journal).map_err(durable::Fault::of("sync", journal))?;
        let identity = Identity::of(&file, path)?;
        Ok(Self { file, identity, end: 0 })
    }
}
