//! How long records are kept: those of old epochs go, or are moved; what proves that they were there stays.

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

/// No epoch is older: 136 years.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// How long records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// An epoch's records go as a whole, once the last is older than this.
    pub keep: Duration,
    /// Where to, as a log of its own; without it they are gone.
    pub to: Option<PathBuf>,
}

/// Why nothing was taken away, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RetainFault {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// What does not verify now would be blamed on this.
    #[error("the log does not verify, and nothing is taken away: {0}")]
    Damaged(VerifyFault),
    /// A file.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// The log's public keys.
    #[error("{}: {fault}", path.display())]
    Keys {
        /// Their file.
        path: PathBuf,
        /// What is wrong with it.
        fault: NoteFault,
    },
    /// A copy that could not be made.
    #[error(transparent)]
    Copy(#[from] CopyFault),
    /// A copy that does not verify.
    #[error("the copy in {} does not verify, and nothing is taken away: {fault}", to.display())]
    BadCopy {
        /// Where.
        to: PathBuf,
        /// What is wrong.
        fault: VerifyFault,
    },
    /// The log's records.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// Something else in the copy's place.
    #[error("{} is there already, and is another epoch", .0.display())]
    Taken(PathBuf),
}

/// How far the clock may be ahead of the newest record for a start to take records away by it: what is gone does not come back when
/// the clock is set right.
const AHEAD_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether the clock is so far ahead of the log that its age should be asked of an operator.
///
/// # Errors
/// When the log cannot be read.
pub fn is_clock_doubtful(settings: &LogSettings, clock: &dyn Clock) -> Result<bool, RetainFault> {
    let epochs = reader::epochs(&settings.dir)?;
    let mut newest = None;
    if let Some(last) = epochs.last() {
        let _ = reader::each(last, last.signed.saturating_sub(1), |found| {
            newest =
                Envelope::read(found.bytes).and_then(|envelope| envelope.moment()).ok().or(newest);
            ControlFlow::Continue(())
        })?;
    }
    Ok(newest.is_none_or(|newest| newest.plus(AHEAD_MAX) < clock.now()))
}

/// What the record says of who takes records away; both are absent where the config alone says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReason {
    /// The operator, `uid:N`.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What was taken away.
#[derive(Debug, Default)]
pub struct PruneResult {
    /// The epochs; none where none is old enough.
    pub epochs: Vec<Old>,
    /// The index of the record that says so, in the newest epoch.
    pub appended: Option<u64>,
}

/// Takes away the records of every epoch that is older than `keep` says, where no gateway writes the log: copied and verified
/// first, then recorded (`pruned`, with what is `said`), then removed. `progress` hears how many records are verified, and of how
/// many.
///
/// # Errors
/// Whatever leaves the log as it was, or an epoch half taken away, which the next run finishes.
pub fn prune(
    settings: &LogSettings,
    clock: &Arc<dyn Clock>,
    keep: &Keep,
    said: PruneReason,
    mut progress: impl FnMut(u64, u64),
) -> Result<PruneResult, RetainFault> {
    let keys = |path: &Path| {
        let text = fs::read_to_string(path).map_err(durable::DiskFault::of("read", path))?;
        read_vkeys(&text).map_err(|fault| RetainFault::Keys { path: path.to_owned(), fault })
    };
    // Before anything is written: the copies too would be root's.
    settings.is_own()?;
    let kept = i64::try_from(keep.keep.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(clock.now().0.saturating_sub(kept));
    let pruning = Pruning::begin(settings)?;
    let old = pruning.old(before)?;
    let Some(last) = old.last() else { return Ok(PruneResult::default()) };
    let known = keys(&settings.vkeys)?;
    let wanted =
        VerifyTarget { dir: &settings.dir, keys: &known, head: Some(&settings.head), since: None };
    verify(&wanted, &mut progress).map_err(RetainFault::Damaged)?;
    if let Some(to) = &keep.to {
        old.iter().try_for_each(|epoch| copy_to(epoch, to))?;
        let wanted = VerifyTarget { dir: to, keys: &known, head: None, since: None };
        verify(&wanted, &mut progress)
            .map_err(|fault| RetainFault::BadCopy { to: to.clone(), fault })?;
    }
    drop(pruning);
    // In the epoch that stands there, however old: a start begins the next.
    let (log, _) = Log::open(
        LogSettings { begin: None, existing: true, epoch_max: FOR_EVER, ..settings.clone() },
        Arc::clone(clock),
    )?;
    let pruned = Event::Pruned { through: epoch_name(last.number), reason: said.reason };
    let appended = log.append_blocking(pruned, said.by)?.index;
    log.close()?;
    // Crash here: a record of what may be missing, and nothing is. The next run takes it away.
    let pruning = Pruning::begin(settings)?;
    for epoch in &old {
        pruning.take_away(epoch)?;
    }
    drop(pruning);
    after(settings, &keys(&settings.vkeys)?, progress)?;
    Ok(PruneResult { epochs: old, appended: Some(appended) })
}

fn after(
    settings: &LogSettings,
    keys: &[LogKeys],
    progress: impl FnMut(u64, u64),
) -> Result<(), RetainFault> {
    let wanted = VerifyTarget { dir: &settings.dir, keys, head: Some(&settings.head), since: None };
    verify(&wanted, progress).map(|_| ()).map_err(RetainFault::Damaged)
}

/// Copies an epoch below `to`. One that is there already must be the same: a run was interrupted.
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
