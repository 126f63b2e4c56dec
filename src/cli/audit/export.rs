//! `audit export` and `audit replay`: for people who check decisions later.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::Failure;
use super::super::target::LogArgs;
use super::trust::Trust;
use super::{CheckFiles, Checked, RecordKeyArgs, spinner};
use crate::audit::read::export::{Choice, export, names};
use crate::audit::read::reader::{self, Epoch};
use crate::audit::read::replay::{ReplayReport as Replayed, replay};
use crate::audit::read::tiles::{epoch_name, epoch_number};

#[derive(Args)]
pub(in crate::cli) struct Export {
    /// A new folder.
    to: PathBuf,
    #[command(flatten)]
    log: LogArgs,
    /// The epochs, such as e000001,e000002. Default: all closed epochs.
    #[arg(long, value_delimiter = ',', value_parser = epoch)]
    epochs: Vec<u32>,
    /// Only the keys for records of this principal.
    #[arg(long)]
    principal: Option<String>,
    /// No keys: the export can be verified, but not read.
    #[arg(long, conflicts_with = "principal")]
    without_keys: bool,
    /// The public keys of the log. Default: DIR/../log.vkeys.
    #[arg(long = "log-keys", alias = "vkeys", value_name = "FILE")]
    vkeys: Option<PathBuf>,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

/// Reads an epoch's name, such as `e000001`.
fn epoch(text: &str) -> Result<u32, String> {
    epoch_number(text).ok_or_else(|| format!("{text:?} is not an epoch: write e000001"))
}

#[derive(Args)]
pub(in crate::cli) struct Replay {
    /// The log's folder, instead of --dir.
    #[arg(value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    trust: Trust,
    /// The head. Default: DIR/../secret/head, if it exists.
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print the state that follows from the log, one JSON object a row.
    #[arg(long, conflicts_with = "json")]
    state: bool,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

impl Export {
    /// Records the export, and writes it.
    ///
    /// # Errors
    /// If the folder exists, a record cannot be read, or the export cannot be recorded.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let (epochs, opener) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        // The public keys are part of the export, so that its reader can verify it.
        let vkeys = self.vkeys.unwrap_or_else(|| dir.join("../log.vkeys"));
        let choice = Choice {
            epochs: self.epochs,
            principal: self.principal,
            without_keys: self.without_keys,
        };
        // The record comes before the first exported byte. An existing folder is refused below, so
        // it needs no record.
        let recorded = if self.to.exists() {
            None
        } else {
            record(&self.log, &dir, names(&epochs, &choice)?, &choice)?
        };
        let bar = spinner(self.log.json, "records");
        let done =
            export(&epochs, &vkeys, &*opener, &choice, &self.to, |done| bar.set_position(done));
        bar.finish_and_clear();
        let done = done?;
        if self.log.json {
            let mut rows = Vec::new();
            for (epoch, records) in &done.epochs {
                rows.push(serde_json::json!({ "epoch": epoch_name(*epoch), "records": records }));
            }
            let what = format!("exported to {}", self.to.display());
            println!(
                "{}",
                serde_json::json!({
                    "done": what, "to": self.to, "epochs": rows, "keys": done.keys,
                    "recorded": recorded,
                })
            );
            return Ok(());
        }
        for (epoch, records) in &done.epochs {
            println!("{}: {records} records", epoch_name(*epoch));
        }
        let to = self.to.display();
        println!(
            "verify with   token-shield audit verify --dir {to}/audit --log-keys {to}/log.vkeys"
        );
        if done.keys > 0 {
            println!(
                "read with     token-shield audit query --dir {to}/audit --record-keys \
                    {to}/keys.jsonl   ({} records)",
                done.keys
            );
        }
        Ok(())
    }
}

/// Records the export in the gateway's log.
#[cfg(feature = "gateway")]
fn record(
    log: &LogArgs,
    dir: &Path,
    epochs: Vec<String>,
    choice: &Choice,
) -> Result<Option<u64>, Failure> {
    let (principal, keys) = (choice.principal.clone(), !choice.without_keys);
    let command = crate::control::Command::EpochsExported { epochs, principal, keys };
    super::custody::record(log, dir, command)
}

/// A build without the gateway cannot write a log.
#[cfg(not(feature = "gateway"))]
fn record(_: &LogArgs, _: &Path, _: Vec<String>, _: &Choice) -> Result<Option<u64>, Failure> {
    Ok(None)
}

impl Replay {
    /// Verifies the log, and computes its state again.
    ///
    /// # Errors
    /// If the log does not verify, or a record does not follow from those before it.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(self.folder.clone())?;
        // A state that is computed from a changed log is no proof, so the log is verified first.
        let files = CheckFiles { head: self.head, since: None };
        let checked = Checked::of(&dir, &self.trust, files, self.log.json || self.state)?;
        checked.seen.map_err(|fault| format!("the log does not verify: {fault}"))?;
        let (epochs, opener) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        let bar = spinner(self.log.json || self.state, "records");
        let done = replay(&epochs, &*opener, |done| bar.set_position(done));
        bar.finish_and_clear();
        let done = done?;
        let cache = against_cache(&dir, &epochs)?;
        if self.log.json {
            println!("{}", row(&done, cache.as_deref()));
        } else if self.state {
            done.state.lines().iter().for_each(|line| println!("{line}"));
        } else {
            say(&done, cache.as_deref());
        }
        // A cache that differs from the log also fails, because a start would use it.
        match done.disagreeing + cache.map_or(0, |found| found.len() as u64) {
            0 => Ok(()),
            count => {
                Err(format!("{count} records do not follow from the records before them").into())
            }
        }
    }
}

