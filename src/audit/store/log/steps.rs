//! Steps on the disk that several threads of the log make.

use std::fs::File;
use std::io;
use std::path::Path;

use super::LogFault;
use crate::durable::{Disk, DiskFault};

/// The fault of a step that may be retried where a resource is short. The path is copied only
/// where there is an error.
pub(super) fn step(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogFault {
    move |error| LogFault::of_step(DiskFault::of(doing, path)(error))
}

/// Writes `bytes` at `offset`, and syncs the file.
pub(super) fn write_synced(
    disk: &dyn Disk,
    file: &File,
    bytes: &[u8],
    offset: u64,
) -> io::Result<()> {
    disk.write(file, bytes, offset)?;
    disk.sync(file)
}
