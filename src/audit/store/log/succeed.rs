//! The change from one epoch to the next.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cache::{Cache, is_control};
use super::epoch::{EpochFolder, first_record};
use super::recover::{Carried, Opened, resume};
use super::steps::write_synced;
use super::{LogFault, LogSettings, NewEpoch};
use crate::audit::format::envelope::Envelope;
use crate::audit::format::event::{Event, Left};
use crate::audit::format::head::Head;
use crate::audit::format::journal;
use crate::audit::format::note::{Checkpoint, read_vkeys};
use crate::audit::format::record::Record;
use crate::audit::read::reader;
use crate::audit::read::tiles::{self, Tiles};
use crate::audit::read::verify::{VerifyTarget, verify};
use crate::audit::store::vault::Vault;
use crate::clock::Timestamp;
use crate::durable::{self, Disk};
use crate::merkle::Tree;
use crate::merkle::tile::WIDTH;

/// The reason to close the epoch, where there is one.
pub(super) fn why(
    settings: &LogSettings,
    epoch: &EpochFolder,
    opened: &Opened,
    now: Timestamp,
) -> Result<Option<NewEpoch>, LogFault> {
    // An empty epoch continues: a new one would only chain to an empty tree.
    if opened.files.size() == 0 {
        return Ok(None);
    }
    if let Some(begin) = &settings.begin {
        return Ok(Some(begin.clone()));
    }
    let first = if opened.checkpointer.size() > 0 {
        Tiles::new(&epoch.folder, opened.checkpointer.size()).record(0)?
    } else {
        opened.begin.pending.first().cloned().unwrap_or_default()
    };
    let began = Envelope::read(&first).and_then(|envelope| envelope.moment());
    let began = began.map_err(|fault| LogFault::record(epoch.number, 0, fault))?;
    let over = NewEpoch { reason: "its time is over".to_owned(), by: None, after_loss: false };
    Ok((began.plus(settings.epoch_max) <= now).then_some(over))
}

/// Covers all of the epoch with its last checkpoint, and begins the next epoch.
pub(super) fn close_and_begin(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    epoch: &EpochFolder,
    opened: Opened,
    asked: NewEpoch,
) -> Result<Opened, LogFault> {
    let Opened { mut checkpointer, begin, files, lock, recovered, encryptor, .. } = opened;
    if !begin.pending.is_empty() {
        checkpointer.sign_checkpoint(&begin.pending, None)?;
    }
    checkpointer.end();
    for (_, segment) in &begin.segments {
        disk.unlink(segment.path()).map_err(durable::DiskFault::of("remove", segment.path()))?;
    }
    // Crash here: an epoch without a journal, completely under its checkpoint. A start continues
    // it, or closes it again.
    let last = Checkpoint {
        origin: epoch.origin.clone(),
        size: files.tree.size(),
        root: files.tree.root(),
    };
    let next = EpochFolder::new(settings, epoch.number + 1)?;
    let vault = encryptor.vault;
    drop((checkpointer, files));
    // The old lock is kept until the next epoch is open and locked, so that no other process can
    // begin one.
    self::begin(settings, &next)?;
    let mut opened = resume(settings, disk, &next, Carried { lock: None, vault: Some(vault) })?;
    opened.first = vec![(first_record(&last, &asked.reason, None), asked.by)];
    opened.recovered.torn = recovered.torn;
    drop(lock);
    Ok(opened)
}

/// Makes the folder of the next epoch, and replaces the head with one for that epoch.
pub(super) fn begin(settings: &LogSettings, next: &EpochFolder) -> Result<(), LogFault> {
    for folder in [next.folder.clone(), next.journal()] {
        durable::make_private_dir(&folder)?;
    }
    // Crash here: an empty folder, and the head of the previous epoch. `abandoned` removes the
    // folder.
    let head = Head { origin: next.origin.clone(), size: 0, root: Tree::new().root(), write: 1 };
    Ok(durable::write_atomic(&settings.head, &head.first_file(), 0o600)?)
}

