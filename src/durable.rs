//! What the disk holds for sure: private folders, whole files, locks, and files that are still the ones we opened.

mod holder;
mod identity;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use holder::holder;
pub use identity::{Changed, Identity};

/// What the disk did not do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {}: {error}", path.display())]
pub struct DiskFault {
    /// What was tried: a verb, as in "cannot sync …".
    pub doing: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// The operating system's answer.
    #[source]
    pub error: Arc<io::Error>,
}

impl DiskFault {
    /// The fault of `doing` something with `path`, for `map_err`.
    pub fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { doing, path, error: Arc::new(error) }
    }

    /// Whether it is a shortage that passes, see [`passes`].
    #[must_use]
    pub fn passes(&self) -> bool {
        passes(&self.error)
    }

    /// Whether there is no room on the disk, or in the quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    fn new(doing: &'static str, path: &Path, kind: io::ErrorKind, why: &'static str) -> Self {
        Self::of(doing, path)(io::Error::new(kind, why))
    }
}

/// Whether an error is a shortage that passes by itself: no descriptor left (EMFILE, ENFILE), no memory (ENOMEM), no room (ENOSPC,
/// EDQUOT), a signal (EINTR), or a call that would have waited (EAGAIN). What was tried may be tried again from its beginning: a
/// sync only after all that it was to make sure of has been written once more. Every other error stays.
#[must_use]
pub fn passes(error: &io::Error) -> bool {
    /// The numbers on Linux and the BSDs; the standard library has no names for them.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let named = matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    );
    named || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// How bytes reach a file, so that a test can stand between. A call that a signal interrupts is made again: nobody hears of
/// `Interrupted`.
pub trait Disk: Send + Sync + 'static {
    /// Writes all of `bytes` at byte `offset`.
    ///
    /// # Errors
    /// The operating system's. Some of the bytes may have been written.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written to `file` is on stable storage (fdatasync).
    ///
    /// # Errors
    /// The operating system's. What was written since the last success may be lost, and a second call proves nothing.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Makes the file, or empties it; to be read and written by its owner alone.
    ///
    /// # Errors
    /// The operating system's.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Makes a folder for its owner alone; one that is there already will do.
    ///
    /// # Errors
    /// The operating system's.
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Returns when the names in a folder are on stable storage.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path).and_then(|folder| folder.sync_all())
    }

    /// Puts one file in the place of another.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Takes a file away; one that is gone already will do.
    ///
    /// # Errors
    /// The operating system's.
    fn unlink(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Makes sure that a file has `bytes` bytes that are its own, all behind its former end zeros.
    ///
    /// # Errors
    /// The operating system's, such as that of a full disk.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let mut end = file.metadata()?.len();
        while end < bytes {
            let piece = usize::try_from((bytes - end).min(PIECE)).unwrap_or(0);
            file.write_all_at(&vec![0; piece], end)?;
            end += piece as u64;
        }
        Ok(())
    }

    /// Gives a file another length; what is added is zeros that may take no room.
    ///
    /// # Errors
    /// The operating system's.
    fn resize(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }
}

/// The machine's own disk.
#[derive(Clone, Copy, Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(feature = "gateway")]
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        // The standard library makes its calls on files again by itself; this one is not among them.
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)
        })?)
    }
}

/// Makes sure that `path` is a folder which only its owner can enter (mode 0700), parents included where they are new.
/// An empty folder that was open to others is closed; one with content is left alone and refused.
///
/// # Errors
/// When it cannot be made, is not a folder, or has content and is open to others.
pub fn make_private_dir(path: &Path) -> Result<(), DiskFault> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            return Err(DiskFault::new(
                "use",
                path,
                io::ErrorKind::NotADirectory,
                "it is not a folder",
            ));
        }
        Ok(found) if found.mode() & 0o077 == 0 => return Ok(()),
        Ok(_) => {
            let mut entries = fs::read_dir(path).map_err(DiskFault::of("list", path))?;
            if entries.next().is_some() {
                let why = "other users can enter this folder: chmod 700 it, after a look at what is in it";
                return Err(DiskFault::new("use", path, io::ErrorKind::PermissionDenied, why));
            }
            return fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(DiskFault::of("chmod 700", path));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DiskFault::of("look at", path)(error)),
    }
    let parent = parent_of(path);
    if !parent.exists() {
        make_private_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_dir(parent),
        // Somebody else made it between the two calls: judge what they made.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => make_private_dir(path),
        Err(error) => Err(DiskFault::of("make", path)(error)),
    }
}

/// Writes a file that must not be there yet, with exactly `mode`: after a crash it is there whole, or not at all.
///
/// # Errors
/// When it is there already (`AlreadyExists`), or cannot be written and synced.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskFault> {
    let temporary = Temporary::write(path, bytes, mode)?;
    match fs::hard_link(&temporary.0, path) {
        Ok(()) => {
            drop(temporary);
            sync_dir(parent_of(path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DiskFault::of("create", path)(error))
        }
        // A file system without hard links: look first. Two creators at the same instant are told apart by locks, not here.
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Err(DiskFault::new("create", path, io::ErrorKind::AlreadyExists, "it is there already"))
        }
        Err(_) => temporary.rename(path),
    }
}

