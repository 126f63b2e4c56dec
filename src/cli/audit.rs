//! `token-shield audit …`: what anybody who has the log's folder can ask of it, without a gateway.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;

use super::Failure;
use crate::audit::note;
use crate::audit::verify::{Seen, Wanted, verify};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Verify every record, the tree over them, and that nothing acknowledged is missing. Nothing is locked or changed.
    #[command(after_help = "Example: token-shield audit verify ./data/audit --head ./data/secret/head")]
    Verify(Verify),
}

#[derive(Args)]
pub(super) struct Verify {
    /// The log's folder.
    #[arg(default_value = "./data/audit")]
    dir: PathBuf,
    /// The public keys of the log (log.vkeys); DIR/../log.vkeys where it is not said. Keep a copy where the gateway cannot write.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint of former times: proves that the log has only grown since.
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<PathBuf>,
    /// The head, which says how much was acknowledged; DIR/../secret/head where that is there.
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Verb {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Verify {
    fn run(self) -> Result<(), Failure> {
        let beside = self.dir.join("../secret/head");
        let head = self.head.or_else(|| beside.exists().then_some(beside));
        let keys = self.key.unwrap_or_else(|| self.dir.join("../log.vkeys"));
        let text = fs::read_to_string(&keys)
            .map_err(|error| format!("{}: {error}; name the log's public keys with --key FILE", keys.display()))?;
        let keys = note::read_vkeys(&text)?;
        let since = self
            .since
            .map(|path| fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display())))
            .transpose()?;
        let wanted = Wanted { dir: &self.dir, keys: &keys, head: head.as_deref(), since: since.as_deref() };
        let bar = bar(self.json);
        let seen = verify(&wanted, |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        match seen {
            Ok(seen) if self.json => {
                println!("{}", serde_json::json!({ "valid": true, "epochs": seen.iter().map(row).collect::<Vec<_>>() }))
            }
            Ok(seen) => seen.iter().for_each(say),
            Err(fault) if self.json => {
                println!(
                    "{}",
                    serde_json::json!({ "valid": false, "epoch": fault.epoch(), "index": fault.index(), "fault": fault.to_string() })
                );
                return Err("the log does not verify".into());
            }
            Err(fault) => return Err(fault.into()),
        }
        Ok(())
    }
}

/// A bar for runs that take long; none where the output is for a program.
fn bar(quiet: bool) -> ProgressBar {
    if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) }
}

fn row(epoch: &Seen) -> serde_json::Value {
    let (first, last) = epoch.times.clone().unzip();
    serde_json::json!({
        "origin": epoch.origin, "records": epoch.size, "signed": epoch.signed, "root": STANDARD.encode(epoch.root),
        "acknowledged": epoch.acknowledged, "first": first, "last": last, "unfinished_bytes": epoch.torn,
        "unfinished_files": epoch.unfinished, "lost_after": epoch.lost, "pruned": epoch.pruned,
    })
}

fn say(epoch: &Seen) {
    println!("valid: {}, {} records, root {}", epoch.origin, epoch.size, STANDARD.encode(epoch.root));
    if let Some((first, last)) = &epoch.times {
        println!("  from {first} to {last}");
    }
    println!("  {} of them under a signed checkpoint, {} durable but not yet signed", epoch.signed, epoch.size - epoch.signed);
    match epoch.acknowledged {
        Some(size) => println!("  {size} of them acknowledged, as the head says"),
        None => {
            println!("  without a head: whether records are missing at its end cannot be told (--head FILE, --since CHECKPOINT)")
        }
    }
    if epoch.torn > 0 {
        println!("  behind them {} bytes of an unfinished write that nobody was told of", epoch.torn);
    }
    if epoch.unfinished > 0 {
        println!("  {} files of an unfinished checkpoint, which the next start finishes", epoch.unfinished);
    }
    if let Some(reason) = &epoch.lost {
        println!("  something behind its end was lost, as an operator said: {reason}");
    }
    if epoch.pruned {
        println!("  its records were moved away; its tree and its checkpoint are here");
    }
}
