//! The reserve: disk space for outcomes, commands and the last records of a run while the disk is
//! full.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LogFault;
use crate::durable::{self, Disk};

/// The size of one piece: room for a few segments and the tiles of a checkpoint.
const PIECE_BYTES: u64 = 4 << 20;

/// A file of zeros that occupies the space.
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
    whole: u64,
    left: u64,
}

impl Reserve {
    /// Opens or creates the reserve. [`Reserve::fill`] extends it to `whole` bytes.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path, whole: u64) -> Result<Self, LogFault> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(durable::DiskFault::of("open", path))?;
        let left = file.metadata().map_err(durable::DiskFault::of("look at", path))?.len();
        let mut reserve = Self { disk, path: path.to_owned(), file, whole, left };
        // A reserve above the disk's size could never be whole, and the log would never accept new
        // work.
        if let Some(disk) = reserve.disk_bytes()
            && whole > disk
        {
            return Err(LogFault::ReserveTooLarge { path: path.to_owned(), reserve: whole, disk });
        }
        // A smaller reserve in the config frees the difference at once.
        if left > whole {
            reserve.cut(whole);
        }
        Ok(reserve)
    }

    /// Shortens the file; false where that fails.
    fn cut(&mut self, bytes: u64) -> bool {
        match self.disk.resize(&self.file, bytes) {
            Ok(()) => {
                self.left = bytes;
                true
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "the log's reserve cannot be \
                    given");
                false
            }
        }
    }

    /// Frees a piece; false where the reserve is empty.
    pub(super) fn give(&mut self) -> bool {
        self.left > 0 && self.cut(self.left.saturating_sub(PIECE_BYTES))
    }

    /// Fills the reserve; true where it is whole. Without room for all of it, it takes half of the
    /// free space: an outcome may need the reserve before there is more room.
    pub(super) fn fill(&mut self) -> bool {
        let half = self.left.saturating_add(self.free().unwrap_or(0) / 2);
        for bytes in [self.whole, half.min(self.whole) / PIECE_BYTES * PIECE_BYTES] {
            if self.left < bytes && self.disk.allocate(&self.file, bytes).is_ok() {
                self.left = bytes;
            }
            if self.left < bytes {
                // A failed try may have allocated a part. That part is freed again.
                let left = self.left;
                self.cut(left);
            }
        }
        self.left >= self.whole
    }

    /// Current bytes of the reserve.
    pub(super) const fn bytes(&self) -> u64 {
        self.left
    }

    /// Bytes of a whole reserve.
    pub(super) const fn whole_bytes(&self) -> u64 {
        self.whole
    }

    /// Free bytes on its disk for a user other than root; `None` where the number is unknown.
    pub(super) fn free(&self) -> Option<u64> {
        let about = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Bytes of the whole disk; `None` where the number is unknown.
    pub(super) fn disk_bytes(&self) -> Option<u64> {
        let about = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(about.f_blocks.saturating_mul(about.f_frsize)).filter(|bytes| *bytes > 0)
    }
}
