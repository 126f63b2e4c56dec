//! The public keys that verify a log, a receipt or a disclosed record.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::Failure;
use crate::audit::format::note::{LogKeys, read_vkeys};

/// The public keys that count.
#[derive(Args)]
pub(in crate::cli) struct Trust {
    /// The public keys of the log (log.vkeys). Keep a copy in a place where the gateway cannot
    /// write.
    #[arg(long = "log-keys", alias = "key", value_name = "FILE")]
    log_keys: Option<PathBuf>,
    /// Only keys with this fingerprint count. Repeatable, once for each epoch. `audit verify`
    /// prints fingerprints.
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    trust: Vec<String>,
}

/// Reads a fingerprint: the 64 hex digits of a SHA-256, in lower case.
fn fingerprint(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a fingerprint has 64 hex digits".to_owned())
    }
}

/// The trusted keys, and their source.
pub(super) struct TrustedKeys {
    pub(super) keys: Vec<LogKeys>,
    pub(super) from: PathBuf,
    /// True if the keys are in the data folder that they verify, and no `--trust` confirms them.
    pub(super) beside: bool,
}

impl Trust {
    /// Reads the keys. `usual` is their default path, `data` the folder that they verify.
    pub(super) fn read(&self, usual: &Path, data: Option<&Path>) -> Result<TrustedKeys, Failure> {
        let from = match &self.log_keys {
            Some(named) => named.clone(),
            None => usual.to_owned(),
        };
        let text = fs::read_to_string(&from).map_err(|error| {
            format!("{}: {error}; name the log's public keys with --log-keys FILE", from.display())
        })?;
        let mut keys = read_vkeys(&text)?;
        if !self.trust.is_empty() {
            let all: Vec<String> =
                keys.iter().map(|keys| format!("{} {}", keys.origin, keys.fingerprint())).collect();
            keys.retain(|keys| self.trust.contains(&keys.fingerprint()));
            if keys.is_empty() {
                let all = all.join("\n  ");
                return Err(format!(
                    "{}: no key has a fingerprint of --trust; the keys are\n  {all}",
                    from.display()
                )
                .into());
            }
        }
        // Symbolic links are resolved, so that a link to a file in the folder counts as in the
        // folder.
        let own = data.and_then(|data| fs::canonicalize(data).ok());
        let beside =
            own.is_some_and(|own| fs::canonicalize(&from).is_ok_and(|file| file.starts_with(own)));
        Ok(TrustedKeys { keys, from, beside: beside && self.trust.is_empty() })
    }
}

impl TrustedKeys {
    /// Warns that keys in the verified folder prove little.
    pub(super) fn warn(&self) {
        if self.beside {
            eprintln!(
                "warning: the keys come from {}, beside the log that they verify. A person who can \
                    write there can change both. \
                 Keep a copy elsewhere (--log-keys FILE), or compare fingerprints (--trust \
                 FINGERPRINT)",
                self.from.display()
            );
        }
    }

    /// The fingerprint of the keys of the log `origin`.
    pub(super) fn fingerprint(&self, origin: &str) -> Option<String> {
        let keys = self.keys.iter().find(|keys| keys.origin == origin)?;
        Some(keys.fingerprint())
    }

    /// [`TrustedKeys::fingerprint`] for messages. Empty if there are no such keys.
    pub(super) fn shown_fingerprint(&self, origin: &str) -> String {
        self.fingerprint(origin).unwrap_or_default()
    }
}
