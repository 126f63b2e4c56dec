//! The machine's disk with one injected fault.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use token_shield::clock::ManualClock;
use token_shield::durable::{Disk, SystemDisk};

use super::START;

/// Too many open files.
pub(super) const EMFILE: i32 = 24;

/// The kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No fault.
    None,
    /// One call fails, as on a broken disk.
    Broken,
    /// One call finds no free space.
    Full,
    /// One call is interrupted by a signal (EINTR).
    Interrupted,
    /// One call finds no free descriptor (EMFILE).
    Descriptors,
    /// One write ends in the middle.
    Short,
    /// One sync fails, and the data that it should have made durable is lost later. Later syncs
    /// succeed.
    Sync,
    /// From this call on, every rename fails.
    Rename,
    /// From this call on, every removal fails.
    Unlink,
    /// From this call on, every change fails.
    ReadOnly,
    /// One sync does not return.
    Hang,
    /// A power failure. Data that was not synced is lost.
    Cut,
    /// A power failure. Of the data that was not synced, only writes to the head survive: a disk
    /// may write in any order.
    CutButHead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Write,
    Sync,
    Create,
    MakeDir,
    SyncDir,
    Rename,
    Unlink,
    Allocate,
    Resize,
}

/// A call to the disk.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) path: PathBuf,
    /// The log created the file and has not synced it. A write to it needs free space.
    pub(super) fresh: bool,
}

impl Kind {
    /// Whether this kind makes a call of that operation fail.
    pub(super) fn hits(self, op: Op) -> bool {
        match self {
            Self::None => false,
            Self::Broken
            | Self::Full
            | Self::Interrupted
            | Self::Descriptors
            | Self::Cut
            | Self::CutButHead => true,
            Self::Short => op == Op::Write,
            Self::Sync | Self::Hang => matches!(op, Op::Sync | Op::SyncDir),
            Self::Rename => op == Op::Rename,
            Self::Unlink => op == Op::Unlink,
            Self::ReadOnly => !matches!(op, Op::Sync | Op::SyncDir),
        }
    }

    /// Whether all later calls fail too.
    pub(super) fn lasts(self) -> bool {
        matches!(self, Self::Rename | Self::Unlink | Self::ReadOnly | Self::Cut | Self::CutButHead)
    }

    /// Whether the log must continue after it.
    pub(super) fn passes(self, call: &Call) -> bool {
        match call.op {
            // A reserve that cannot be allocated or released is no loss. New work waits until it is
            // complete.
            Op::Allocate | Op::Resize => true,
            // The log waits until a shortage ends, at every step.
            Op::Write
            | Op::Sync
            | Op::Create
            | Op::MakeDir
            | Op::Rename
            | Op::SyncDir
            | Op::Unlink => {
                matches!(self, Self::Full | Self::Interrupted | Self::Descriptors)
            }
        }
    }
}

/// The former state that returns when a sync has lost its data.
enum Undo {
    Bytes { file: File, offset: u64, bytes: Vec<u8>, length: u64 },
    Name { path: PathBuf, before: Option<Vec<u8>> },
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    fired: Option<Call>,
    /// Files that were created and not synced since.
    fresh: HashSet<u64>,
    unsynced: HashMap<u64, Vec<Undo>>,
    names: HashMap<PathBuf, Vec<Undo>>,
    lost: Vec<Undo>,
    released: bool,
}

impl Inner {
    /// A power failure: names and bytes that were not synced are lost.
    fn cut(&mut self, but_head: bool) {
        let names = self.names.drain().flat_map(|(_, names)| names);
        let names: Vec<Undo> = names.collect();
        let bytes = self.unsynced.drain().flat_map(|(_, bytes)| bytes);
        let kept = |undo: &Undo| match undo {
            Undo::Bytes { file, .. } => but_head && path_of(file).ends_with("head"),
            Undo::Name { .. } => false,
        };
        // The list is undone from its end. Bytes must be undone before the names of their files.
        self.lost.extend(names.into_iter().chain(bytes.filter(|undo| !kept(undo))));
    }
}

/// The result of a call.
enum Verdict {
    Pass,
    Half,
    Fail(io::ErrorKind),
    /// There is no free descriptor.
    Descriptors,
}

/// The machine's disk, with one fault at call number `at`, counted from 1.
pub(super) struct Faulty {
    pub(super) kind: Kind,
    at: usize,
    pub(super) clock: Arc<ManualClock>,
    inner: Mutex<Inner>,
    gate: Condvar,
}

