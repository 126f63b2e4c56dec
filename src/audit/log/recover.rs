//! Opening a log: everything that was acknowledged must be there, and what a crash has left behind it is mended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::writer::{Files, SEGMENT_BYTES, Segment};
use super::{LogFault, Settings};
use crate::audit::head::Head;
use crate::audit::head::HeadFault;
use crate::audit::journal;
use crate::audit::journal::Mark;
use crate::audit::record::Record;
use crate::audit::record::RecordFault;
use crate::clock::Timestamp;
use crate::durable;
use crate::durable::Disk;
use crate::durable::Identity;
use crate::merkle::Tree;

/// The epoch that a log is in. A second one begins only with a later version's commands.
const EPOCH: &str = "e000001";

/// What a log held when it was opened.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every record, in order: the books are their fold.
    pub records: Vec<Record>,
    /// What was cut off. To be told to the operator.
    pub torn: Option<Torn>,
}

/// What a log holds, seen from outside.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `NAME/EPOCH`, where there is a head to say so.
    pub origin: Option<String>,
    /// How many records, all of them whole and in order.
    pub size: u64,
    /// The root over them (RFC 6962).
    pub root: crate::merkle::Hash,
    /// How many were acknowledged, as the head says.
    pub acknowledged: Option<u64>,
    /// The first and the last record's time.
    pub times: Option<(Timestamp, Timestamp)>,
    /// An interrupted write behind them, which the next start will cut off.
    pub torn: Option<Torn>,
}

/// An interrupted write that was cut off. Nobody was ever told that its records were durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In which segment.
    pub segment: PathBuf,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { segment, offset, bytes } = self;
        write!(
            out,
            "an unfinished write of {bytes} bytes was cut off {} at byte {offset}; nothing in it was acknowledged",
            segment.display()
        )
    }
}

/// Opens or begins the log, and takes its lock.
pub(super) fn open(settings: &Settings, disk: Arc<dyn Disk>) -> Result<(Files, durable::Lock, Recovered), LogFault> {
    let origin = origin_of(&settings.name)?;
    let epoch = settings.dir.join(EPOCH);
    let journal = epoch.join("journal");
    for dir in [Some(&*settings.dir), Some(&epoch), Some(&journal), settings.head.parent()].into_iter().flatten() {
        durable::make_private_dir(dir)?;
    }
    let lock = epoch.join("lock");
    let lock = durable::Lock::take(&lock)?.ok_or(LogFault::Locked(lock))?;
    let paths = segments(&journal)?;
    let head = match fs::read(&settings.head) {
        Ok(bytes) => {
            let head = Head::decode(&bytes).map_err(|fault| LogFault::HeadDamaged { path: settings.head.clone(), fault })?;
            if head.origin != origin {
                return Err(LogFault::Origin { found: head.origin, expected: origin });
            }
            head
        }
        // The head comes first, so only a log that never held anything has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound && paths.is_empty() => {
            let head = Head { origin, size: 0, root: Tree::new().root(), write: 1 };
            durable::write_new(&settings.head, &head.first_file(), 0o600)?;
            // Crash here: a head that has acknowledged nothing, and no segment. The next start goes on from here.
            head
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LogFault::HeadMissing(settings.head.clone())),
        Err(error) => return Err(durable::Fault::of("read", &settings.head)(error).into()),
    };
    let read = read(&paths, &head, &settings.head)?;
    let torn = read.last.as_ref().and_then(Last::torn);
    let last = match read.last {
        Some(last) => last.mend(&*disk)?,
        None => Segment::create(&*disk, &journal, 0)?,
    };
    let head_file = open_for_writing(&settings.head)?;
    let head_identity = Identity::of(&head_file, &settings.head)?;
    let mut files = Files { disk, journal, segments: read.full, last, head_file, head_identity, head, tree: read.tree };
    if files.head.size < files.size() {
        // The batches beyond the head were just synced again, and from now on they are facts.
        files.write_head()?;
        files.sync_head()?;
    }
    Ok((files, lock, Recovered { records: read.records, torn }))
}

/// Reads a log as [`open`] does, and changes nothing: no lock is taken, so that a gateway may be writing meanwhile. Without a
/// head nothing says how much was acknowledged.
pub(super) fn look(dir: &Path, head: Option<&Path>) -> Result<Seen, LogFault> {
    // The head first: what it says was in the journal before.
    let (head, path) = match head {
        Some(path) => {
            let bytes = fs::read(path).map_err(durable::Fault::of("read", path))?;
            let damaged = |fault| LogFault::HeadDamaged { path: path.to_owned(), fault };
            (Some(Head::decode(&bytes).map_err(damaged)?), path)
        }
        None => (None, dir),
    };
    let epoch = dir.join(EPOCH);
    only(dir, &[EPOCH])?;
    only(&epoch, &["journal", "lock"])?;
    let nothing = Head { origin: String::new(), size: 0, root: Tree::new().root(), write: 0 };
    let read = read(&segments(&epoch.join("journal"))?, head.as_ref().unwrap_or(&nothing), path)?;
    let torn = read.last.as_ref().and_then(Last::torn);
    let times = read.records.first().zip(read.records.last()).map(|(first, last)| (first.at, last.at));
    Ok(Seen {
        origin: head.as_ref().map(|head| head.origin.clone()),
        size: read.tree.size(),
        root: read.tree.root(),
        acknowledged: head.map(|head| head.size),
        times,
        torn,
    })
}

