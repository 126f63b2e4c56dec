//! The remains of pruned epochs: one file for each epoch beside the cache, with the records that
//! the state needs. Backups include these files. A lost cache is rebuilt from them.
//!
//! The file has these parts for each record that changes the state: its index (8 bytes), its length
//! (4 bytes), and its bytes as in the log. The integers are big-endian. The SHA-256 of all these
//! bytes follows. No signature covers the file. It is as trusted as the record keys beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cache::Cache;
use super::epoch::EpochFolder;
use super::{LogFault, LogSettings};
use crate::audit::format::note::Checkpoint;
use crate::audit::read::tiles::{self, epoch_name};
use crate::crypto::sha256;
use crate::durable;
use crate::merkle::Tree;

/// Bytes of the hash at the end.
const HASH: usize = 32;

/// Records by their index.
pub(super) type Records = BTreeMap<u64, Vec<u8>>;

/// The file of the epoch of that number, in a folder beside the cache.
#[must_use]
pub fn file(cache: &Path, number: u32) -> PathBuf {
    folder(cache).join(epoch_name(number))
}

/// The folder of all these files.
#[must_use]
pub fn folder(cache: &Path) -> PathBuf {
    cache.with_file_name("pruned")
}

/// Whether that file exists and is whole.
#[must_use]
pub fn is_whole(file: &Path) -> bool {
    fs::read(file).is_ok_and(|bytes| decode(&bytes).is_some())
}

/// Encodes the records in the format of this file.
fn encode(records: &Records) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, bytes) in records {
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    let hash = sha256(&out);
    out.extend_from_slice(&hash);
    out
}

/// Decodes the file; `None` where it is damaged.
fn decode(bytes: &[u8]) -> Option<Records> {
    let (mut rest, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
    // The hash is checked first, so that a torn file is never taken as a shorter list.
    if sha256(rest) != *hash {
        return None;
    }
    let mut records = Records::new();
    while !rest.is_empty() {
        let (index, behind) = rest.split_first_chunk()?;
        let (length, behind) = behind.split_first_chunk()?;
        let (record, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        records.insert(u64::from_be_bytes(*index), record.to_vec());
        rest = behind;
    }
    Some(records)
}

/// Writes the file of an epoch that is about to be pruned.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(
    settings: &LogSettings,
    number: u32,
    records: &Records,
) -> Result<(), LogFault> {
    durable::make_private_dir(&folder(&settings.cache))?;
    Ok(durable::write_atomic(&file(&settings.cache, number), &encode(records), 0o600)?)
}

/// The numbers and folders of the pruned epochs.
fn pruned(settings: &LogSettings) -> Result<Vec<(u32, PathBuf)>, LogFault> {
    let mut epochs = tiles::epochs(&settings.dir)?;
    epochs.retain(|(_, folder)| tiles::is_pruned(folder));
    Ok(epochs)
}

/// Whether only the cache has some records that the state needs.
pub(super) fn are_missing(settings: &LogSettings) -> Result<bool, LogFault> {
    Ok(pruned(settings)?.iter().any(|(number, _)| !is_whole(&file(&settings.cache, *number))))
}

/// Fills an empty cache with the remains of the pruned epochs, where all files are whole.
///
/// # Errors
/// When a file cannot be read, or a checkpoint does not verify.
pub(super) fn fill(settings: &LogSettings, cache: &mut Cache) -> Result<(), LogFault> {
    let pruned = pruned(settings)?;
    let Some((last, _)) = pruned.last() else { return Ok(()) };
    // A cache with content needs no remains. With a missing file the cache would have a gap.
    if cache.stamp().is_some() || are_missing(settings)? {
        return Ok(());
    }
    for (number, folder) in &pruned {
        let path = file(&settings.cache, *number);
        let bytes = fs::read(&path).map_err(durable::DiskFault::of("read", &path))?;
        // A file that became damaged after `are_missing` checked it.
        let Some(records) = decode(&bytes) else {
            let error = io::ErrorKind::InvalidData.into();
            return Err(durable::DiskFault::of("read", &path)(error).into());
        };
        let path = folder.join("checkpoint");
        let note = tiles::checkpoint_note(folder)?.unwrap_or_default();
        let keys = EpochFolder::new(settings, *number)?.known_keys(settings)?;
        let checkpoint = keys.open(&note).map_err(|fault| LogFault::note(&path, fault))?;
        cache.add(*number, records, &checkpoint);
    }
    // The cache now covers all pruned epochs. The fold continues with the next epoch.
    let behind = Checkpoint { origin: String::new(), size: 0, root: Tree::new().root() };
    cache.add(last + 1, Records::new(), &behind);
    tracing::info!(
        through = epoch_name(*last),
        "the cache of the log was made anew from what is left of pruned epochs"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let records: Records =
            [(0, b"first".to_vec()), (7, Vec::new()), (u64::MAX, vec![0; 300])].into();
        let bytes = encode(&records);
        assert_eq!(decode(&bytes), Some(records));
        assert_eq!(decode(&encode(&Records::new())), Some(Records::new()));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "changed at {at}");
        }
    }
}
