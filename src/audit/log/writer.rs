//! The writer's thread: batches go to the disk here, and nowhere else.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::queue::{End, Shared, Waiting};
use super::{LogFault, Sealed};
use crate::audit::head::Head;
use crate::audit::journal::Builder;
use crate::audit::record::Record;
use crate::durable;
use crate::durable::Disk;
use crate::durable::Identity;
use crate::merkle::Tree;

/// Bytes of a new segment, all of them written as zeros before it is used, so that a batch changes no length and a full
/// disk is noticed between batches.
pub(super) const SEGMENT_BYTES: usize = 1024 * 1024;

/// Writes batches until the log closes or fails.
pub(super) fn run(shared: &Shared, mut files: Files) {
    let _end = End(shared);
    while let Some(work) = shared.take() {
        let Some((batch, after)) = gather(shared, &files, work) else {
            continue;
        };
        match files.append(&batch, after) {
            Ok(new_segment) => shared.written(new_segment, files.size()),
            Err(fault @ LogFault::NoSpace(_)) => shared.not_written(&fault),
            Err(fault) => return shared.fail(fault),
        }
    }
    if let Err(fault) = files.sync_head() {
        shared.fail(fault);
    }
}

/// One batch of all that waits, as far as it fits; those in it are handed to `shared` to be answered. `None`: nothing of it
/// could be recorded.
fn gather(shared: &Shared, files: &Files, mut work: VecDeque<Waiting>) -> Option<(Vec<u8>, Tree)> {
    let mut builder = Builder::new(files.tree.clone());
    let mut at = shared.state().at;
    let mut batch = Vec::with_capacity(work.len());
    while let Some(Waiting { event, by, then }) = work.pop_front() {
        let given = Record { at: shared.now_after(at), by, event };
        let bytes = given.encode();
        // Read back before it is written: a record that the next start could not read would end the log for good.
        let record = match Record::decode(&bytes) {
            Ok(record) => record,
            Err(fault) => {
                then(Err(fault.into()));
                continue;
            }
        };
        let Ok(index) = builder.push(&bytes) else {
            work.push_front(Waiting { event: given.event, by: given.by, then });
            break;
        };
        at = record.at;
        batch.push((then, Sealed { index, at, record }));
    }
    let any = !batch.is_empty();
    shared.begin_writing(batch, work);
    any.then(|| builder.finish())
}

/// The files of a log that has been recovered, and what is in them.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: PathBuf,
    pub(super) segments: Vec<Identity>,
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

    /// Every file that must stay as it is.
    pub(super) fn watched(&self) -> Vec<Identity> {
        let mut watched = self.segments.clone();
        watched.extend([self.last.identity.clone(), self.head_identity.clone()]);
        watched
    }

    /// Makes a batch durable, and gives the identity of a segment that had to be begun for it.
    fn append(&mut self, batch: &[u8], after: Tree) -> Result<Vec<Identity>, LogFault> {
        let mut begun = Vec::new();
        let length = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        if self.last.end.saturating_add(length) > self.last.identity.length() {
            // Crash here: a last segment of zeros, perhaps short, behind one that is full. A start fills it up.
            self.last = Segment::create(&*self.disk, &self.journal, self.size())?;
            self.sync_head()?;
            begun.push(self.last.identity.clone());
        }
        let path = self.last.identity.path();
        self.disk.write(&self.last.file, batch, self.last.end).map_err(durable::Fault::of("write", path))?;
        // Crash here: part of the batch, or all of it, beyond the head. Nobody was told. A start keeps it if it is whole and
        // cuts it off if not.
        self.disk.sync(&self.last.file).map_err(durable::Fault::of("sync", path))?;
        // Crash here: the batch is whole, and the head lags behind it. A start keeps it.
        self.last.identity.check()?;
        self.head_identity.check()?;
        self.last.end = self.last.end.saturating_add(length);
        self.tree = after;
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
            let _ = std::fs::remove_file(&path);
            LogFault::NoSpace(fault)
        })
    }

    fn filled(disk: &dyn Disk, journal: &Path, path: &Path) -> Result<Self, durable::Fault> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(durable::Fault::of("create", path))?;
        disk.write(&file, &vec![0; SEGMENT_BYTES], 0).map_err(durable::Fault::of("fill", path))?;
        disk.sync(&file).map_err(durable::Fault::of("sync", path))?;
        durable::sync_dir(journal)?;
        let identity = Identity::of(&file, path)?;
        Ok(Self { file, identity, end: 0 })
    }
}
