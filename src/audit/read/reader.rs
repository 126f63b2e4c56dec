//! Reads a log's records in order, without a gateway: below the checkpoint from tiles, above it
//! from the journal. These functions do not verify; `verify` does.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::audit::format::envelope::Envelope;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::journal::{self, SegmentFault};
use crate::audit::format::key::Opener;
use crate::audit::format::note::peek_size;
use crate::audit::read::tiles::{self, TileFault, Tiles, epoch_name};
use crate::durable;
use crate::json;
use crate::merkle::proof::tree_at;

/// The number of tries when new checkpoints replace files during a read.
const TRIES: usize = 50;

/// The reasons why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// A tile is missing or damaged.
    #[error(transparent)]
    Tile(#[from] TileFault),
    /// A segment is damaged.
    #[error("{}: {fault}; token-shield audit verify says more", path.display())]
    Segment {
        /// Its path.
        path: PathBuf,
        /// The defect.
        fault: SegmentFault<RecordFault>,
    },
    /// A record is damaged.
    #[error("{record}: {fault}")]
    Record {
        /// The record's name.
        record: String,
        /// The defect.
        fault: RecordFault,
    },
    /// A text that is not the name of a record.
    #[error("{0:?} names no record: write an index, or what audit-record says, NAME/EPOCH#INDEX")]
    Name(String),
    /// A record that does not exist.
    #[error("there is no record {0}")]
    Missing(String),
    /// The checkpoint changes during every try.
    #[error("{} changes faster than it can be read", .0.display())]
    Restless(PathBuf),
    /// A folder without an epoch.
    #[error("there is no log in {}", .0.display())]
    Empty(PathBuf),
}

/// A record with its location.
#[derive(Clone, Copy, Debug)]
pub struct StoredRecord<'r> {
    /// The number of its epoch.
    pub epoch: u32,
    /// Its index in the epoch.
    pub index: u64,
    /// Its bytes.
    pub bytes: &'r [u8],
}

/// One epoch.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Its number.
    pub number: u32,
    /// Its folder.
    pub folder: PathBuf,
    /// The number of records under its checkpoint.
    pub signed: u64,
    /// The note of its checkpoint.
    pub note: Option<String>,
}

impl Epoch {
    /// The epoch with a given note. The note is not verified here.
    fn under(number: u32, folder: PathBuf, note: Option<String>) -> Self {
        let signed = peek_size(note.as_deref());
        Self { number, folder, signed, note }
    }

    /// Runs `read` on the epoch. While a gateway writes the epoch, a new checkpoint removes files
    /// of the previous one. Then `read` runs again, under the new checkpoint.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read<T, E: From<ReadFault>>(
        &self,
        mut read: impl FnMut(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut epoch = self.clone();
        let mut snapshot = tiles::snapshot(&epoch.folder).map_err(ReadFault::from)?;
        for _ in 0..TRIES {
            let done = read(&epoch);
            let now = tiles::snapshot(&epoch.folder).map_err(ReadFault::from)?;
            // An error counts only when the folder is unchanged. Otherwise a removed file may have
            // caused it.
            if done.is_ok() || (now == snapshot && now.note == epoch.note) {
                return done;
            }
            epoch = Self::under(epoch.number, epoch.folder, now.note.clone());
            snapshot = now;
        }
        Err(ReadFault::Restless(epoch.folder).into())
    }
}

/// The epochs of a log, in order.
///
/// # Errors
/// When the folder cannot be read, or contains no epoch.
pub fn epochs(dir: &Path) -> Result<Vec<Epoch>, ReadFault> {
    let mut found = Vec::new();
    for (number, folder) in tiles::epochs(dir)? {
        let note = tiles::checkpoint_note(&folder)?;
        found.push(Epoch::under(number, folder, note));
    }
    if found.is_empty() { Err(ReadFault::Empty(dir.to_owned())) } else { Ok(found) }
}

