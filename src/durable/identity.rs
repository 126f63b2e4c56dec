//! Checks that a path still leads to the file that was opened.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::DiskFault;

/// The file that a path led to when it was opened, and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The path.
    path: PathBuf,
    /// The device of the file system.
    device: u64,
    /// The inode, which identifies the file on its device.
    inode: u64,
    /// The length in bytes.
    length: u64,
    /// True where the length may change.
    grows: bool,
}

/// How a path has changed since its file was opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Changed {
    /// It was unlinked or renamed, or a folder above it was.
    #[error("{} has been removed or renamed under us", .0.display())]
    Missing(PathBuf),
    /// Another file is at the path.
    #[error("{} has been replaced under us", .0.display())]
    Replaced(PathBuf),
    /// It was truncated or extended.
    #[error("{} has changed its length under us", .0.display())]
    Resized(PathBuf),
    /// Its metadata cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DiskFault),
}

impl Changed {
    /// Whether the fault says only that the check was not possible, because of a shortage that may
    /// pass. No change is known then.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreadable(fault) if fault.passes())
    }
}

impl Identity {
    /// The identity of `file`, which was opened as `path`.
    ///
    /// # Errors
    /// When the file's metadata cannot be read.
    pub fn of(file: &File, path: &Path) -> Result<Self, DiskFault> {
        let found = file.metadata().map_err(DiskFault::of("look at", path))?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            grows: false,
        })
    }

    /// The identity of the file or folder at `path`, whose length may change.
    ///
    /// # Errors
    /// When its metadata cannot be read.
    pub fn growing(path: &Path) -> Result<Self, DiskFault> {
        Ok(Self { grows: true, ..Self::at(path)? })
    }

    /// The identity of the file at `path`.
    ///
    /// # Errors
    /// When its metadata cannot be read.
    pub fn at(path: &Path) -> Result<Self, DiskFault> {
        // A symbolic link is not followed: a link in the place of the file is a change too.
        let found = fs::symlink_metadata(path).map_err(DiskFault::of("look at", path))?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            grows: false,
        })
    }

    /// Whether the length may change.
    #[must_use]
    pub const fn grows(&self) -> bool {
        self.grows
    }

    /// Whether both are the same file at the same path.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.path, self.device, self.inode) == (&other.path, other.device, other.inode)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Checks that the path still leads to that file, with that length.
    ///
    /// # Errors
    /// The change.
    pub fn check(&self) -> Result<(), Changed> {
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Changed::Missing(self.path.clone()));
            }
            Err(error) => return Err(DiskFault::of("look at", &self.path)(error).into()),
        };
        if (found.dev(), found.ino()) != (self.device, self.inode) {
            return Err(Changed::Replaced(self.path.clone()));
        }
        if !self.grows && found.len() != self.length {
            return Err(Changed::Resized(self.path.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_under_us_is_noticed() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, b"1234").expect("write");
        let identity = Identity::of(&File::open(&path).expect("open"), &path).expect("identity");
        identity.check().expect("unchanged");
        fs::write(&path, b"123").expect("write");
        assert!(matches!(identity.check(), Err(Changed::Resized(_))));
        fs::rename(&path, folder.path().join("other")).expect("rename");
        assert!(matches!(identity.check(), Err(Changed::Missing(_))));
        fs::write(&path, b"1234").expect("write");
        assert!(matches!(identity.check(), Err(Changed::Replaced(_))));
    }
}
