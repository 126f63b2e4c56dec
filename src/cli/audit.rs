//! `token-shield audit …`: what anybody who has the log's folder can ask of it, without a gateway.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use super::Failure;
use crate::audit::log::Log;

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
        let seen = Log::verify(&self.dir, head.as_deref())?;
        let (first, last) = seen.times.map(|(first, last)| (first.to_string(), last.to_string())).unzip();
        let root = STANDARD.encode(seen.root);
        if self.json {
            let row = serde_json::json!({
                "valid": true, "origin": seen.origin, "records": seen.size, "root": root, "acknowledged": seen.acknowledged,
                "first": first, "last": last, "unfinished_bytes": seen.torn.as_ref().map_or(0, |torn| torn.bytes),
            });
            println!("{row}");
            return Ok(());
        }
        println!("valid: {} records, root {root}", seen.size);
        if let (Some(first), Some(last)) = (first, last) {
            println!("from {first} to {last}");
        }
        match (seen.origin, seen.acknowledged) {
            (Some(origin), Some(size)) => println!("{size} of them acknowledged, as the head of {origin} says"),
            _ => println!("without a head: whether records are missing at the end cannot be told (--head FILE)"),
        }
        if let Some(torn) = seen.torn {
            println!("behind them {} bytes of an unfinished write that nobody was told of", torn.bytes);
        }
        Ok(())
    }
}
