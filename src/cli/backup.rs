//! `token-shield backup` and `token-shield restore`: everything that a gateway cannot be without, in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::audit::bar;
use super::owner::done_by_owner;
use super::{Failure, Place};
use crate::audit::copy::{self, Sink, read};
use crate::audit::note;
use crate::audit::vault::{Vault, VaultFault};
use crate::audit::verify::{Seen, Wanted, verify};
use crate::config::Config;
use crate::durable;

/// The config's name in a backup, as in a data folder.
const CONFIG: &str = "token-shield.toml";
/// How often the record keys may be half written when they are read.
const TRIES: usize = 50;

#[derive(Args)]
pub(super) struct Backup {
    /// The backup's folder: a new or an empty one.
    dir: PathBuf,
    /// Leave out what opens and signs records: the backup proves what happened, and whoever has it reads nothing.
    #[arg(long, conflicts_with = "with_operator_keys")]
    without_keys: bool,
    /// Copy the private keys in DATA/keys too, with which tokens are signed.
    #[arg(long)]
    with_operator_keys: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Restore {
    /// The backup's folder.
    dir: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// The paths of a log, and of what belongs to it.
struct Log {
    audit: PathBuf,
    head: PathBuf,
    record_keys: PathBuf,
    log_keys: PathBuf,
    vkeys: PathBuf,
    keys: PathBuf,
}

impl Log {
    fn of_folder(data: &Path) -> Self {
        let secret = data.join("secret");
        Self {
            audit: data.join("audit"),
            head: secret.join("head"),
            record_keys: secret.join("record-keys"),
            log_keys: secret.join("log"),
            vkeys: data.join("log.vkeys"),
            keys: data.join("keys"),
        }
    }

    fn of_config(config: &Config) -> Self {
        let log = config.audit.clone();
        Self {
            audit: log.dir,
            head: log.head,
            record_keys: log.record_keys,
            log_keys: log.log_keys,
            vkeys: log.vkeys,
            keys: config.data.join("keys"),
        }
    }

    fn verify(&self) -> Result<Vec<Seen>, Failure> {
        let text = fs::read_to_string(&self.vkeys).map_err(durable::Fault::of("read", &self.vkeys))?;
        let keys = note::read_vkeys(&text)?;
        let bar = bar(false);
        let seen = verify(&Wanted { dir: &self.audit, keys: &keys, head: Some(&self.head), since: None }, |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        Ok(seen?)
    }

    /// Copies everything to `to`; the head, which says that the rest is there, last.
    fn copy(&self, to: &Self, (sealing, operators): (bool, bool)) -> Result<(), Failure> {
        let mut sink = Sink::default();
        let head = copy::log(&self.audit, &self.head, &to.audit, &mut sink)?;
        // After the log: a record's key was there before the record.
        if sealing {
            if let Some(bytes) = whole_vault(&self.record_keys)? {
                sink.put(&to.record_keys, &bytes)?;
            }
            folder(&self.log_keys, &to.log_keys, &mut sink, |_| true)?;
        }
        folder(&self.keys, &to.keys, &mut sink, |name| operators || name.ends_with(".pub"))?;
        if let Some(bytes) = read(&self.vkeys)? {
            sink.put(&to.vkeys, &bytes)?;
        }
        sink.settle()?;
        sink.put(&to.head, &head)?;
        Ok(sink.settle()?)
    }
}

/// Copies the files in a folder whose names are `wanted`; one that is there already must be the same.
fn folder(from: &Path, to: &Path, sink: &mut Sink, wanted: impl Fn(&str) -> bool) -> Result<(), Failure> {
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(from).map_err(durable::Fault::of("list", from))? {
        let path = entry.map_err(durable::Fault::of("list", from))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Names with a dot before them are files that are being written.
        if name.starts_with('.') || !path.is_file() || !wanted(name) {
            continue;
        }
        let (Some(bytes), target) = (read(&path)?.map(Zeroizing::new), to.join(name)) else { continue };
        match read(&target)?.map(Zeroizing::new) {
            None => sink.put(&target, &bytes)?,
            Some(there) if there == bytes => {}
            Some(_) => return Err(format!("{} is there already, and is another", target.display()).into()),
        }
    }
    Ok(())
}

/// The record keys, not read in the middle of a write. `None` where there are none.
fn whole_vault(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let mut tries = TRIES;
    loop {
        let Some(bytes) = read(path)?.map(Zeroizing::new) else { return Ok(None) };
        match Vault::of_bytes(path, &bytes) {
            Ok(_) => return Ok(Some(bytes)),
            Err(VaultFault::Damaged { .. }) if tries > 0 => std::thread::yield_now(),
            Err(fault) => return Err(fault.into()),
        }
        tries -= 1;
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

impl Backup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        if self.dir.exists() && !is_empty(&self.dir) {
            return Err(format!("{} is not empty: name a new folder", self.dir.display()).into());
        }
        durable::make_private_dir(&self.dir)?;
        let (from, to) = (Log::of_config(&config), Log::of_folder(&self.dir));
        let file = self.place.find()?.config;
        let text = fs::read(&file).map_err(durable::Fault::of("read", &file))?;
        durable::write_new(&self.dir.join(CONFIG), &text, 0o600)?;
        from.copy(&to, (!self.without_keys, self.with_operator_keys))?;
        let seen = to.verify().map_err(|fault| format!("the copy in {} does not verify: {fault}", self.dir.display()))?;
        self.say(&seen);
        Ok(())
    }

    fn say(&self, seen: &[Seen]) {
        let records: u64 = seen.iter().map(|epoch| epoch.size).sum();
        if self.place.json {
            let end = seen.last().map(|epoch| (epoch.origin.as_str(), epoch.size)).unzip();
            let moved: Vec<_> = seen.iter().filter(|epoch| epoch.pruned).map(|epoch| epoch.origin.as_str()).collect();
            println!(
                "{}",
                serde_json::json!({ "dir": self.dir, "records": records, "origin": end.0, "size": end.1, "pruned": moved })
            );
        } else {
            println!("{}: {records} records in {} epochs, verified", self.dir.display(), seen.len());
        }
        for epoch in seen.iter().filter(|epoch| epoch.pruned) {
            // The books of a pruned epoch are in the cache alone, which no backup has.
            eprintln!("{}: its records were pruned; a restored gateway needs its tiles from where they were moved", epoch.origin);
        }
        if self.without_keys {
            eprintln!(
                "without keys: it verifies, opens nothing, and is restored only with secret/record-keys and secret/log put into it"
            );
        }
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let from = Log::of_folder(&self.dir);
        let kept = self.dir.join(CONFIG);
        let file = self.place.find()?.config;
        let own = if file.exists() { None } else { Some(read(&kept)?.ok_or_else(|| format!("{} is missing", kept.display()))?) };
        let config = self.config(own.as_deref())?;
        if done_by_owner(&config.data)? {
            return Ok(());
        }
        let to = Log::of_config(&config);
        for path in [&to.audit, &to.head, &to.record_keys, &to.log_keys, &to.vkeys] {
            if path.exists() {
                return Err(format!("{} is there already: restore into a data folder without a log", path.display()).into());
            }
        }
        if !from.record_keys.exists() {
            let what =
                "the backup has no record keys, so no gateway can go on from it: put secret/record-keys (and secret/log) into it";
            return Err(format!("{}: {what}", self.dir.display()).into());
        }
        let seen = from.verify().map_err(|fault| format!("the backup in {} does not verify: {fault}", self.dir.display()))?;
        for folder in [&config.data, &config.data.join("secret")] {
            // A config's "." at the end is no folder to be made.
            durable::make_private_dir(&folder.components().collect::<PathBuf>())?;
        }
        if let Some(text) = own {
            durable::write_new(&file, &text, 0o600)?;
        }
        from.copy(&to, (true, true))?;
        let records: u64 = seen.iter().map(|epoch| epoch.size).sum();
        if self.place.json {
            println!(
                "{}",
                serde_json::json!({ "done": "restored", "data": config.data, "records": records, "epochs": seen.len() })
            );
        } else {
            println!("{}: {records} records in {} epochs", config.data.display(), seen.len());
        }
        if rustix::process::geteuid().is_root() {
            eprintln!("{} is root's: give it to the user that the gateway runs as (chown -R)", config.data.display());
        }
        eprintln!("what happened after the backup is unknown to it: revoke again what was revoked since");
        Ok(())
    }

    /// The config of the place, or the backup's as it will be there.
    fn config(&self, own: Option<&[u8]>) -> Result<Config, Failure> {
        let Some(own) = own else { return self.place.read() };
        let target = self.place.find()?;
        let (file, text) = (target.config, std::str::from_utf8(own)?);
        let base = file.parent().unwrap_or(Path::new("."));
        let config = crate::config::read(text, base).map_err(|faults| format!("{CONFIG} of the backup:\n{faults}"))?;
        if target.data.is_some_and(|data| data != config.data) {
            let there = config.data.display();
            return Err(format!("the backup's config has its data in {there}: put a config at {} first", file.display()).into());
        }
        Ok(config)
    }
}