/// That a folder holds nothing else: a file that nobody wrote may hide what somebody did.
fn only(folder: &Path, names: &[&str]) -> Result<(), LogFault> {
    for entry in fs::read_dir(folder).map_err(durable::Fault::of("list", folder))? {
        let path = entry.map_err(durable::Fault::of("list", folder))?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(&name)) {
            return Err(LogFault::Stray(path));
        }
    }
    Ok(())
}

fn origin_of(name: &str) -> Result<String, LogFault> {
    if (1..=200).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+') {
        return Ok(format!("{name}/{EPOCH}"));
    }
    Err(LogFault::Name(name.chars().take(80).collect()))
}

/// The journal's segments in order, each with the index of its first record.
fn segments(journal: &Path) -> Result<Vec<(u64, PathBuf)>, LogFault> {
    let mut found = Vec::new();
    for entry in fs::read_dir(journal).map_err(durable::Fault::of("list", journal))? {
        let path = entry.map_err(durable::Fault::of("list", journal))?.path();
        let first = path.file_name().and_then(|name| name.to_str()).and_then(|name| {
            let first: u64 = name.parse().ok()?;
            (format!("{first:020}") == name).then_some(first)
        });
        found.push((first.ok_or_else(|| LogFault::Stray(path.clone()))?, path));
    }
    found.sort_unstable();
    Ok(found)
}

/// All segments, read and found good.
struct Read {
    records: Vec<Record>,
    tree: Tree,
    full: Vec<Identity>,
    last: Option<Last>,
}

/// The last segment, as it was found.
struct Last {
    path: PathBuf,
    bytes: Vec<u8>,
    walk: journal::Walk,
}

fn read(paths: &[(u64, PathBuf)], head: &Head, head_path: &Path) -> Result<Read, LogFault> {
    let mut read = Read { records: Vec::new(), tree: Tree::new(), full: Vec::new(), last: None };
    if head.size == 0 && head.root != read.tree.root() {
        return Err(LogFault::HeadDamaged { path: head_path.to_owned(), fault: HeadFault });
    }
    let mark = Mark { size: head.size, root: head.root };
    for (place, (first, path)) in paths.iter().enumerate() {
        if *first != read.tree.size() {
            return Err(LogFault::Stray(path.clone()));
        }
        let bytes = fs::read(path).map_err(durable::Fault::of("read", path))?;
        let is_last = place + 1 == paths.len();
        let records = &mut read.records;
        let walk = journal::walk(&bytes, &read.tree, &mark, is_last, |_, bytes| {
            let record = Record::decode(bytes)?;
            if record.at < records.last().map_or(Timestamp(0), |before| before.at) {
                return Err(RecordFault::Earlier);
            }
            records.push(record);
            Ok(())
        })
        .map_err(|fault| LogFault::Damaged { path: path.clone(), fault })?;
        read.tree = walk.tree.clone();
        if is_last {
            read.last = Some(Last { path: path.clone(), bytes, walk });
        } else {
            let file = File::open(path).map_err(durable::Fault::of("open", path))?;
            read.full.push(Identity::of(&file, path)?);
        }
    }
    if read.tree.size() < head.size {
        return Err(LogFault::Behind { size: read.tree.size(), acknowledged: head.size });
    }
    Ok(read)
}

impl Last {
    fn torn(&self) -> Option<Torn> {
        let (offset, bytes) = (u64_of(self.walk.end), u64_of(self.walk.torn));
        (bytes > 0).then(|| Torn { segment: self.path.clone(), offset, bytes })
    }

    /// Makes the segment what it should be: whole batches, then zeros, in full length and on the disk.
    fn mend(self, disk: &dyn Disk) -> Result<Segment, LogFault> {
        let Self { path, mut bytes, walk } = self;
        let file = open_for_writing(&path)?;
        let length = bytes.len();
        let (kept, behind) = bytes.split_at_mut(walk.end);
        behind.fill(0);
        let beyond_head = kept.len() > walk.acknowledged_end;
        bytes.resize(length.max(SEGMENT_BYTES), 0);
        if beyond_head || walk.torn > 0 || length < SEGMENT_BYTES {
            // Written again, even what looks right: after a sync that failed, what we read may exist in memory alone, and
            // another sync would call it clean. Crash here: a start finds no more than it found now, and mends it.
            let rest = bytes.get(walk.acknowledged_end..).unwrap_or_default();
            disk.write(&file, rest, u64_of(walk.acknowledged_end)).map_err(durable::Fault::of("mend", &path))?;
            disk.sync(&file).map_err(durable::Fault::of("sync", &path))?;
        }
        let identity = Identity::of(&file, &path)?;
        Ok(Segment { file, identity, end: u64_of(walk.end) })
    }
}

fn open_for_writing(path: &Path) -> Result<File, LogFault> {
    Ok(OpenOptions::new().read(true).write(true).open(path).map_err(durable::Fault::of("open", path))?)
}

/// Lengths of things in memory.
fn u64_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