/// Writes a file, or replaces it, with exactly `mode`: after a crash it holds all of the old bytes or all of the new.
///
/// # Errors
/// When it cannot be written and synced.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskFault> {
    Temporary::write(path, bytes, mode)?.rename(path)
}

/// Returns when the names in folder `path` are on stable storage.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), DiskFault> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(DiskFault::of("sync", path))
}

/// The folder that `path` stands in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// A synced file under a passing name, in the folder of the file that it will be. Goes away when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<Self, DiskFault> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = path.file_name() else {
            return Err(DiskFault::new(
                "write",
                path,
                io::ErrorKind::InvalidInput,
                "it has no file name",
            ));
        };
        loop {
            let mut passing = OsString::from(".");
            passing.push(name);
            passing.push(format!(
                ".{}-{}.tmp",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ));
            let passing = path.with_file_name(passing);
            let mut file =
                match OpenOptions::new().write(true).create_new(true).mode(mode).open(&passing) {
                    Ok(file) => file,
                    // Left by a crashed process that had our id.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(DiskFault::of("create", &passing)(error)),
                };
            let temporary = Self(passing);
            file.set_permissions(Permissions::from_mode(mode))
                .and_then(|()| file.write_all(bytes))
                .and_then(|()| file.sync_all())
                .map_err(DiskFault::of("write", &temporary.0))?;
            return Ok(temporary);
        }
    }

    fn rename(self, path: &Path) -> Result<(), DiskFault> {
        fs::rename(&self.0, path).map_err(DiskFault::of("replace", path))?;
        sync_dir(parent_of(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Absent after a rename; a stray one is only litter.
        let _ = fs::remove_file(&self.0);
    }
}

/// An exclusive lock on a file (flock), held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    identity: Identity,
}

impl Lock {
    /// Takes the lock on `path`, an empty file that is made if need be. `None` when another process (or another lock of
    /// this one) holds it. Never waits.
    ///
    /// # Errors
    /// When the file cannot be opened or locked at all.
    pub fn take(path: &Path) -> Result<Option<Self>, DiskFault> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(DiskFault::of("open", path))?;
        Self::of(file, path)
    }

    /// The lock on `path` that another process holds and has passed on: a copy of its descriptor. `None` when the lock is not
    /// this descriptor's, or `path` leads to another file.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn adopt(file: File, path: &Path) -> Result<Option<Self>, DiskFault> {
        // A lock belongs to the open file description (flock(2)): to take it once more succeeds through a copy of the descriptor.
        Self::of(file, path)
    }

    fn of(file: File, path: &Path) -> Result<Option<Self>, DiskFault> {
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(DiskFault::of("lock", path)(error)),
        }
        let identity = Identity::of(&file, path)?;
        // Unlinked between open and lock: what we hold excludes nobody.
        Ok(identity.check().is_ok().then_some(Self { file, identity }))
    }

    /// A copy of the descriptor: the lock is taken until the last of its copies is closed.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn duplicate(&self) -> Result<Self, DiskFault> {
        let file = self
            .file
            .try_clone()
            .map_err(DiskFault::of("copy the descriptor of", self.identity.path()))?;
        Ok(Self { file, identity: self.identity.clone() })
    }

    /// The locked file's descriptor, to be passed on.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Which file is locked.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("folder")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").mode() & 0o777
    }

    #[test]
    fn a_new_file_is_whole_private_and_alone() {
        let folder = folder();
        let path = folder.path().join("key");
        write_new(&path, b"one", 0o600).expect("new");
        let again = write_new(&path, b"two", 0o600).expect_err("is there");
        assert_eq!(again.error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("read"), b"one");
        assert_eq!(mode(&path), 0o600);
        write_atomic(&path, b"three", 0o640).expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"three");
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn private_folders() {
        let folder = folder();
        let deep = folder.path().join("a/b/c");
        make_private_dir(&deep).expect("made");
        assert_eq!(mode(&folder.path().join("a/b")), 0o700);
        fs::set_permissions(&deep, Permissions::from_mode(0o755)).expect("chmod");
        make_private_dir(&deep).expect("closed, being empty");
        assert_eq!(mode(&deep), 0o700);
        fs::write(deep.join("x"), b"").expect("write");
        make_private_dir(&deep).expect("private");
        fs::set_permissions(&deep, Permissions::from_mode(0o750)).expect("chmod");
        make_private_dir(&deep).expect_err("open to others, with content");
        make_private_dir(&deep.join("x")).expect_err("a file");
    }

    #[test]
    fn one_holder_of_a_lock() {
        let folder = folder();
        let path = folder.path().join("lock");
        let first = Lock::take(&path).expect("lock").expect("free");
        assert!(Lock::take(&path).expect("lock").is_none());
        drop(first);
        assert!(Lock::take(&path).expect("lock").is_some());
    }
}
