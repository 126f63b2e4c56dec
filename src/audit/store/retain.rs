//! Retention: removes or moves the records of old epochs. The checkpoints stay and prove that the
//! records existed.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::audit::format::envelope::Envelope;
use crate::audit::format::event::Event;
use crate::audit::format::note::{LogKeys, NoteFault, read_vkeys};
use crate::audit::read::copy::{self, CopyFault, Sink};
use crate::audit::read::reader::{self, ReadFault};
use crate::audit::read::tiles::{checkpoint_note, epoch_name, is_pruned};
use crate::audit::read::verify::{VerifyFault, VerifyTarget, verify};
use crate::audit::store::log::{Log, LogFault, LogSettings, Old, Pruning};
use crate::clock::{Clock, Timestamp};
use crate::durable;

/// A maximum age of an epoch that no epoch reaches: 136 years.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The retention of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The records of an epoch are removed together, when the last one is older than this.
    pub keep: Duration,
    /// The archive: a folder with the layout of a log. Without it the records are deleted.
    pub to: Option<PathBuf>,
}

/// The reasons why no records, or only some, were removed.
#[derive(Debug, thiserror::Error)]
pub enum RetainFault {
    /// A fault of the log.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// The log does not verify. After a prune, the defect would look like a result of the prune.
    #[error("the log does not verify, so no record was removed: {0}")]
    Damaged(VerifyFault),
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// The log's public keys cannot be decoded.
    #[error("{}: {fault}", path.display())]
    Keys {
        /// The file of the keys.
        path: PathBuf,
        /// The defect.
        fault: NoteFault,
    },
    /// A copy could not be made.
    #[error(transparent)]
    Copy(#[from] CopyFault),
    /// A copy does not verify.
    #[error("the copy in {} does not verify, so no record was removed: {fault}", to.display())]
    BadCopy {
        /// The folder of the copy.
        to: PathBuf,
        /// The defect.
        fault: VerifyFault,
    },
    /// The log's records cannot be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The target folder of the copy contains another epoch.
    #[error("{} is there already, and is another epoch", .0.display())]
    Taken(PathBuf),
}

/// The maximum time by which the clock may be ahead of the newest record, for a prune at a start. A
/// prune by a wrong clock cannot be undone.
const AHEAD_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether the clock is so far ahead of the log that an operator should confirm the age.
///
/// # Errors
/// When the log cannot be read.
pub fn is_clock_doubtful(settings: &LogSettings, clock: &dyn Clock) -> Result<bool, RetainFault> {
    let epochs = reader::epochs(&settings.dir)?;
    let mut newest = None;
    if let Some(last) = epochs.last() {
        let _ = reader::each(last, last.signed.saturating_sub(1), |found| {
            // A record whose time cannot be read does not count.
            if let Ok(at) = Envelope::read(found.bytes).and_then(|envelope| envelope.moment()) {
                newest = Some(at);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(newest.is_none_or(|newest| newest.plus(AHEAD_MAX) < clock.now()))
}

/// The operator and the reason in the record of a prune. Both are absent where only the config
/// causes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReason {
    /// The operator, `uid:N`.
    pub by: Option<String>,
    /// The operator's reason.
    pub reason: Option<String>,
}

/// The result of a prune.
#[derive(Debug, Default)]
pub struct PruneResult {
    /// The pruned epochs; none where no epoch is old enough.
    pub epochs: Vec<Old>,
    /// The index of the `pruned` record in the newest epoch.
    pub appended: Option<u64>,
}

/// Removes the records of every epoch that is older than `keep` allows, while no gateway writes the
/// log. The records are first copied and verified. Then the prune is recorded (`pruned`, with
/// `said`), and then they are removed. `progress` gets the number of verified records and the
/// total.
///
/// # Errors
/// Any fault before the removal leaves the log as it was. A fault during it leaves an epoch half
/// removed, which the next run finishes.
pub fn prune(
    settings: &LogSettings,
    clock: &Arc<dyn Clock>,
    keep: &Keep,
    said: PruneReason,
    mut progress: impl FnMut(u64, u64),
) -> Result<PruneResult, RetainFault> {
    // This check comes first: copies that root writes would belong to root.
    settings.is_own()?;
    let kept = i64::try_from(keep.keep.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(clock.now().0.saturating_sub(kept));
    let pruning = Pruning::begin(settings)?;
    let old = pruning.old(before)?;
    let Some(last) = old.last() else { return Ok(PruneResult::default()) };
    let known = read_keys(&settings.vkeys)?;
    let wanted =
        VerifyTarget { dir: &settings.dir, keys: &known, head: Some(&settings.head), since: None };
    verify(&wanted, &mut progress).map_err(RetainFault::Damaged)?;
    if let Some(to) = &keep.to {
        old.iter().try_for_each(|epoch| copy_to(epoch, to))?;
        let wanted = VerifyTarget { dir: to, keys: &known, head: None, since: None };
        verify(&wanted, &mut progress)
            .map_err(|fault| RetainFault::BadCopy { to: to.clone(), fault })?;
    }
    // `Log::open` needs the lock that `pruning` has.
    drop(pruning);
    // The newest epoch continues here, whatever its age. Only a start begins the next one.
    let (log, _) = Log::open(
        LogSettings { begin: None, existing: true, epoch_max: FOR_EVER, ..settings.clone() },
        Arc::clone(clock),
    )?;
    let pruned = Event::Pruned { through: epoch_name(last.number), reason: said.reason };
    let appended = log.append_blocking(pruned, said.by)?.index;
    log.close()?;
    // Crash here: the record states that records may be missing, but all are there. The next run
    // removes them.
    let pruning = Pruning::begin(settings)?;
    for epoch in &old {
        pruning.take_away(epoch)?;
    }
    drop(pruning);
    after(settings, &read_keys(&settings.vkeys)?, progress)?;
    Ok(PruneResult { epochs: old, appended: Some(appended) })
}

/// Reads the log's public keys.
fn read_keys(path: &Path) -> Result<Vec<LogKeys>, RetainFault> {
    let text = fs::read_to_string(path).map_err(durable::DiskFault::of("read", path))?;
    read_vkeys(&text).map_err(|fault| RetainFault::Keys { path: path.to_owned(), fault })
}

/// Verifies the log after the prune.
fn after(
    settings: &LogSettings,
    keys: &[LogKeys],
    progress: impl FnMut(u64, u64),
) -> Result<(), RetainFault> {
    let wanted = VerifyTarget { dir: &settings.dir, keys, head: Some(&settings.head), since: None };
    verify(&wanted, progress).map_err(RetainFault::Damaged)?;
    Ok(())
}

/// Copies an epoch to a folder in `to`. An existing copy must be of the same epoch: then an earlier
/// run was interrupted.
fn copy_to(epoch: &Old, to: &Path) -> Result<(), RetainFault> {
    let name = epoch_name(epoch.number);
    let (target, temporary) = (to.join(&name), to.join("tmp").join(&name));
    if !target.exists() {
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(durable::DiskFault::of("remove", &temporary))?;
        }
        let mut sink = Sink::default();
        copy::closed_epoch(&epoch.folder, &temporary, &mut sink)?;
        sink.settle()?;
        fs::rename(&temporary, &target).map_err(durable::DiskFault::of("move", &temporary))?;
        durable::sync_dir(to)?;
    }
    if checkpoint_note(&target)? != checkpoint_note(&epoch.folder)? || is_pruned(&target) {
        return Err(RetainFault::Taken(target));
    }
    Ok(())
}
