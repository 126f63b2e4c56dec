//! `token-shield backup` and `token-shield restore`: a folder with everything that a gateway needs.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use zeroize::Zeroizing;

use super::as_owner::own_name;
use super::audit::bar;
use super::door::send;
use super::owner::done_by_owner;
use super::{Failure, Place};
use crate::audit::format::event::{Event, Previous};
use crate::audit::format::head::Head;
use crate::audit::format::key::{Held, Opener as _};
use crate::audit::format::note;
use crate::audit::format::outside::Outside;
use crate::audit::read::copy::{self, Sink, read};
use crate::audit::read::reader;
use crate::audit::read::tiles::epoch_number;
use crate::audit::read::verify::{Seen, Wanted, verify};
use crate::audit::store::log::{Log as AuditLog, NewEpoch, Settings, remains};
use crate::audit::store::vault::{Vault, VaultFault};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::Command;
use crate::control::api::Request;
use crate::durable;
use crate::guard::settings::Jwks;

/// The config's name in a backup, as in a data folder.
const CONFIG: &str = "token-shield.toml";
/// How often the record keys are read again if they are half written.
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
    place: Place,
}

#[derive(Args)]
pub(super) struct Restore {
    /// The backup's folder.
    dir: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// The paths of a log and of its files.
struct Log {
    audit: PathBuf,
    head: PathBuf,
    record_keys: PathBuf,
    /// The cache is not copied, only the files beside it.
    cache: PathBuf,
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
            cache: secret.join("cache"),
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
            cache: log.cache,
            log_keys: log.log_keys,
            vkeys: log.vkeys,
            keys: config.data.join("keys"),
        }
    }

    fn verify(&self) -> Result<Vec<Seen>, Failure> {
        let text =
            fs::read_to_string(&self.vkeys).map_err(durable::Fault::of("read", &self.vkeys))?;
        let keys = note::read_vkeys(&text)?;
        let bar = bar(false);
        let seen = verify(
            &Wanted { dir: &self.audit, keys: &keys, head: Some(&self.head), since: None },
            |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        Ok(seen?)
    }

    /// Copies everything to `to`. The head comes last, to the file `head_to`, because it confirms
    /// the rest.
    fn copy(
        &self,
        to: &Self,
        head_to: &Path,
        (sealing, operators): (bool, bool),
    ) -> Result<(), Failure> {
        let mut sink = Sink::default();
        let head = copy::log(&self.audit, &self.head, &to.audit, &mut sink)?;
        // After the log, because a record's key exists before the record.
        if sealing {
            if let Some(bytes) = whole_vault(&self.record_keys)? {
                sink.put(&to.record_keys, &bytes)?;
            }
            folder(&self.log_keys, &to.log_keys, &mut sink, |_| true)?;
        }
        // The summary of a pruned epoch exists before its records are removed.
        folder(&remains::folder(&self.cache), &remains::folder(&to.cache), &mut sink, |_| true)?;
        folder(&self.keys, &to.keys, &mut sink, |name| operators || name.ends_with(".pub"))?;
        if let Some(bytes) = read(&self.vkeys)? {
            sink.put(&to.vkeys, &bytes)?;
        }
        sink.settle()?;
        sink.put(head_to, &head)?;
        Ok(sink.settle()?)
    }

    /// The pruned epochs without a summary, so that the state cannot be computed.
    fn forgotten(&self, seen: &[Seen]) -> Vec<String> {
        let pruned = seen
            .iter()
            .filter(|epoch| epoch.pruned)
            .filter_map(|epoch| epoch.origin.rsplit('/').next());
        let is_missing = |name: &&str| {
            !epoch_number(name)
                .is_some_and(|number| remains::is_whole(&remains::file(&self.cache, number)))
        };
        pruned.filter(is_missing).map(str::to_owned).collect()
    }

    /// The parts of a backup with keys that are missing and that a gateway needs.
    fn lacks(
        &self,
        config: &Config,
        seen: &[Seen],
        operators: bool,
    ) -> Result<Vec<String>, Failure> {
        let mut lacks = Vec::new();
        for epoch in self.forgotten(seen) {
            lacks.push(format!(
                "secret/pruned/{epoch}, the summary of pruned records (token-shield audit prune writes it from the cache)"
            ));
        }
        if !self.record_keys.exists() {
            lacks.push("secret/record-keys, which decrypts the records".to_owned());
        } else {
            let vault = Vault::read(&self.record_keys)?;
            let missing = unopened(&self.audit, &vault)?;
            if missing > 0 {
                lacks.push(format!(
                    "the keys of {missing} records, which secret/record-keys does not have"
                ));
            }
        }
        let origin = seen.last().map_or("", |epoch| epoch.origin.as_str());
        let epoch = origin.rsplit('/').next().unwrap_or_default();
        if config.audit.signing_key.is_none()
            && !self.log_keys.join(format!("{epoch}.key")).exists()
        {
            lacks.push(format!("secret/log/{epoch}.key, which signs the log"));
        }
        let own = |path: &Path| path.parent() == Some(&config.data.join("keys"));
        let sets = config
            .guard
            .issuers
            .iter()
            .filter_map(|issuer| issuer.jwks.as_ref().and_then(Jwks::file));
        for set in sets.filter(|path| own(path)) {
            let Some(name) = set.file_name() else { continue };
            if !self.keys.join(name).exists() {
                lacks.push(format!("keys/{}, an issuer's public keys", name.to_string_lossy()));
            }
        }
        if operators && !has_private_key(&self.keys) {
            lacks.push("private keys in keys (--with-operator-keys)".to_owned());
        }
        Ok(lacks)
    }
}

