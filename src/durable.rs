//! Durable file operations: private folders, complete files, locks, and checks that an open file is
//! still the one at its path.

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

/// A failed operation on a file or folder.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {}: {error}", path.display())]
pub struct DiskFault {
    /// The operation: a verb, as in "cannot sync …".
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The error of the operating system.
    #[source]
    pub error: Arc<io::Error>,
}

impl DiskFault {
    /// Makes the fault of `doing` something with `path`, for `map_err`.
    pub fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { doing, path, error: Arc::new(error) }
    }

    /// Whether it is a temporary shortage, see [`passes`].
    #[must_use]
    pub fn passes(&self) -> bool {
        passes(&self.error)
    }

    /// Whether the disk or the quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// A fault that this code detected itself.
    fn new(doing: &'static str, path: &Path, kind: io::ErrorKind, why: &'static str) -> Self {
        Self::of(doing, path)(io::Error::new(kind, why))
    }
}

/// Whether an error is a temporary shortage. These are: no descriptor (EMFILE, ENFILE), no memory
/// (ENOMEM), no space (ENOSPC, EDQUOT), a signal (EINTR), or a call that would have waited
/// (EAGAIN).
///
/// After such an error the operation may be repeated from its beginning. A sync may be repeated
/// only after all its data was written again. Every other error is permanent.
#[must_use]
pub fn passes(error: &io::Error) -> bool {
    /// The numbers on Linux and the BSDs. The standard library has no names for them.
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

/// The operations on files, as a trait so that a test can replace them. A call that a signal
/// interrupts is repeated, so `Interrupted` is never returned.
pub trait Disk: Send + Sync + 'static {
    /// Writes all of `bytes` at the byte position `offset`.
    ///
    /// # Errors
    /// The error of the operating system. Some of the bytes may have been written.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns after all data written to `file` is on stable storage (fdatasync).
    ///
    /// # Errors
    /// The error of the operating system. Data written since the last success may be lost, and a
    /// successful second call proves no durability: the kernel may have dropped the failed pages.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Creates the file, or empties it. Only its owner may read and write it.
    ///
    /// # Errors
    /// The error of the operating system.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Creates a folder for its owner only. An existing one is accepted.
    ///
    /// # Errors
    /// The error of the operating system.
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Returns after the names in a folder are on stable storage.
    ///
    /// # Errors
    /// The error of the operating system.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Renames a file, and replaces the one at `to`.
    ///
    /// # Errors
    /// The error of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file. A missing one is accepted.
    ///
    /// # Errors
    /// The error of the operating system.
    fn unlink(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Reserves `bytes` bytes of disk space for a file. The bytes after its former end are zeros.
    ///
    /// # Errors
    /// The error of the operating system, such as that of a full disk.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        // Real zeros are written: a sparse file has a length and no space.
        const PIECE: u64 = 1 << 20;
        let mut end = file.metadata()?.len();
        while end < bytes {
            let piece = usize::try_from((bytes - end).min(PIECE)).unwrap_or(0);
            file.write_all_at(&vec![0; piece], end)?;
            end += piece as u64;
        }
        Ok(())
    }

    /// Sets the length of a file. Added bytes are zeros, possibly without disk space.
    ///
    /// # Errors
    /// The error of the operating system.
    fn resize(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }
}

/// The real disk.
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
        // The standard library repeats its own calls after a signal. This call is not one of them.
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)
        })?)
    }
}

/// Ensures that `path` is a folder that only its owner can enter (mode 0700). New parents get the
/// same mode. An empty folder that was open to others is closed. One with content is refused
/// unchanged.
///
/// # Errors
/// If it cannot be made, is not a folder, or has content and is open to others.
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
            // Other users may have placed files into it. Closing it now would hide that.
            let mut entries = fs::read_dir(path).map_err(DiskFault::of("list", path))?;
            if entries.next().is_some() {
                let why = "other users can enter this folder: chmod 700 it, after a look at what \
                    is in it";
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
        // Another process made it between the two calls: check that one too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => make_private_dir(path),
        Err(error) => Err(DiskFault::of("make", path)(error)),
    }
}

