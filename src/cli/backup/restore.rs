//! `token-shield restore`: a data folder from a backup.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use crate::audit::format::event::{Event, Previous};
use crate::audit::format::head::Head;
use crate::audit::read::copy::read;
use crate::audit::read::verify::VerifiedEpoch;
use crate::audit::store::log::{Log as AuditLog, LogSettings, NewEpoch};
use crate::cli::as_owner::own_name;
use crate::cli::owner::done_by_owner;
use crate::cli::target::folder_of;
use crate::cli::{Failure, GatewayArgs};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::socket::connect_at_once;
use crate::durable;

use super::CONFIG;
use super::files::{CopiedKeys, LogPaths, records_in};

#[derive(Args)]
pub(in crate::cli) struct Restore {
    /// The backup's folder.
    dir: PathBuf,
    #[command(flatten)]
    place: GatewayArgs,
}

/// Refuses a data folder that has a log. A restore must not mix two logs.
fn has_no_log(to: &LogPaths, temporary: &Path) -> Result<(), Failure> {
    for path in [to.audit.as_path(), &to.head, temporary, &to.record_keys, &to.log_keys, &to.vkeys]
    {
        if path.exists() {
            return Err(format!(
                "{} already exists: restore into a data folder without a log",
                path.display()
            )
            .into());
        }
    }
    Ok(())
}

/// Reads the head of a backup.
fn read_head(path: &Path) -> Result<Head, Failure> {
    if let Ok(bytes) = fs::read(path)
        && let Ok(head) = Head::decode(&bytes)
    {
        return Ok(head);
    }
    Err(format!("{}: the head is damaged", path.display()).into())
}

impl Restore {
    /// Verifies the backup, copies it, and records the restore in a new epoch.
    ///
    /// # Errors
    /// If a gateway runs, the data folder has a log, or the backup does not verify.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        let from = LogPaths::of_folder(&self.dir);
        let kept = self.dir.join(CONFIG);
        let file = self.place.find()?.config;
        let own = if file.exists() {
            None
        } else {
            Some(read(&kept)?.ok_or_else(|| format!("{} is missing", kept.display()))?)
        };
        let config = self.config(own.as_deref())?;
        // A running gateway writes to the same folder, so it must stop first.
        let runs = match connect_at_once(&config.proxy.admin) {
            Ok(_) => true,
            // Its backlog is full.
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if runs {
            return Err(
                format!("a gateway runs on {}: stop it first", config.data.display()).into()
            );
        }
        if done_by_owner(&config.audit, &[])? {
            return Ok(());
        }
        let to = LogPaths::of_config(&config);
        let temporary = to.head.with_file_name("head.restored");
        has_no_log(&to, &temporary)?;
        // Before the first write, so that a bad backup leaves the data folder unchanged.
        let seen = self.verified(&from)?;
        let head = read_head(&from.head)?;
        for folder in [&config.data, &config.data.join("secret")] {
            // A "." at the end of the config's path is not a folder.
            durable::make_private_dir(&folder.components().collect::<PathBuf>())?;
        }
        if let Some(text) = own {
            durable::write_new(&file, &text, 0o600)?;
        }
        // Without its head, no gateway can start from the log before the restore is recorded.
        from.copy(&to, &temporary, CopiedKeys { log: true, operators: true })?;
        let origin = begin(&config, &temporary, head)?;
        // The head gets its final name only now. An interruption before leaves a folder that no
        // gateway starts from.
        fs::rename(&temporary, &to.head).map_err(durable::DiskFault::of("move", &temporary))?;
        durable::sync_dir(folder_of(&to.head))?;
        self.report(&config, &seen, &origin);
        if rustix::process::geteuid().is_root() {
            eprintln!(
                "{} belongs to root: give it to the user that the gateway runs as (chown -R)",
                config.data.display()
            );
        }
        eprintln!("changes after the backup are lost: repeat later revocations");
        Ok(())
    }

    /// Verifies the backup, and checks that it has all that a gateway needs. Gives its epochs.
    fn verified(&self, from: &LogPaths) -> Result<Vec<VerifiedEpoch>, Failure> {
        if !from.record_keys.exists() {
            let what = "the backup has no record keys, so no gateway can start from it: put \
                secret/record-keys (and secret/log) into it";
            return Err(format!("{}: {what}", self.dir.display()).into());
        }
        let seen = from.verify().map_err(|fault| {
            format!("the backup in {} does not verify: {fault}", self.dir.display())
        })?;
        if let Some(epoch) = from.unsummarized(&seen).first() {
            let what =
                "their summary is missing: put secret/pruned of the data folder into the backup";
            let or = format!("or put the folder {epoch}/tile of the archive back into its audit");
            return Err(format!(
                "{}: the records of {epoch} were pruned, and {what}, {or}",
                self.dir.display()
            )
            .into());
        }
        Ok(seen)
    }

    /// Prints what was restored.
    fn report(&self, config: &Config, seen: &[VerifiedEpoch], origin: &str) {
        let records = records_in(seen);
        if self.place.json {
            println!(
                "{}",
                serde_json::json!({
                    "done": "restored", "data": config.data, "records": records,
                    "epochs": seen.len(), "origin": origin,
                })
            );
        } else {
            println!(
                "{}: {records} records in {} epochs, and {origin} begins",
                config.data.display(),
                seen.len()
            );
        }
    }

    /// The config of the gateway, or the config of the backup as it will be there.
    fn config(&self, own: Option<&[u8]>) -> Result<Config, Failure> {
        let Some(own) = own else { return self.place.read() };
        let target = self.place.find()?;
        let (file, text) = (target.config, std::str::from_utf8(own)?);
        let config = crate::config::read(text, folder_of(&file))
            .map_err(|faults| format!("{CONFIG} of the backup:\n{faults}"))?;
        if target.data.is_some_and(|data| data != config.data) {
            let there = config.data.display();
            return Err(format!(
                "the backup's config has its data in {there}: put a config at {} first",
                file.display()
            )
            .into());
        }
        Ok(config)
    }
}

/// Begins a new epoch in a restored log, whose head is the file `temporary`, and records the
/// backup's head. Another gateway may continue from the same log. It has a different epoch there,
/// with other keys.
fn begin(config: &Config, temporary: &Path, head: Head) -> Result<String, Failure> {
    let begin = NewEpoch {
        reason: "restored from a backup".to_owned(),
        by: Some(own_name()),
        after_loss: false,
    };
    let settings =
        LogSettings { head: temporary.to_owned(), begin: Some(begin), ..config.audit.clone() };
    let (log, _) = AuditLog::open(settings, Arc::new(SystemClock::start()))?;
    let head = Previous { origin: head.origin, size: head.size, root: STANDARD.encode(head.root) };
    log.append_blocking(Event::Restored { head }, Some(own_name()))?;
    log.close()?;
    Ok(log.origin().to_string())
}
