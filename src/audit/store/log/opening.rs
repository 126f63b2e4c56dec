//! Opening a log: selects the epoch to resume. Begins the next one where that is due, or after a
//! loss.

use std::fs;
use std::sync::Arc;

use super::epoch::{EpochFolder, first_record, last_known, make_folders, newest_epoch};
use super::recover::{Carried, Opened, resume, take_lock};
use super::{LogFault, LogSettings, NewEpoch, succeed};
use crate::audit::read::tiles;
use crate::clock::Timestamp;
use crate::durable::{self, Disk};

/// Opens or begins the log, and takes its lock.
pub(super) fn open(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    now: Timestamp,
    carried: Carried,
) -> Result<Opened, LogFault> {
    // The epochs are listed by folder, and the newest is compared with the head below.
    let newest = if settings.dir.is_dir() { newest_epoch(settings)? } else { None };
    // The newest folder may be missing completely. The head then still names its epoch.
    let newest = newest.max(succeed::epoch_of_head(settings));
    settings.may_begin(newest.is_none())?;
    settings.is_own()?;
    let mut epoch = EpochFolder::new(settings, newest.unwrap_or(1))?;
    if succeed::abandoned(settings, &epoch)? {
        epoch = EpochFolder::new(settings, epoch.number - 1)?;
    }
    let lossy = settings.confirmed_loss();
    // A start after a loss was interrupted before its first record. It must be repeated with the
    // operator's confirmation, or the loss would stay unrecorded.
    if let Some(lost) = succeed::unsaid(settings, &epoch)? {
        let begin = lossy.ok_or_else(|| LogFault::LossUnsaid(tiles::epoch_name(lost.number)))?;
        fs::remove_dir_all(&epoch.folder)
            .map_err(durable::DiskFault::of("remove", &epoch.folder))?;
        return after_loss(settings, disk, &lost, begin);
    }
    if let Some(begin) = lossy {
        return after_loss(settings, disk, &epoch, begin);
    }
    let opened = resume(settings, disk, &epoch, carried)?;
    match succeed::why(settings, &epoch, &opened, now)? {
        None => Ok(opened),
        Some(asked) => succeed::close_and_begin(settings, disk, &epoch, opened, asked),
    }
}

/// Begins a new epoch after one with a loss that the operator confirms. The rest of the lost epoch
/// stays as it is.
fn after_loss(
    settings: &LogSettings,
    disk: &Arc<dyn Disk>,
    lost: &EpochFolder,
    asked: &NewEpoch,
) -> Result<Opened, LogFault> {
    make_folders(settings, lost)?;
    let _lock = take_lock(lost)?;
    succeed::write_again(disk, lost)?;
    let (last, left) = (last_known(settings, lost), succeed::left(settings, lost));
    // Records of the journal, and of the cache, that no checkpoint covers are recorded again. So no
    // revocation is lost.
    let saved = succeed::saved(settings, lost);
    let next = EpochFolder::new(settings, lost.number + 1)?;
    let before = fs::read(&settings.head).ok();
    succeed::begin(settings, &next)?;
    let mut opened = resume(settings, disk, &next, Carried::default()).inspect_err(|_| {
        // Restores the head, so that the next try begins at the same point. Crash here: `abandoned`
        // removes the folder.
        if let Some(before) = before {
            let _ = durable::write_atomic(&settings.head, &before, 0o600);
        }
        let _ = fs::remove_dir_all(&next.folder);
    })?;
    let reason = format!("after-loss: {}", asked.reason);
    opened.first = vec![(first_record(&last, &reason, left), asked.by.clone())];
    for record in &saved {
        opened.first.push((record.event.clone(), record.by.clone()));
    }
    opened.recovered.records.extend(saved);
    Ok(opened)
}