/// Removes the folder of an epoch that was made but never begun. True if it did so.
pub(super) fn abandoned(settings: &LogSettings, newest: &EpochFolder) -> Result<bool, LogFault> {
    let Some(head) = readable_head(settings) else { return Ok(false) };
    // The head is replaced only after the folder exists. A head of the previous epoch therefore
    // means an interrupted begin.
    if newest.number == 1 || head.origin != EpochFolder::new(settings, newest.number - 1)?.origin {
        return Ok(false);
    }
    let (segments, stray) = tiles::segments(&newest.journal()).unwrap_or_default();
    if !segments.is_empty() || stray.is_some() || tiles::checkpoint_note(&newest.folder)?.is_some()
    {
        return Ok(false);
    }
    let gone = fs::remove_dir_all(&newest.folder);
    gone.map_err(durable::DiskFault::of("remove", &newest.folder))?;
    Ok(true)
}

/// The head, where it can be read.
fn readable_head(settings: &LogSettings) -> Option<Head> {
    Head::decode(&fs::read(&settings.head).ok()?).ok()
}

/// The number of the epoch in the head, where the head is readable and of this log.
pub(super) fn epoch_of_head(settings: &LogSettings) -> Option<u32> {
    let head = readable_head(settings)?;
    let number = head.origin.strip_prefix(&settings.name)?.strip_prefix("/e")?.parse().ok()?;
    let epoch = EpochFolder::new(settings, number).ok()?;
    if epoch.origin == head.origin { Some(number) } else { None }
}

/// The size and root of the readable part of a lost epoch; `None` where it does not verify.
pub(super) fn left(settings: &LogSettings, lost: &EpochFolder) -> Option<Left> {
    let keys = read_vkeys(&fs::read_to_string(&settings.vkeys).ok()?).ok()?;
    let target = VerifyTarget { dir: &settings.dir, keys: &keys, head: None, since: None };
    let mut seen = match verify(&target, |_, _| ()) {
        Ok(seen) => seen,
        Err(fault) => {
            tracing::warn!(%fault, "what is left of the lost epoch does not verify");
            return None;
        }
    };
    let last = seen.pop()?;
    (last.origin == lost.origin).then(|| Left { size: last.size, root: STANDARD.encode(last.root) })
}

/// Records of a lost epoch that no checkpoint covers and that change the state. They come from its
/// journal and from the cache, as far as both are readable. Their order is that of the log, even
/// where the cache has more of it.
pub(super) fn saved(settings: &LogSettings, lost: &EpochFolder) -> Vec<Record> {
    let (Ok(vault), Ok(epochs)) =
        (Vault::read(&settings.record_keys), reader::epochs(&settings.dir))
    else {
        return Vec::new();
    };
    let Some(epoch) = epochs.iter().find(|epoch| epoch.number == lost.number) else {
        return Vec::new();
    };
    let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    // Records under the checkpoint are included from the first lost one: the cache may have records
    // that the tiles no longer have.
    let from = still_readable(epoch, &mut found);
    let seen = seen_by_cache(settings, lost, from, &mut found);
    let read = reader::each(epoch, epoch.signed.max(seen), |record| {
        found.insert(record.index, record.bytes.to_vec());
        ControlFlow::Continue(())
    });
    if let Err(fault) = read {
        tracing::warn!(%fault, "of the lost epoch's journal only a part was read");
    }
    let mut records = Vec::new();
    for bytes in found.into_values() {
        if let Ok(Some(record)) = Record::decode(&bytes, &vault)
            && changes_books(&record.event)
        {
            records.push(record);
        }
    }
    records
}

