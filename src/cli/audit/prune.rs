//! `audit prune`: removes or moves the records of old epochs. The proof that they existed stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::as_owner::own_name;
use super::super::confirm::Sure;
use super::super::owner::done_by_owner;
use super::super::print::{done, resting};
use super::super::{Failure, GatewayArgs};
use super::{bar, parse_duration};
use crate::audit::read::tiles::epoch_name;
use crate::audit::store::retain::{Keep, PruneReason, prune};
use crate::clock::{Clock, SystemClock};
use crate::control::Reply;

/// The note for a run that pruned no epoch.
const NONE_PRUNED: &str = "no epoch was pruned: no closed epoch is old enough, or the cache of the \
    log does not cover it yet (start and stop the gateway once)";

#[derive(Args)]
pub(in crate::cli) struct Prune {
    /// How long to keep records, such as 400d. A whole epoch is pruned when its last record is
    /// older. Default: `[audit] keep`.
    #[arg(long, value_parser = duration)]
    keep: Option<Duration>,
    /// Move the records into this folder, a log that `audit verify` can verify. Default: `[audit]
    /// archive`. Without both, the records are deleted.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// The reason, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: GatewayArgs,
}

/// Reads a duration such as `400d`.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("{text:?} is not a time: write 400d, 12h, 90m or 45s"))
}

impl Prune {
    /// Prunes the old epochs after a confirmation.
    ///
    /// # Errors
    /// If a gateway runs, or the time to keep records is missing.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        // First: the owner's process has no terminal for the question.
        self.sure.ask("this prunes old records")?;
        if done_by_owner(&config.audit, self.sure.words())? {
            return Ok(());
        }
        let configured = config.keep.clone();
        // Options come before the config, one by one.
        let to = match (self.to, &configured) {
            (Some(to), _) => Some(to),
            (None, Some(keep)) => keep.to.clone(),
            (None, None) => None,
        };
        let keep = self.keep.or(configured.map(|keep| keep.keep));
        let keep = keep.ok_or(
            "the time to keep records is missing: use --keep 400d, or [audit] keep in the config",
        )?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let moved = if to.is_some() { "moved" } else { "removed" };
        let said = PruneReason { by: Some(own_name()), reason: self.reason };
        let bar = bar(self.place.json);
        let taken =
            prune(&config.audit, &clock, &Keep { keep, to: to.clone() }, said, |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            });
        bar.finish_and_clear();
        let taken = taken?;
        let note = if taken.epochs.is_empty() { Some(NONE_PRUNED.to_owned()) } else { None };
        if self.place.json {
            let mut epochs = Vec::new();
            for epoch in &taken.epochs {
                let name = epoch_name(epoch.number);
                epochs.push(json!({ "epoch": name, "records": epoch.size }));
            }
            let reply =
                Reply { sealed: taken.appended.into_iter().collect(), note, ..resting(&config) };
            println!(
                "{}",
                done(
                    &format!("{} epochs {moved}", epochs.len()),
                    json!({ "epochs": epochs, "to": to }),
                    &reply
                )
            );
            return Ok(());
        }
        for epoch in &taken.epochs {
            println!("{}: {} records {moved}", epoch_name(epoch.number), epoch.size);
        }
        note.iter().for_each(|note| eprintln!("{note}"));
        Ok(())
    }
}
