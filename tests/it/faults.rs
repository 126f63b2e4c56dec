//! A disk that fails in every way at every call: nothing acknowledged is lost, and the log knows whether it can go on.

mod room;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;
use token_shield::audit::event::Event;
use token_shield::audit::log::{Log, LogFault, Recovered, Settings};
use token_shield::audit::note::read_vkeys;
use token_shield::audit::verify::{Seen, Wanted, verify};
use token_shield::clock::{Clock, ManualClock, SystemClock, Timestamp};
use token_shield::durable::{Disk, SystemDisk};
use token_shield::id::KeyId;

use crate::journal::copy_folder;

const START: Timestamp = Timestamp(1_790_000_000_000);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    None,
    /// One call fails, as a broken disk does.
    Broken,
    /// One call finds no room.
    Full,
    /// One call is interrupted by a signal, which a [`Disk`] promises never to tell.
    Interrupted,
    /// One write ends half way.
    Short,
    /// One sync fails, and what it was to make sure of is gone later; the syncs behind it report success.
    Sync,
    /// From there on nothing can be renamed.
    Rename,
    /// From there on nothing can be taken away.
    Unlink,
    /// From there on nothing can be changed.
    ReadOnly,
    /// One sync does not come back.
    Hang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
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

/// A call that was made.
#[derive(Clone, Debug)]
struct Call {
    op: Op,
    path: PathBuf,
    /// The file was made by the log and never synced: what is written to it takes room.
    fresh: bool,
}

impl Kind {
    /// Whether this kind makes a call of that sort fail.
    fn hits(self, op: Op) -> bool {
        match self {
            Self::None => false,
            Self::Broken | Self::Full | Self::Interrupted => true,
            Self::Short => op == Op::Write,
            Self::Sync | Self::Hang => matches!(op, Op::Sync | Op::SyncDir),
            Self::Rename => op == Op::Rename,
            Self::Unlink => op == Op::Unlink,
            Self::ReadOnly => !matches!(op, Op::Sync | Op::SyncDir),
        }
    }

    /// Whether the log must go on after it.
    fn passes(self, call: &Call) -> bool {
        match call.op {
            // A reserve that cannot be had or given is no loss: new work waits until it is whole.
            Op::Allocate | Op::Resize => true,
            // What is written in place has its room already, and a sync of names cannot be tried again.
            Op::Write | Op::Sync => self == Self::Full && call.fresh,
            Op::Create | Op::MakeDir | Op::Rename => self == Self::Full,
            Op::SyncDir => self == Self::Full && call.path.ends_with("journal"),
            Op::Unlink => false,
        }
    }
}

/// What is there again when a sync has lost what it was to make sure of.
enum Undo {
    Bytes { file: File, offset: u64, bytes: Vec<u8>, length: u64 },
    Name { path: PathBuf, before: Option<Vec<u8>> },
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    fired: Option<Call>,
    /// Files that were made and not synced since.
    fresh: HashSet<u64>,
    unsynced: HashMap<u64, Vec<Undo>>,
    names: HashMap<PathBuf, Vec<Undo>>,
    lost: Vec<Undo>,
    released: bool,
}

enum Verdict {
    Pass,
    Half,
    Fail(io::ErrorKind),
}

/// The machine's disk, on which one thing goes wrong at call number `at`, from 1.
struct Faulty {
    kind: Kind,
    at: usize,
    clock: Arc<ManualClock>,
    inner: Mutex<Inner>,
    gate: Condvar,
}