/// The number of records under the epoch's checkpoint before the first unreadable one. Readable
/// records after that are added to `found`, if they change the state.
fn still_readable(epoch: &reader::Epoch, found: &mut BTreeMap<u64, Vec<u8>>) -> u64 {
    let tiles = Tiles::new(&epoch.folder, epoch.signed);
    let mut until = None;
    for bundle in 0..epoch.signed.div_ceil(WIDTH) {
        let first = bundle * WIDTH;
        match tiles.bundle(bundle) {
            Err(_) => until = until.or(Some(first)),
            Ok(records) if until.is_some() => {
                for (index, record) in (first..).zip(records) {
                    if is_control(&record) {
                        found.insert(index, record);
                    }
                }
            }
            Ok(_) => {}
        }
    }
    until.unwrap_or(epoch.signed)
}

/// Adds the cache's records of that epoch to `found`, beginning with the index `from`. Returns how
/// many records of the epoch the cache covers.
fn seen_by_cache(
    settings: &LogSettings,
    lost: &EpochFolder,
    from: u64,
    found: &mut BTreeMap<u64, Vec<u8>>,
) -> u64 {
    let Some(cache) = Cache::existing(&settings.cache) else { return 0 };
    let Some(stamp) = cache.stamp() else { return 0 };
    let read = cache.controls(|epoch, index, bytes| {
        if epoch == lost.number && index >= from {
            found.insert(index, bytes.to_vec());
        }
        Ok::<_, LogFault>(())
    });
    if let Err(error) = read {
        tracing::warn!(%error, "the cache was not read");
    }
    if stamp.epoch == lost.number { stamp.size } else { 0 }
}

/// The epoch before `newest`, if `newest` was begun after a loss and a crash prevented the record
/// of that loss.
pub(super) fn unsaid(
    settings: &LogSettings,
    newest: &EpochFolder,
) -> Result<Option<EpochFolder>, LogFault> {
    if newest.number == 1
        || tiles::checkpoint_note(&newest.folder)?.is_some()
        || is_acknowledged(settings, newest)
    {
        return Ok(None);
    }
    // An acknowledged or readable first record states the loss already.
    let (segments, _) = tiles::segments(&newest.journal()).unwrap_or_default();
    for (_, path) in &segments {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        if journal::reach(&bytes, 1).1 > 0 {
            return Ok(None);
        }
    }
    let before = EpochFolder::new(settings, newest.number - 1)?;
    let (left, _) = tiles::segments(&before.journal()).unwrap_or_default();
    // A regular close removes the journal. A remaining journal shows that the epoch was not closed.
    let closed = left.is_empty() && tiles::checkpoint_note(&before.folder)?.is_some();
    Ok((!closed && before.folder.is_dir()).then_some(before))
}

/// Whether the head acknowledges a record of that epoch.
fn is_acknowledged(settings: &LogSettings, epoch: &EpochFolder) -> bool {
    let Some(head) = readable_head(settings) else { return false };
    head.origin == epoch.origin && head.size > 0
}

/// Writes a lost epoch's journal again as it reads, and syncs it. After a failed sync, the bytes
/// that were read may exist only in memory.
pub(super) fn write_again(disk: &Arc<dyn Disk>, lost: &EpochFolder) -> Result<(), LogFault> {
    let (segments, _) = tiles::segments(&lost.journal()).unwrap_or_default();
    for (_, path) in &segments {
        let bytes = fs::read(path).map_err(durable::DiskFault::of("read", path))?;
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(durable::DiskFault::of("open", path))?;
        write_synced(&**disk, &file, &bytes, 0).map_err(durable::DiskFault::of("write", path))?;
    }
    Ok(())
}

/// Whether the event changes the state. Records about the log itself, and about the gateway's
/// process, are not repeated in the next epoch.
const fn changes_books(event: &Event) -> bool {
    !matches!(
        event,
        Event::Epoch { .. }
            | Event::Pruned { .. }
            | Event::Start { .. }
            | Event::Stop
            | Event::Reload { .. }
            | Event::Handover { .. }
            | Event::ReloadRefused { .. }
            | Event::Clock { .. }
            | Event::Restored { .. }
            | Event::Backup { .. }
            | Event::Exported { .. }
            | Event::Disclosed { .. }
            | Event::TokenSigned { .. }
    )
}
