//! Room that is kept: when the disk is full, outcomes, commands and the last records of a run still find a place.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LogFault;
use crate::durable::{self, Disk};

/// How much is given at once: a few segments and the tiles of a checkpoint.
const PIECE_BYTES: u64 = 4 << 20;

/// A file of zeros that takes room.
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
    whole: u64,
    left: u64,
}

impl Reserve {
    /// Opens or makes the reserve, which is to be of `whole` bytes; [`Reserve::fill`] takes them.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path, whole: u64) -> Result<Self, LogFault> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(durable::DiskFault::of("open", path))?;
        let left = file.metadata().map_err(durable::DiskFault::of("look at", path))?.len();
        let mut reserve = Self { disk, path: path.to_owned(), file, whole, left };
        if let Some(disk) = reserve.disk_bytes().filter(|disk| whole > *disk) {
            return Err(LogFault::ReserveTooLarge { path: path.to_owned(), reserve: whole, disk });
        }
        if left > whole {
            reserve.cut(whole);
        }
        Ok(reserve)
    }

    fn cut(&mut self, bytes: u64) -> bool {
        match self.disk.resize(&self.file, bytes) {
            Ok(()) => {
                self.left = bytes;
                true
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "the log's reserve cannot be given");
                false
            }
        }
    }

    /// Gives a piece back to the disk; false where nothing is left.
    pub(super) fn give(&mut self) -> bool {
        self.left > 0 && self.cut(self.left.saturating_sub(PIECE_BYTES))
    }

    /// Takes what is missing; true where the reserve is whole. Where there is no room for all of it, it takes half of the room that
    /// there is: an outcome may need it before there is more.
    pub(super) fn fill(&mut self) -> bool {
        let half = self.left.saturating_add(self.free().unwrap_or(0) / 2);
        for bytes in [self.whole, half.min(self.whole) / PIECE_BYTES * PIECE_BYTES] {
            if self.left < bytes && self.disk.allocate(&self.file, bytes).is_ok() {
                self.left = bytes;
            }
            if self.left < bytes {
                // What a failed try has taken goes back.
                let left = self.left;
                self.cut(left);
            }
        }
        self.left >= self.whole
    }

    /// Bytes that are there.
    pub(super) const fn bytes(&self) -> u64 {
        self.left
    }

    /// Bytes of a whole reserve.
    pub(super) const fn whole_bytes(&self) -> u64 {
        self.whole
    }

    /// Bytes that are free on its disk for who is not root; `None` where that cannot be told.
    pub(super) fn free(&self) -> Option<u64> {
        let about = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Bytes of its whole disk; `None` where that cannot be told.
    pub(super) fn disk_bytes(&self) -> Option<u64> {
        let about = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(about.f_blocks.saturating_mul(about.f_frsize)).filter(|bytes| *bytes > 0)
    }
}