/// The number of records whose key is missing and was not destroyed.
fn unopened(audit: &Path, vault: &Vault) -> Result<u64, Failure> {
    let mut missing = 0;
    for epoch in reader::epochs(audit)? {
        let _ = reader::each(&epoch, 0, |found| {
            let key = Outside::read(found.bytes).ok().and_then(|outside| outside.record_key());
            missing += u64::from(key.is_some_and(|id| matches!(vault.held(&id), Held::Missing)));
            ControlFlow::Continue(())
        })?;
    }
    Ok(missing)
}

/// Whether a folder has a private key that signs tokens.
fn has_private_key(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .any(|name| !name.starts_with('.') && !name.ends_with(".pub"))
}

/// Copies the files of a folder whose names are `wanted`. A file that already exists must be the
/// same.
fn folder(
    from: &Path,
    to: &Path,
    sink: &mut Sink,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(from).map_err(durable::Fault::of("list", from))? {
        let path = entry.map_err(durable::Fault::of("list", from))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // A name that begins with a dot is a file that is being written.
        if name.starts_with('.') || !path.is_file() || !wanted(name) {
            continue;
        }
        let (Some(bytes), target) = (read(&path)?.map(Zeroizing::new), to.join(name)) else {
            continue;
        };
        match read(&target)?.map(Zeroizing::new) {
            None => sink.put(&target, &bytes)?,
            Some(there) if there == bytes => {}
            Some(_) => {
                return Err(format!("{} already exists and is different", target.display()).into());
            }
        }
    }
    Ok(())
}

