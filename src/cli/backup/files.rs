//! The files of a log and of its backup: their paths, copies and checks.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::audit::format::envelope::Envelope;
use crate::audit::format::key::{KeyLookup, Opener as _};
use crate::audit::format::note;
use crate::audit::read::copy::{self, Sink, read};
use crate::audit::read::reader;
use crate::audit::read::tiles::epoch_number;
use crate::audit::read::verify::{VerifiedEpoch, VerifyTarget, verify};
use crate::audit::store::log::remains;
use crate::audit::store::vault::{Vault, VaultFault};
use crate::cli::Failure;
use crate::cli::audit::bar;
use crate::config::Config;
use crate::durable;
use crate::guard::settings::Jwks;

use super::TRIES;

/// The paths of a log and of its files.
pub(super) struct LogPaths {
    pub(super) audit: PathBuf,
    pub(super) head: PathBuf,
    pub(super) record_keys: PathBuf,
    /// The path of the cache. It is not copied; only the summaries in the same folder are.
    pub(super) cache: PathBuf,
    pub(super) log_keys: PathBuf,
    pub(super) vkeys: PathBuf,
    pub(super) keys: PathBuf,
}

/// The secret keys that a copy includes.
pub(super) struct CopiedKeys {
    /// The keys that decrypt and sign records.
    pub(super) log: bool,
    /// The private keys that sign tokens.
    pub(super) operators: bool,
}

/// The epoch's name in an origin: the part after the last slash.
fn epoch_in(origin: &str) -> &str {
    match origin.rsplit_once('/') {
        Some((_, epoch)) => epoch,
        None => origin,
    }
}

/// The number of records in these epochs.
pub(super) fn records_in(seen: &[VerifiedEpoch]) -> u64 {
    seen.iter().map(|epoch| epoch.size).sum()
}

impl LogPaths {
    /// The paths in a data folder or a backup.
    pub(super) fn of_folder(data: &Path) -> Self {
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

    /// The paths in the gateway's config.
    pub(super) fn of_config(config: &Config) -> Self {
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

    /// Verifies the log against its own public keys and its head.
    pub(super) fn verify(&self) -> Result<Vec<VerifiedEpoch>, Failure> {
        let text =
            fs::read_to_string(&self.vkeys).map_err(durable::DiskFault::of("read", &self.vkeys))?;
        let keys = note::read_vkeys(&text)?;
        let bar = bar(false);
        let seen = verify(
            &VerifyTarget { dir: &self.audit, keys: &keys, head: Some(&self.head), since: None },
            |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        Ok(seen?)
    }

    /// Copies everything to `to`. The head comes last, to the file `head_to`, because it confirms
    /// the rest. A copy without a head is not a backup.
    pub(super) fn copy(
        &self,
        to: &Self,
        head_to: &Path,
        chosen: CopiedKeys,
    ) -> Result<(), Failure> {
        let mut sink = Sink::default();
        // The head is read with the log, so that both describe the same moment.
        let head = copy::log(&self.audit, &self.head, &to.audit, &mut sink)?;
        // After the log, because a record's key exists before the record.
        if chosen.log {
            if let Some(bytes) = whole_vault(&self.record_keys)? {
                sink.put(&to.record_keys, &bytes)?;
            }
            folder(&self.log_keys, &to.log_keys, &mut sink, |_| true)?;
        }
        // The summary of a pruned epoch exists before its records are removed.
        folder(&remains::folder(&self.cache), &remains::folder(&to.cache), &mut sink, |_| true)?;
        folder(&self.keys, &to.keys, &mut sink, |name| chosen.operators || name.ends_with(".pub"))?;
        if let Some(bytes) = read(&self.vkeys)? {
            sink.put(&to.vkeys, &bytes)?;
        }
        sink.settle()?;
        sink.put(head_to, &head)?;
        Ok(sink.settle()?)
    }

    /// The names of the pruned epochs without a summary. The state cannot be computed without it.
    pub(super) fn unsummarized(&self, seen: &[VerifiedEpoch]) -> Vec<String> {
        let mut names = Vec::new();
        for epoch in seen {
            let name = epoch_in(&epoch.origin);
            if epoch.pruned && !self.has_summary(name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// Whether the folder of the cache has a complete summary of the epoch.
    fn has_summary(&self, epoch: &str) -> bool {
        match epoch_number(epoch) {
            Some(number) => remains::is_whole(&remains::file(&self.cache, number)),
            None => false,
        }
    }

    /// The parts of a backup with keys that are missing and that a gateway needs.
    pub(super) fn lacks(
        &self,
        config: &Config,
        seen: &[VerifiedEpoch],
        operators: bool,
    ) -> Result<Vec<String>, Failure> {
        let mut lacks = Vec::new();
        for epoch in self.unsummarized(seen) {
            lacks.push(format!(
                "secret/pruned/{epoch}, the summary of pruned records (token-shield audit prune \
                    writes it from the cache)"
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
        let epoch = match seen.last() {
            Some(epoch) => epoch_in(&epoch.origin),
            None => "",
        };
        if config.audit.signing_key.is_none()
            && !self.log_keys.join(format!("{epoch}.key")).exists()
        {
            lacks.push(format!("secret/log/{epoch}.key, which signs the log"));
        }
        // A JWK Set outside the data folder belongs to the system's configuration, and not to the
        // backup.
        let own = config.data.join("keys");
        for issuer in &config.guard.issuers {
            let Some(Jwks::File(set)) = &issuer.jwks else { continue };
            if set.parent() != Some(own.as_path()) {
                continue;
            }
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
pub(super) fn unopened(audit: &Path, vault: &Vault) -> Result<u64, Failure> {
    let mut missing = 0;
    for epoch in reader::epochs(audit)? {
        let _ = reader::each(&epoch, 0, |found| {
            if let Ok(envelope) = Envelope::read(found.bytes)
                && let Some(id) = envelope.record_key()
                && matches!(vault.held(&id), KeyLookup::Missing)
            {
                missing += 1;
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(missing)
}

/// Whether a folder has a private key that signs tokens.
pub(super) fn has_private_key(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    for entry in entries.flatten() {
        if let Some(name) = entry.file_name().to_str()
            && !name.starts_with('.')
            && !name.ends_with(".pub")
        {
            return true;
        }
    }
    false
}

/// Copies the files of a folder whose names are `wanted`. An existing file must have the same
/// content.
pub(super) fn folder(
    from: &Path,
    to: &Path,
    sink: &mut Sink,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(from).map_err(durable::DiskFault::of("list", from))? {
        let path = entry.map_err(durable::DiskFault::of("list", from))?.path();
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
pub(super) fn whole_vault(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let mut tries = TRIES;
    loop {
        let Some(bytes) = read(path)?.map(Zeroizing::new) else { return Ok(None) };
        match Vault::of_bytes(path, &bytes) {
            Ok(_) => return Ok(Some(bytes)),
            // A running gateway may write a slot at this moment. The next read then succeeds.
            Err(VaultFault::Damaged { .. }) if tries > 0 => std::thread::yield_now(),
            Err(fault) => return Err(fault.into()),
        }
        tries -= 1;
    }
}

/// Whether the folder can be read and has no entries.
pub(super) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
