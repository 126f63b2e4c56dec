//! `audit prune`: the records of old epochs go, or are moved; what proves that they were there stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::super::{Failure, Place};
use super::{now, parse_duration, verifier_keys};
use crate::audit::copy::{self, Sink};
use crate::audit::log::{Old, Pruning};
use crate::audit::tiles::{checkpoint_note, epoch_name};
use crate::audit::verify::{Wanted, verify};
use crate::clock::Timestamp;
use crate::durable;

#[derive(Args)]
pub(in crate::cli) struct Prune {
    /// How long records are kept: 400d. An epoch goes as a whole, once its last record is older.
    #[arg(long, value_parser = duration)]
    keep: Duration,
    /// Move them into this folder, a log of its own that `audit verify` verifies. Without it they are gone.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no time: write 400d, 12h, 90m or 45s"))
}

impl Prune {
    pub(super) fn run(self) -> Result<(), Failure> {
        let log = self.place.read()?.audit;
        let pruning = Pruning::begin(&log)?;
        let keys = verifier_keys(&log.vkeys)?;
        let whole = |dir: &Path, head: Option<&Path>| verify(&Wanted { dir, keys: &keys, head, since: None }, |_, _| ());
        // What does not verify now would be blamed on this.
        whole(&log.dir, Some(&log.head))?;
        let keep = i64::try_from(self.keep.as_millis())?;
        let old = pruning.old(Timestamp(now().0.saturating_sub(keep)))?;
        for epoch in &old {
            if let Some(to) = &self.to {
                copy_to(epoch, to)?;
                whole(to, None).map_err(|fault| format!("the copy in {} does not verify: {fault}", to.display()))?;
            }
            pruning.take_away(epoch)?;
            println!(
                "{}: {} records {}",
                epoch_name(epoch.number),
                epoch.size,
                if self.to.is_some() { "moved" } else { "removed" }
            );
        }
        whole(&log.dir, Some(&log.head))?;
        if old.is_empty() {
            eprintln!(
                "nothing to prune: no closed epoch is old enough, or the books' cache does not cover it yet (start and stop the gateway once)"
            );
        }
        Ok(())
    }
}

/// Copies an epoch below `to`. One that is there already must be the same: a run was interrupted.
fn copy_to(epoch: &Old, to: &Path) -> Result<(), Failure> {
    let name = epoch_name(epoch.number);
    let (target, passing) = (to.join(&name), to.join("tmp").join(&name));
    if !target.exists() {
        if passing.exists() {
            fs::remove_dir_all(&passing).map_err(durable::Fault::of("remove", &passing))?;
        }
        let mut sink = Sink::default();
        copy::closed_epoch(&epoch.folder, &passing, &mut sink)?;
        sink.settle()?;
        fs::rename(&passing, &target).map_err(durable::Fault::of("move", &passing))?;
        durable::sync_dir(to)?;
    }
    if checkpoint_note(&target)? != checkpoint_note(&epoch.folder)? || crate::audit::tiles::is_pruned(&target) {
        return Err(format!("{} is there already, and is another epoch", target.display()).into());
    }
    Ok(())
}