/// The differences between the cache and the log, if there is a cache that no process uses.
#[cfg(feature = "gateway")]
fn against_cache(dir: &Path, epochs: &[Epoch]) -> Result<Option<Vec<String>>, Failure> {
    Ok(crate::audit::store::log::cache_against(&dir.join("../secret/cache"), epochs)?)
}

/// A build without the gateway has no cache.
#[cfg(not(feature = "gateway"))]
fn against_cache(_: &Path, _: &[Epoch]) -> Result<Option<Vec<String>>, Failure> {
    Ok(None)
}

/// The JSON form of a replay's result.
fn row(done: &Replayed, cache: Option<&[String]>) -> serde_json::Value {
    let mut disagreements = Vec::new();
    for found in &done.disagreements {
        disagreements.push(serde_json::json!({ "record": found.record, "what": found.what }));
    }
    serde_json::json!({
        "records": done.records, "admissions": done.admissions, "outcomes": done.outcomes,
        "refusals": done.refusals, "unknown": done.unknown, "open": done.open,
        "undecrypted": done.closed, "pruned": done.moved,
        "disagreement_count": done.disagreeing, "cache": cache, "disagreements": disagreements,
    })
}

/// Prints a replay's result for people.
fn say(done: &Replayed, cache: Option<&[String]>) {
    println!(
        "{} records: {} admissions, {} outcomes, {} refusals",
        done.records, done.admissions, done.outcomes, done.refusals
    );
    for (count, what) in [
        (done.unknown, "admissions without an outcome, which a later start closed as unknown"),
        (done.open, "admissions without an outcome so far"),
        (
            done.closed,
            "records that these keys do not decrypt: differences that depend on them are not \
                reported",
        ),
        (done.moved, "records were pruned: differences that depend on them are not reported"),
    ] {
        if count > 0 {
            println!("  {count} {what}");
        }
    }
    for found in &done.disagreements {
        println!("{}: {}", found.record, found.what);
    }
    for found in cache.unwrap_or_default() {
        println!("{found}");
    }
    if cache.is_some_and(<[String]>::is_empty) {
        println!("the cache agrees with the log");
    }
    if done.disagreeing == 0 {
        println!("the state agrees with every decision");
    }
}