/// The complete record keys, not read in the middle of a write. `None` if there are none.
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
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        if self.dir.exists() && !is_empty(&self.dir) {
            return Err(format!("{} is not empty: name a new folder", self.dir.display()).into());
        }
        let (from, to) = (Log::of_config(&config), Log::of_folder(&self.dir));
        if !from.head.exists() {
            return Err(
                format!("{} is missing: there is no log to back up", from.head.display()).into()
            );
        }
        // Before the copy, so that the backup contains its own record.
        let recorded = self.record(&config).await;
        durable::make_private_dir(&self.dir)?;
        let file = self.place.find()?.config;
        let text = fs::read(&file).map_err(durable::Fault::of("read", &file))?;
        durable::write_new(&self.dir.join(CONFIG), &text, 0o600)?;
        from.copy(&to, &to.head, (!self.without_keys, self.with_operator_keys))?;
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

    /// Records the backup.
    async fn record(&self, config: &Config) -> Result<(), Failure> {
        if !config.audit.record_keys.exists() {
            // Opening the log would make a new file of keys.
            return Err("its record keys are missing".into());
        }
        let command = Command::BackupMade {
            keys: !self.without_keys,
            operator_keys: self.with_operator_keys,
        };
        send(&self.place, Request::Command(command)).await.map(|_| ())
    }

    fn say(&self, seen: &[Seen], lacks: &[String]) {
        let records: u64 = seen.iter().map(|epoch| epoch.size).sum();
        if self.place.json {
            let end = seen.last().map(|epoch| (epoch.origin.as_str(), epoch.size)).unzip();
            let moved: Vec<_> = seen
                .iter()
                .filter(|epoch| epoch.pruned)
                .map(|epoch| epoch.origin.as_str())
                .collect();
            println!(
                "{}",
                serde_json::json!({ "dir": self.dir, "records": records, "origin": end.0, "size": end.1, "pruned": moved, "lacks": lacks })
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
                "without keys: it can be verified, but not read; before a restore, put secret/record-keys and secret/log into it"
            );
        }
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let from = Log::of_folder(&self.dir);
        let kept = self.dir.join(CONFIG);
        let file = self.place.find()?.config;
        let own = if file.exists() {
            None
        } else {
            Some(read(&kept)?.ok_or_else(|| format!("{} is missing", kept.display()))?)
        };
        let config = self.config(own.as_deref())?;
        if UnixStream::connect(&config.proxy.admin).is_ok() {
            return Err(
                format!("a gateway runs on {}: stop it first", config.data.display()).into()
            );
        }
        if done_by_owner(&config.audit, &[])? {
            return Ok(());
        }
        let to = Log::of_config(&config);
        let passing = to.head.with_file_name("head.restored");
        for path in [&to.audit, &to.head, &passing, &to.record_keys, &to.log_keys, &to.vkeys] {
            if path.exists() {
                return Err(format!(
                    "{} already exists: restore into a data folder without a log",
                    path.display()
                )
                .into());
            }
        }
        if !from.record_keys.exists() {
            let what = "the backup has no record keys, so no gateway can start from it: put secret/record-keys (and secret/log) into it";
            return Err(format!("{}: {what}", self.dir.display()).into());
        }
        let seen = from.verify().map_err(|fault| {
            format!("the backup in {} does not verify: {fault}", self.dir.display())
        })?;
        if let Some(epoch) = from.forgotten(&seen).first() {
            let what =
                "their summary is missing: put secret/pruned of the data folder into the backup";
            let or = format!("or put the folder {epoch}/tile of the archive back into its audit");
            return Err(format!(
                "{}: the records of {epoch} were pruned, and {what}, {or}",
                self.dir.display()
            )
            .into());
        }
        let head = fs::read(&from.head).ok().and_then(|bytes| Head::decode(&bytes).ok());
        let head = head.ok_or_else(|| format!("{}: the head is damaged", from.head.display()))?;
        for folder in [&config.data, &config.data.join("secret")] {
            // A "." at the end of the config's path is not a folder.
            durable::make_private_dir(&folder.components().collect::<PathBuf>())?;
        }
        if let Some(text) = own {
            durable::write_new(&file, &text, 0o600)?;
        }
        // Without its head, no gateway can start from the log before the restore is recorded.
        from.copy(&to, &passing, (true, true))?;
        let origin = begin(&config, &passing, head)?;
        let moved = fs::rename(&passing, &to.head).map_err(durable::Fault::of("move", &passing));
        moved.and_then(|()| durable::sync_dir(to.head.parent().unwrap_or(Path::new("."))))?;
        let records: u64 = seen.iter().map(|epoch| epoch.size).sum();
        if self.place.json {
            println!(
                "{}",
                serde_json::json!({
                    "done": "restored", "data": config.data, "records": records, "epochs": seen.len(), "origin": origin,
                })
            );
        } else {
            println!(
                "{}: {records} records in {} epochs, and {origin} begins",
                config.data.display(),
                seen.len()
            );
        }
        if rustix::process::geteuid().is_root() {
            eprintln!(
                "{} belongs to root: give it to the user that the gateway runs as (chown -R)",
                config.data.display()
            );
        }
        eprintln!("changes after the backup are lost: repeat later revocations");
        Ok(())
    }

    /// The config of the gateway, or the config of the backup as it will be there.
    fn config(&self, own: Option<&[u8]>) -> Result<Config, Failure> {
        let Some(own) = own else { return self.place.read() };
        let target = self.place.find()?;
        let (file, text) = (target.config, std::str::from_utf8(own)?);
        let base = file.parent().unwrap_or(Path::new("."));
        let config = crate::config::read(text, base)
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

/// Begins a new epoch in a restored log, whose head is the file `passing`, and records the backup's
/// head. Another gateway that continues from the same log has a different epoch there, with other
/// keys.
fn begin(config: &Config, passing: &Path, head: Head) -> Result<String, Failure> {
    let begin = NewEpoch {
        reason: "restored from a backup".to_owned(),
        by: Some(own_name()),
        after_loss: false,
    };
    let settings =
        Settings { head: passing.to_owned(), begin: Some(begin), ..config.audit.clone() };
    let (log, _) = AuditLog::open(settings, Arc::new(SystemClock::start()))?;
    let head = Previous { origin: head.origin, size: head.size, root: STANDARD.encode(head.root) };
    log.seal_blocking(Event::Restored { head }, Some(own_name()))?;
    log.close()?;
    Ok(log.origin().to_string())
}
