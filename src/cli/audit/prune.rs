//! `audit prune`: the records of old epochs go, or are moved; what proves that they were there stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::super::confirm::Sure;
use super::super::door::own_name;
use super::super::owner::done_by_owner;
use super::super::{Failure, Place};
use super::{bar, parse_duration};
use crate::audit::retain::{Keep, prune};
use crate::audit::tiles::epoch_name;
use crate::clock::{Clock, SystemClock};

#[derive(Args)]
pub(in crate::cli) struct Prune {
    /// How long records are kept: 400d. An epoch goes as a whole, once its last record is older. Default: `[audit] keep`.
    #[arg(long, value_parser = duration)]
    keep: Option<Duration>,
    /// Move them into this folder, a log of its own that `audit verify` verifies. Without it, and without `[audit] archive`, they are
    /// gone.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: Place,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no time: write 400d, 12h, 90m or 45s"))
}

impl Prune {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        if done_by_owner(&config.audit.dir)? {
            return Ok(());
        }
        self.sure.ask("records that are old enough are taken away")?;
        let configured = config.keep;
        let to = self.to.or_else(|| configured.as_ref().and_then(|keep| keep.to.clone()));
        let keep = self.keep.or(configured.map(|keep| keep.keep));
        let keep = keep.ok_or("how long are records kept? write --keep 400d, or [audit] keep in the config")?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let moved = if to.is_some() { "moved" } else { "removed" };
        let bar = bar(false);
        let old = prune(&config.audit, &clock, &Keep { keep, to }, Some(own_name()), |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let old = old?;
        for epoch in &old {
            println!("{}: {} records {moved}", epoch_name(epoch.number), epoch.size);
        }
        if old.is_empty() {
            eprintln!(
                "nothing to prune: no closed epoch is old enough, or the books' cache does not cover it yet (start and stop the gateway once)"
            );
        }
        Ok(())
    }
}
