//! `token-shield backup`: a folder with everything from which a gateway can start again.

mod files;
pub(super) mod restore;

use std::fs;
use std::path::PathBuf;

use clap::Args;

use files::{CopiedKeys, LogPaths, is_empty, records_in};

use super::admin_client::send;
use super::{Failure, GatewayArgs};
use crate::audit::read::verify::VerifiedEpoch;
use crate::config::Config;
use crate::control::Command;
use crate::control::api::AdminRequest;
use crate::durable;

/// The config's name in a backup, as in a data folder.
const CONFIG: &str = "token-shield.toml";
/// The number of reads of the record keys. A read in the middle of a write is repeated.
const TRIES: usize = 50;

#[derive(Args)]
pub(super) struct Backup {
    /// The backup's folder, new or empty.
    dir: PathBuf,
    /// Leave out the keys that decrypt and sign records. The backup can be verified, but not read.
    #[arg(long, conflicts_with = "with_operator_keys")]
    without_keys: bool,
    /// Also copy the private keys in DATA/keys, which sign tokens.
    #[arg(long)]
    with_operator_keys: bool,
    #[command(flatten)]
    place: GatewayArgs,
}
impl Backup {
    /// Makes and verifies the backup.
    ///
    /// # Errors
    /// If the folder is not empty, the copy does not verify or lacks a part, or the backup cannot
    /// be recorded.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        if self.dir.exists() && !is_empty(&self.dir) {
            return Err(format!("{} is not empty: name a new folder", self.dir.display()).into());
        }
        let (from, to) = (LogPaths::of_config(&config), LogPaths::of_folder(&self.dir));
        if !from.head.exists() {
            return Err(
                format!("{} is missing: there is no log to back up", from.head.display()).into()
            );
        }
        // Before the copy, so that the backup contains the record about itself.
        let recorded = self.record(&config).await;
        durable::make_private_dir(&self.dir)?;
        let file = self.place.find()?.config;
        let text = fs::read(&file).map_err(durable::DiskFault::of("read", &file))?;
        // Mode 0600, as for all files of a backup: other users must not read it.
        durable::write_new(&self.dir.join(CONFIG), &text, 0o600)?;
        let chosen = CopiedKeys { log: !self.without_keys, operators: self.with_operator_keys };
        from.copy(&to, &to.head, chosen)?;
        // The copy is verified, and not the source: only this proves that the backup can be used.
        let seen = to.verify().map_err(|fault| {
            format!("the copy in {} does not verify: {fault}", self.dir.display())
        })?;
        let lacks = if self.without_keys {
            Vec::new()
        } else {
            to.lacks(&config, &seen, self.with_operator_keys)?
        };
        self.say(&seen, &lacks);
        if !lacks.is_empty() {
            let (dir, lacks) = (self.dir.display(), lacks.join("; "));
            return Err(format!(
                "the backup in {dir} lacks {lacks}: it verifies, but no gateway can start from it"
            )
            .into());
        }
        // A log that cannot be written needs a backup even more. Then the backup is not recorded.
        recorded.map_err(|fault| {
            format!("{} is complete, but not recorded: {fault}", self.dir.display()).into()
        })
    }

    /// Records the backup in the log.
    async fn record(&self, config: &Config) -> Result<(), Failure> {
        if !config.audit.record_keys.exists() {
            // Opening the log would make a new file of keys.
            return Err("its record keys are missing".into());
        }
        let command = Command::BackupMade {
            keys: !self.without_keys,
            operator_keys: self.with_operator_keys,
        };
        send(&self.place, AdminRequest::Command(command)).await.map(|_| ())
    }

    /// Prints what the backup has and lacks.
    fn say(&self, seen: &[VerifiedEpoch], lacks: &[String]) {
        let records = records_in(seen);
        if self.place.json {
            let (origin, size) = match seen.last() {
                Some(epoch) => (Some(&epoch.origin), Some(epoch.size)),
                None => (None, None),
            };
            let mut pruned = Vec::new();
            for epoch in seen {
                if epoch.pruned {
                    pruned.push(epoch.origin.as_str());
                }
            }
            println!(
                "{}",
                serde_json::json!({
                    "dir": self.dir, "records": records, "origin": origin, "size": size,
                    "pruned": pruned, "missing": lacks,
                })
            );
        } else {
            println!(
                "{}: {records} records in {} epochs, verified",
                self.dir.display(),
                seen.len()
            );
        }
        if self.without_keys {
            eprintln!(
                "without keys: it can be verified, but not read; before a restore, put \
                    secret/record-keys and secret/log into it"
            );
        }
    }
}
