//! The file of the public keys of the log's epochs, while the log is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{self, DiskFault};

/// The public keys of the log's epochs. They can be written again, so that nothing ends where they are gone.
pub(super) struct Vkeys {
    path: PathBuf,
    text: Vec<u8>,
}

impl Vkeys {
    pub(super) fn read(path: &Path) -> Result<Self, DiskFault> {
        let text = fs::read(path).map_err(DiskFault::of("read", path))?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Writes them again where they are gone.
    pub(super) fn keep(&self) {
        let gone = fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if gone && durable::write_atomic(&self.path, &self.text, 0o644).is_ok() {
            tracing::error!(path = %self.path.display(), "the log's public keys were removed, and are written again");
        }
    }
}
