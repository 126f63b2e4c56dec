//! Room that is kept: when the disk is full, outcomes, commands and the last records of a run still find a place.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path, whole: u64) -> Result<Self, durable::Fault> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(durable::Fault::of("open", path))?;
        let left = file.metadata().map_err(durable::Fault::of("look at", path))?.len();
        let mut reserve = Self { disk, path: path.to_owned(), file, whole, left };
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

    /// Takes what is missing; true where the reserve is whole.
    pub(super) fn fill(&mut self) -> bool {
        if self.left < self.whole && self.disk.allocate(&self.file, self.whole).is_ok() {
            self.left = self.whole;
        }
        if self.left < self.whole {
            // What a failed try has taken goes back.
            let left = self.left;
            self.cut(left);
        }
        self.left >= self.whole
    }
}
