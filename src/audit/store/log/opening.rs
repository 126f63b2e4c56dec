//! Opening a log: selects the epoch to resume, and begins the next one where that is due or something is lost.

use std::fs;
use std::sync::Arc;

use super::epoch::{EpochFolder, first_record, last_known, make_folders};
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
    let newest = if settings.dir.is_dir() {
        tiles::epochs(&settings.dir)?.last().map(|(number, _)| *number)
    } else {
        None
    };
    // The newest one may be gone, folder and all: the head knows of it.
    let newest = newest.max(succeed::epoch_of_head(settings));
    settings.may_begin(newest.is_none())?;
    settings.is_own()?;
    let mut epoch = EpochFolder::new(settings, newest.unwrap_or(1))?;
    if succeed::abandoned(settings, &epoch)? {
        epoch = EpochFolder::new(settings, epoch.number - 1)?;
    }
    let lossy = settings.begin.as_ref().filter(|begin| begin.after_loss);
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

/// A new epoch behind one of which something is lost, as an operator says: what is left of it stays as it is.
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
    // What was durable and under no checkpoint, and what the cache has seen of it, is recorded anew: no revocation is lost.
    let saved = succeed::saved(settings, lost);
    let next = EpochFolder::new(settings, lost.number + 1)?;
    let before = fs::read(&settings.head).ok();
    succeed::begin(settings, &next)?;
    let mut opened = resume(settings, disk, &next, Carried::default()).inspect_err(|_| {
        // As it was: the next try begins where this one did. Crash here: `abandoned` takes the folder away.
        if let Some(before) = before {
            let _ = durable::write_atomic(&settings.head, &before, 0o600);
        }
        let _ = fs::remove_dir_all(&next.folder);
    })?;
    let reason = format!("after-loss: {}", asked.reason);
    opened.first = vec![(first_record(&last, &reason, left), asked.by.clone())];
    opened.first.extend(saved.iter().map(|record| (record.event.clone(), record.by.clone())));
    opened.recovered.records.extend(saved);
    Ok(opened)
}