impl Faulty {
    fn new(kind: Kind, at: usize) -> Arc<Self> {
        let clock = Arc::new(ManualClock::at(START));
        Arc::new(Self { kind, at, clock, inner: Mutex::default(), gate: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("lock")
    }

    fn fired(&self) -> Option<Call> {
        self.lock().fired.clone()
    }

    /// Counts a call and says how it ends.
    fn judge(&self, op: Op, path: &Path, file: Option<&File>) -> io::Result<Verdict> {
        let mut inner = self.lock();
        let inode = file.map(File::metadata).transpose()?.map(|about| about.ino());
        let fresh = inode.is_some_and(|inode| inner.fresh.contains(&inode));
        let call = Call { op, path: path.to_owned(), fresh };
        inner.calls.push(call.clone());
        let lasting = matches!(self.kind, Kind::Rename | Kind::Unlink | Kind::ReadOnly);
        let number = inner.calls.len();
        if !(number == self.at || lasting && number > self.at) || !self.kind.hits(op) {
            return Ok(Verdict::Pass);
        }
        inner.fired.get_or_insert(call);
        Ok(Verdict::Fail(match self.kind {
            Kind::Short => return Ok(Verdict::Half),
            Kind::Hang => {
                // Time passes while nothing else does.
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
            Kind::None | Kind::Broken => io::ErrorKind::Other,
        }))
    }

    fn call<T>(&self, op: Op, path: &Path, file: Option<&File>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.judge(op, path, file)? {
            Verdict::Pass => act(),
            Verdict::Half | Verdict::Fail(io::ErrorKind::Other) => Err(io::Error::other("injected")),
            Verdict::Fail(kind) => Err(kind.into()),
        }
    }

    /// The names of `path` are not on the disk until its folder is synced.
    fn named(&self, path: &Path, before: Option<Vec<u8>>) {
        let undo = Undo::Name { path: path.to_owned(), before };
        let folder = path.parent().expect("folder").to_owned();
        self.lock().names.entry(folder).or_default().push(undo);
    }

    /// What a start finds: all that a failed sync was to make sure of is as it was before.
    fn settle(&self) {
        for undo in std::mem::take(&mut self.lock().lost).into_iter().rev() {
            match undo {
                Undo::Bytes { file, offset, bytes, length } => {
                    file.write_all_at(&bytes, offset).and_then(|()| file.set_len(length)).expect("settle");
                }
                Undo::Name { path, before: Some(before) } => fs::write(path, before).expect("settle"),
                Undo::Name { path, before: None } => drop(fs::remove_file(path)),
            }
        }
    }

    fn release(&self) {
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
        // Emptied: what was lost of it before is not missed.
        inner.unsynced.remove(&inode);
        inner.lost.retain(|undo| !matches!(undo, Undo::Bytes { file, .. } if file.metadata().is_ok_and(|of| of.ino() == inode)));
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
        self.call(Op::Unlink, path, None, || SystemDisk.unlink(path))
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(Op::Allocate, &path_of(file), Some(file), || SystemDisk.allocate(file, bytes))
    }

    fn resize(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.call(Op::Resize, &path_of(file), Some(file), || SystemDisk.resize(file, bytes))
    }
}

/// A folder in memory where there is room for one: thousands of starts need no platters.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("folder")
}

fn settings(data: &Path) -> Settings {
    Settings { reserve: 1 << 20, ..Settings::of_data(data, "gw.example") }
}

fn small(number: usize) -> Event {
    Event::KeyRevoked { kid: KeyId([7; 32]), reason: format!("number {number}") }
}

fn large(number: usize) -> Event {
    Event::KeyAdded { issuer: number.to_string(), jwk: "k".repeat(8000), kid: KeyId([0; 32]) }
}

/// Waits until `done` holds, for so long at the most; false where it does not come to that.
fn within(most: Duration, done: impl Fn() -> bool) -> bool {
    let clock = SystemClock::start();
    while !done() {
        if clock.monotonic() > most {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

/// A log that a crash has left: a checkpoint, records behind it, a segment and a tile that are almost full.
struct Base {
    data: TempDir,
    events: Vec<Event>,
}

impl Base {
    fn empty() -> Self {
        Self { data: folder(), events: Vec::new() }
    }

    fn grown() -> Self {
        let (live, data) = (folder(), folder());
        let clock = Arc::new(ManualClock::at(START));
        let (log, _) = Log::open(settings(live.path()), Arc::clone(&clock) as Arc<dyn Clock>).expect("log");
        let events: Vec<Event> = (0..238).map(|number| if number < 78 { large(number) } else { small(number) }).collect();
        for (number, event) in events.iter().enumerate() {
            log.seal_blocking(event.clone(), None).expect("sealed");
            if number == 200 {
                clock.advance(Duration::from_millis(300));
                log.want_checkpoint();
                assert!(within(Duration::from_secs(10), || log.state().signed == 201), "no checkpoint");
            }
        }
        copy_folder(live.path(), data.path());
        log.close().expect("closed");
        Self { data, events }
    }

    fn copy(&self) -> TempDir {
        let copy = folder();
        copy_folder(self.data.path(), copy.path());
        copy
    }
}

/// What was asked of a log, and what it said.
struct Told {
    /// Every event but those of which the log said that nothing was written.
    tried: Vec<Event>,
    acknowledged: Vec<(u64, Event)>,
}

/// Puts what there is under a checkpoint; where there was no room, once there is. Time goes on meanwhile: the log sets its
/// own dates by it, and would wait for ever for a clock that stands.
fn checkpoint(log: &Log, clock: &ManualClock) {
    let done = || {
        clock.advance(Duration::from_millis(10));
        log.want_checkpoint();
        let state = log.state();
        state.failed.is_some() || (!state.low && state.signed == state.size)
    };
    assert!(within(Duration::from_secs(10), done), "{:?}", log.state());
}

/// Opens the log of `data` on a disk that fails, uses and closes it, and looks at its health when it has failed.
fn script(data: &Path, disk: &Arc<Faulty>, told: &mut Told) {
    let clock = Arc::clone(&disk.clock);
    let opened = Log::open_on(settings(data), Arc::clone(&clock) as Arc<dyn Clock>, Arc::clone(disk) as Arc<dyn Disk>);
    let Ok((log, _)) = opened else {
        assert!(disk.fired().is_some(), "refused for nothing");
        return;
    };
    for number in 0..28 {
        let event = if number % 7 == 3 { large(number) } else { small(number) };
        match log.seal_blocking(event.clone(), None) {
            Ok(sealed) => {
                told.acknowledged.push((sealed.index, event.clone()));
                told.tried.push(event);
            }
            // Nothing was written, it says, so it must not be found.
            Err(LogFault::NoSpace(_)) => {}
            Err(_) => {
                told.tried.push(event);
                break;
            }
        }
        if number % 7 == 6 {
            checkpoint(&log, &clock);
        }
    }
    let fatal = |call: &Call| !disk.kind.passes(call);
    if let Some(call) = disk.fired().filter(|call| call.op != Op::Allocate) {
        if fatal(&call) {
            assert!(within(Duration::from_secs(1), || !log.healthy()), "well after {call:?}");
            log.seal_blocking(small(999), None).expect_err("a second try must not be believed");
        } else {
            assert!(log.healthy(), "ill after {call:?}: {:?}", log.state().failed);
        }
        assert_eq!(log.close().is_err(), fatal(&call), "{call:?}");
    } else {
        let closed = log.close();
        let failed = disk.fired().filter(|call| fatal(call) && call.op != Op::Allocate);
        assert!(closed.is_err() == failed.is_some() || disk.kind == Kind::ReadOnly, "{failed:?}: {closed:?}");
    }
}

/// Opens the log on the machine's disk: everything acknowledged is there, in order, and the verifier finds nothing.
fn judge(data: &Path, base: &Base, told: &Told) -> Vec<Seen> {
    let settings = settings(data);
    let (log, Recovered { records, .. }) =
        Log::open(settings.clone(), Arc::new(ManualClock::at(START.plus(Duration::from_secs(600))))).expect("mended");
    let found: Vec<&Event> = records.iter().map(|record| &record.event).collect();
    for (index, event) in &told.acknowledged {
        assert_eq!(found.get(usize::try_from(*index).expect("small")), Some(&event), "record {index} was acknowledged");
    }
    let mut expected = base.events.iter().chain(&told.tried);
    assert!(found.iter().all(|event| expected.any(|tried| tried == *event)), "another event, or another order");
    assert!(found.len() >= base.events.len() + told.acknowledged.len());
    log.seal_blocking(small(1000), None).expect("sealed");
    log.close().expect("closed");
    let keys = read_vkeys(&fs::read_to_string(&settings.vkeys).expect("keys")).expect("keys");
    let wanted = Wanted { dir: &settings.dir, keys: &keys, head: Some(&settings.head), since: None };
    verify(&wanted, |_, _| {}).unwrap_or_else(|fault| panic!("{fault}"))
}

/// One run of the script with one fault; the calls that were made.
fn run(base: &Base, kind: Kind, at: usize) -> Vec<Call> {
    let disk = Faulty::new(kind, at);
    let data = base.copy();
    let mut told = Told { tried: Vec::new(), acknowledged: Vec::new() };
    script(data.path(), &disk, &mut told);
    // While a sync hangs the lock is not given back: what a restart would find is looked at elsewhere.
    let left = if kind == Kind::Hang { Base { data, events: Vec::new() }.copy() } else { data };
    disk.settle();
    let seen = judge(left.path(), base, &told);
    assert!(seen.iter().all(|epoch| epoch.torn == 0 && epoch.unfinished == 0 && epoch.signed == epoch.size), "{seen:?}");
    disk.release();
    std::mem::take(&mut disk.lock().calls)
}

/// Every kind at every call of a clean run, or a part of them.
fn campaign(base: &Base, everything: bool) {
    let calls = run(base, Kind::None, 0);
    assert!(calls.len() > 120, "{} calls", calls.len());
    let kinds = [Kind::Broken, Kind::Full, Kind::Interrupted, Kind::Short, Kind::Sync, Kind::Rename, Kind::Unlink];
    let steps = [5, 5, 17, 5, 3, 2, 1].into_iter().chain([17, 11]);
    let kinds = kinds.into_iter().chain([Kind::ReadOnly, Kind::Hang]).zip(steps);
    // A call that hangs while the log is opened keeps whoever opens it: nobody has been promised anything by then.
    let opened = calls.iter().position(|call| call.op == Op::Write && call.path.ends_with("00000000000000000000") && !call.fresh);
    for (kind, step) in kinds {
        let first = if kind == Kind::Hang { opened.expect("a first record") } else { 0 };
        let hit = (first..calls.len()).filter(|place| kind.hits(calls[*place].op));
        let mut runs = 0;
        for place in hit.step_by(if everything { 1 } else { step }) {
            run(base, kind, place + 1);
            runs += 1;
        }
        assert!(runs > 0 || matches!(kind, Kind::Unlink), "{kind:?} was never tried");
    }
}

fn everything() -> bool {
    std::env::var_os("TOKEN_SHIELD_FULL").is_some()
}

#[test]
fn a_log_that_begins_survives_every_fault() {
    campaign(&Base::empty(), everything());
}

#[test]
fn a_log_that_grows_survives_every_fault() {
    campaign(&Base::grown(), everything());
}