/// Passes the records of an epoch to `each`, from the index `from`, until it breaks.
///
/// # Errors
/// When they cannot be read.
pub fn each(
    epoch: &Epoch,
    from: u64,
    mut each: impl FnMut(StoredRecord<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadFault> {
    let mut next = from;
    epoch.read(|epoch| {
        // A retry continues after the last record, so that `each` gets each record once.
        each_under(epoch, next, |found| {
            next = found.index + 1;
            each(found)
        })
    })
}

/// [`each`] under the checkpoint that `epoch` has.
fn each_under(
    epoch: &Epoch,
    from: u64,
    mut each: impl FnMut(StoredRecord<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadFault> {
    let number = epoch.number;
    let mut tiles = Tiles::new(&epoch.folder, epoch.signed);
    // The records of a pruned epoch were moved away.
    let moved = epoch.signed > 0 && tiles::is_pruned(&epoch.folder);
    for index in from..if moved { from } else { epoch.signed } {
        let bytes = tiles.record(index)?;
        if each(StoredRecord { epoch: number, index, bytes: &bytes }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    let folder = epoch.folder.join("journal");
    let (segments, _) =
        if folder.is_dir() { tiles::segments(&folder)? } else { (Vec::new(), None) };
    let Some((first, _)) = segments.first() else { return Ok(ControlFlow::Continue(())) };
    // `walk` needs the tree before the segment, to check each batch's root.
    let mut tree = tree_at(&mut tiles, *first)?;
    let mut broken = ControlFlow::Continue(());
    for (place, (_, path)) in segments.iter().enumerate() {
        let mut bytes = std::fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        if place + 1 == segments.len() {
            // Bytes after the last whole batch may be a write in progress.
            bytes.truncate(journal::reach(&bytes, u64::MAX).0);
        }
        let walk =
            journal::walk(&bytes, &tree, &[], place + 1 == segments.len(), |index, bytes| {
                if index >= epoch.signed.max(from) && broken.is_continue() {
                    broken = each(StoredRecord { epoch: number, index, bytes });
                }
                Ok(())
            });
        tree = walk.map_err(|fault| ReadFault::Segment { path: path.clone(), fault })?.tree;
    }
    Ok(broken)
}

/// A record's name: an index of the newest epoch, or `NAME/EPOCH#INDEX`.
///
/// # Errors
/// When the text is not a name, or the epoch does not exist.
pub fn named<'e>(epochs: &'e [Epoch], name: &str) -> Result<(&'e Epoch, u64), ReadFault> {
    let (epoch, index) = match name.rsplit_once('#') {
        Some((origin, index)) => {
            let Some(number) = tiles::epoch_in(origin) else {
                return Err(ReadFault::Name(name.to_owned()));
            };
            (epochs.iter().find(|epoch| epoch.number == number), index)
        }
        None => (epochs.last(), name),
    };
    let epoch = epoch.ok_or_else(|| ReadFault::Missing(name.to_owned()))?;
    Ok((epoch, index.parse().map_err(|_| ReadFault::Name(name.to_owned()))?))
}

/// One record's bytes.
///
/// # Errors
/// When it does not exist, or cannot be read.
pub fn one(epoch: &Epoch, index: u64) -> Result<Vec<u8>, ReadFault> {
    let mut found = None;
    let _ = each(epoch, index, |record| {
        found = (record.index == index).then(|| record.bytes.to_vec());
        ControlFlow::Break(())
    })?;
    found.ok_or_else(|| ReadFault::Missing(format!("{}#{index}", epoch_name(epoch.number))))
}

/// A record's name, time and kind, and its payload where it can be decrypted.
#[derive(Clone, Debug)]
pub struct DecryptedRecord {
    /// `EPOCH#INDEX`.
    pub record: String,
    /// The time, in RFC 3339.
    pub at: String,
    /// The kind.
    pub kind: String,
    /// The payload object in canonical form; `None` where its key was destroyed or is missing.
    pub payload: Option<String>,
}

impl StoredRecord<'_> {
    /// Its name within the log.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}#{}", epoch_name(self.epoch), self.index)
    }

    /// Decodes the record, and decrypts it where `opener` has the key.
    ///
    /// # Errors
    /// When its form is wrong, or its key does not decrypt it.
    pub fn tell(&self, opener: &dyn Opener) -> Result<DecryptedRecord, ReadFault> {
        let envelope = Envelope::read(self.bytes).map_err(|fault| self.fault(fault))?;
        let payload = match envelope.open(opener) {
            Ok(payload) => payload,
            // A record without its key still has a name, a time and a kind.
            Err(RecordFault::KeyMissing(_)) => None,
            Err(other) => return Err(self.fault(other)),
        };
        Ok(DecryptedRecord {
            record: self.name(),
            at: envelope.at.to_owned(),
            kind: envelope.kind.to_owned(),
            payload,
        })
    }

    /// The fault of this record.
    pub(in crate::audit::read) fn fault(&self, fault: RecordFault) -> ReadFault {
        ReadFault::Record { record: self.name(), fault }
    }
}

impl DecryptedRecord {
    /// The record as one line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let payload = self.payload.as_deref().unwrap_or("null");
        format!(
            r#"{{"at":"{}","kind":"{}","payload":{payload},"record":"{}"}}"#,
            self.at, self.kind, self.record
        )
    }

    /// A text of the payload, at `path` (members separated by dots).
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        self.value(path, |value| Some(value.as_str()?.to_owned()))
    }

    /// A text of the payload, at `path`; empty where there is none.
    #[must_use]
    pub fn text_or_empty(&self, path: &str) -> String {
        self.text(path).unwrap_or_default()
    }

    /// A number of the payload, at `path`.
    #[must_use]
    pub fn number(&self, path: &str) -> Option<u64> {
        self.value(path, |value| value.as_u64())
    }

    /// The value at `path`, converted by `read`.
    fn value<T>(&self, path: &str, read: impl FnOnce(&json::Value<'_>) -> Option<T>) -> Option<T> {
        let document =
            json::parse(self.payload.as_deref()?.as_bytes(), &json::Limits::deep(4)).ok()?;
        let mut value = &document;
        for member in path.split('.') {
            value = value.as_object()?.get(member)?;
        }
        read(value)
    }
}