/// Writes a file that must not exist yet, with exactly `mode`. After a crash the file is complete
/// or absent.
///
/// # Errors
/// If it exists (`AlreadyExists`), or cannot be written and synced.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskFault> {
    let temporary = Temporary::write(path, bytes, mode)?;
    // A hard link fails if the name exists; a rename would replace it.
    match fs::hard_link(&temporary.0, path) {
        Ok(()) => {
            drop(temporary);
            sync_dir(parent_of(path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DiskFault::of("create", path)(error))
        }
        // A file system without hard links: check first. Locks, not this function, exclude two
        // simultaneous creators.
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Err(DiskFault::new("create", path, io::ErrorKind::AlreadyExists, "it is there already"))
        }
        Err(_) => temporary.rename(path),
    }
}

/// Writes or replaces a file, with exactly `mode`. After a crash it has all of the old bytes or all
/// of the new ones.
///
/// # Errors
/// If it cannot be written and synced.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskFault> {
    Temporary::write(path, bytes, mode)?.rename(path)
}

/// Returns after the names in the folder `path` are on stable storage.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), DiskFault> {
    SystemDisk.sync_dir(path).map_err(DiskFault::of("sync", path))
}

/// The folder that contains `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// A synced file with a temporary name, in the folder of its final name. Dropping it removes the
/// file.
struct Temporary(PathBuf);

impl Temporary {
    /// Writes and syncs the temporary file.
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
                    // A crashed process with the same id left it.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(DiskFault::of("create", &passing)(error)),
                };
            let temporary = Self(passing);
            Self::fill(&mut file, bytes, mode).map_err(DiskFault::of("write", &temporary.0))?;
            return Ok(temporary);
        }
    }

    /// Sets the mode of an open file, writes all of its bytes, and syncs it.
    fn fill(file: &mut File, bytes: &[u8], mode: u32) -> io::Result<()> {
        // `open` applies the umask to the mode, so it is set again.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Gives the file its final name, and syncs the folder.
    fn rename(self, path: &Path) -> Result<(), DiskFault> {
        // The data was synced before: a rename that reaches the disk first would name an empty file
        // after a crash.
        fs::rename(&self.0, path).map_err(DiskFault::of("replace", path))?;
        sync_dir(parent_of(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is no such file. A file that remains has no effect.
        let _ = fs::remove_file(&self.0);
    }
}

/// An exclusive lock on a file (flock). It is held until dropped, or until the process ends for any
/// reason.
#[derive(Debug)]
pub struct Lock {
    file: File,
    identity: Identity,
}

impl Lock {
    /// Takes the lock on `path`, an empty file that is created if it is missing. `None` if another
    /// process, or another lock of this one, holds it. Never waits.
    ///
    /// # Errors
    /// If the file cannot be opened or locked.
    pub fn take(path: &Path) -> Result<Option<Self>, DiskFault> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(DiskFault::of("open", path))?;
        Self::of(file, path)
    }

    /// Takes over the lock on `path` from another process, by a copy of its descriptor. `None` if
    /// the descriptor does not hold the lock, or if `path` is another file now.
    ///
    /// # Errors
    /// If the lock cannot be queried.
    pub fn adopt(file: File, path: &Path) -> Result<Option<Self>, DiskFault> {
        // A lock belongs to the open file description (flock(2)). Locking again through a copy of
        // the descriptor therefore succeeds.
        Self::of(file, path)
    }

    /// Locks `file`, and checks that it is still the file at `path`.
    fn of(file: File, path: &Path) -> Result<Option<Self>, DiskFault> {
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(DiskFault::of("lock", path)(error)),
        }
        let identity = Identity::of(&file, path)?;
        // If the file was unlinked between open and lock, this lock excludes no other process.
        if identity.check().is_err() {
            return Ok(None);
        }
        Ok(Some(Self { file, identity }))
    }

    /// A copy of the descriptor. The lock is held until the last copy is closed.
    ///
    /// # Errors
    /// If no descriptor is free.
    pub fn duplicate(&self) -> Result<Self, DiskFault> {
        let file = self
            .file
            .try_clone()
            .map_err(DiskFault::of("copy the descriptor of", self.identity.path()))?;
        Ok(Self { file, identity: self.identity.clone() })
    }

    /// The descriptor of the locked file, for passing it to another process.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The identity of the locked file.
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
