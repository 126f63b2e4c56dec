//! The file of the epochs' public keys, while the log is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{self, DiskFault};

/// The public keys of the log's epochs. A copy in memory restores the file, so that its loss ends
/// no run.
pub(super) struct Vkeys {
    path: PathBuf,
    text: Vec<u8>,
}

impl Vkeys {
    /// Reads the file at the opening of the log.
    pub(super) fn read(path: &Path) -> Result<Self, DiskFault> {
        let text = fs::read(path).map_err(DiskFault::of("read", path))?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Writes the file again where it is missing.
    pub(super) fn keep(&self) {
        // `symlink_metadata`: a link in the file's place counts as present and is not replaced.
        let gone = fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if gone && durable::write_atomic(&self.path, &self.text, 0o644).is_ok() {
            tracing::error!(path = %self.path.display(), "the log's public keys were removed, and \
                are written again");
        }
    }
}