impl Faulty {
    pub(super) fn new(kind: Kind, at: usize) -> Arc<Self> {
        let clock = Arc::new(ManualClock::at(START));
        Arc::new(Self { kind, at, clock, inner: Mutex::default(), gate: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("lock")
    }

    pub(super) fn fired(&self) -> Option<Call> {
        self.lock().fired.clone()
    }

    /// Counts a call and decides how it ends.
    fn judge(&self, op: Op, path: &Path, file: Option<&File>) -> io::Result<Verdict> {
        let mut inner = self.lock();
        let inode = file.map(File::metadata).transpose()?.map(|about| about.ino());
        let fresh = inode.is_some_and(|inode| inner.fresh.contains(&inode));
        let call = Call { op, path: path.to_owned(), fresh };
        inner.calls.push(call.clone());
        let number = inner.calls.len();
        if !(number == self.at || self.kind.lasts() && number > self.at) || !self.kind.hits(op) {
            return Ok(Verdict::Pass);
        }
        let first = inner.fired.is_none();
        inner.fired.get_or_insert(call);
        if first && matches!(self.kind, Kind::Cut | Kind::CutButHead) {
            inner.cut(self.kind == Kind::CutButHead);
        }
        Ok(Verdict::Fail(match self.kind {
            Kind::Short => return Ok(Verdict::Half),
            Kind::Descriptors => return Ok(Verdict::Descriptors),
            Kind::Hang => {
                // Only time advances during the hang.
                self.clock.advance(Duration::from_secs(130));
                drop(self.gate.wait_while(inner, |inner| !inner.released).expect("lock"));
                io::ErrorKind::TimedOut
            }
            Kind::Sync => {
                let gone = match inode {
                    Some(inode) => inner.unsynced.remove(&inode),
                    None => inner.names.remove(path),
                };
                inner.lost.extend(gone.unwrap_or_default());
                io::ErrorKind::Other
            }
            Kind::Full => io::ErrorKind::StorageFull,
            Kind::Interrupted => io::ErrorKind::Interrupted,
            Kind::Rename | Kind::Unlink => io::ErrorKind::PermissionDenied,
            Kind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Kind::None | Kind::Broken | Kind::Cut | Kind::CutButHead => io::ErrorKind::Other,
        }))
    }

    fn call<T>(
        &self,
        op: Op,
        path: &Path,
        file: Option<&File>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self.judge(op, path, file)? {
            Verdict::Pass => act(),
            Verdict::Half | Verdict::Fail(io::ErrorKind::Other) => {
                Err(io::Error::other("injected"))
            }
            Verdict::Fail(kind) => Err(kind.into()),
            Verdict::Descriptors => Err(io::Error::from_raw_os_error(EMFILE)),
        }
    }

    /// Notes that the name `path` is not durable until its folder is synced.
    fn named(&self, path: &Path, before: Option<Vec<u8>>) {
        let undo = Undo::Name { path: path.to_owned(), before };
        let folder = path.parent().expect("folder").to_owned();
        self.lock().names.entry(folder).or_default().push(undo);
    }

    /// Restores what a start finds: everything that a failed sync should have made durable is as it
    /// was before.
    pub(super) fn settle(&self) {
        for undo in std::mem::take(&mut self.lock().lost).into_iter().rev() {
            match undo {
                Undo::Bytes { file, offset, bytes, length } => {
                    file.write_all_at(&bytes, offset)
                        .and_then(|()| file.set_len(length))
                        .expect("settle");
                }
                Undo::Name { path, before: Some(before) } => {
                    fs::create_dir_all(path.parent().expect("folder")).expect("settle");
                    fs::write(path, before).expect("settle");
                }
                Undo::Name { path, before: None } => drop(fs::remove_file(path)),
            }
        }
    }

    /// The calls so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    pub(super) fn release(&self) {
        self.lock().released = true;
        self.gate.notify_all();
    }
}

fn path_of(file: &File) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("path")
}

impl Disk for Faulty {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (inode, length) = (file.metadata()?.ino(), file.metadata()?.len());
        let verdict = self.judge(Op::Write, &path_of(file), Some(file))?;
        let most = usize::try_from(length.saturating_sub(offset)).expect("small").min(bytes.len());
        let mut before = vec![0; most];
        file.read_exact_at(&mut before, offset)?;
        let undo = Undo::Bytes { file: file.try_clone()?, offset, bytes: before, length };
        match verdict {
            Verdict::Fail(io::ErrorKind::Other) => return Err(io::Error::other("injected")),
            Verdict::Fail(kind) => return Err(kind.into()),
            Verdict::Descriptors => return Err(io::Error::from_raw_os_error(EMFILE)),
            Verdict::Half => {
                file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
                return Err(io::ErrorKind::WriteZero.into());
            }
            Verdict::Pass => self.lock().unsynced.entry(inode).or_default().push(undo),
        }
        SystemDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.call(Op::Sync, &path_of(file), Some(file), || {
            let (inode, mut inner) = (file.metadata()?.ino(), self.lock());
            inner.unsynced.remove(&inode);
            inner.fresh.remove(&inode);
            Ok(())
        })
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let new = !path.exists();
        let file = self.call(Op::Create, path, None, || SystemDisk.create(path))?;
        if new {
            self.named(path, None);
        }
        let (inode, mut inner) = (file.metadata()?.ino(), self.lock());
        inner.fresh.insert(inode);
        // The file is emptied, so lost earlier content has no effect.
        inner.unsynced.remove(&inode);
        inner.lost.retain(|undo| match undo {
            Undo::Bytes { file, .. } => !file.metadata().is_ok_and(|of| of.ino() == inode),
            Undo::Name { .. } => true,
        });
        drop(inner);
        Ok(file)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::MakeDir, path, None, || SystemDisk.make_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir, path, None, || {
            self.lock().names.remove(path);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let before = fs::read(to).ok();
        self.call(Op::Rename, to, None, || SystemDisk.rename(from, to))?;
        self.named(to, before);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let before = fs::read(path).ok();
        self.call(Op::Unlink, path, None, || SystemDisk.unlink(path))?;
        self.named(path, before);
        Ok(())
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(Op::Allocate, &path_of(file), Some(file), || SystemDisk.allocate(file, bytes))
    }

    fn resize(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(Op::Resize, &path_of(file), Some(file), || SystemDisk.resize(file, bytes))
    }
}
