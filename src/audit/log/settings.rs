//! Where a log lies, and how it is kept.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LogFault;
use crate::secret::SecretRef;

/// Where a log lies, and how it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of its epochs: `DATA/audit`.
    pub dir: PathBuf,
    /// The file of its head: `DATA/secret/head`.
    pub head: PathBuf,
    /// The record keys: `DATA/secret/record-keys`.
    pub record_keys: PathBuf,
    /// The folder of the epochs' signing keys: `DATA/secret/log`.
    pub log_keys: PathBuf,
    /// The public halves: `DATA/log.vkeys`.
    pub vkeys: PathBuf,
    /// The cache of what the books are folded from: `DATA/secret/cache`.
    pub cache: PathBuf,
    /// The gateway's name, of which the log's origin is made.
    pub name: String,
    /// The signing keys, where they are not drawn here.
    pub signing_key: Option<SecretRef>,
    /// Whether records are sealed.
    pub sealed: bool,
    /// Bytes that are kept for when the disk is full.
    pub reserve: u64,
    /// An epoch older than this is closed at the next start.
    pub epoch_max: Duration,
    /// Begin a new epoch, and why.
    pub begin: Option<NewEpoch>,
    /// Only go on with a log that is there: begin none.
    pub existing: bool,
}

/// An epoch that an operator asks for.
#[derive(Clone, Debug)]
pub struct NewEpoch {
    /// Why.
    pub reason: String,
    /// The operator who asks for it, such as `uid:0`.
    pub by: Option<String>,
    /// Something of the log is lost, and that is known.
    pub after_loss: bool,
}

impl Settings {
    /// The log of the data folder `data`, as it is kept unless somebody says otherwise.
    #[must_use]
    pub fn of_data(data: &Path, name: &str) -> Self {
        Self {
            dir: data.join("audit"),
            head: data.join("secret/head"),
            record_keys: data.join("secret/record-keys"),
            log_keys: data.join("secret/log"),
            vkeys: data.join("log.vkeys"),
            cache: data.join("secret/cache"),
            name: name.to_owned(),
            signing_key: None,
            sealed: true,
            reserve: 256 << 20,
            epoch_max: Duration::from_secs(30 * 24 * 3600),
            begin: None,
            existing: false,
        }
    }

    /// That a log is begun only where that is asked for.
    pub(super) fn may_begin(&self, begins: bool) -> Result<(), LogFault> {
        if begins && self.existing { Err(LogFault::None(self.dir.clone())) } else { Ok(()) }
    }

    /// That the log is this user's: files of another user's process would stop its own gateway.
    pub(super) fn is_own(&self) -> Result<(), LogFault> {
        let Ok(found) = fs::metadata(&self.dir) else { return Ok(()) };
        let (owner, own) = (found.uid(), rustix::process::geteuid().as_raw());
        if owner == own { Ok(()) } else { Err(LogFault::Owner { path: self.dir.clone(), owner }) }
    }

    /// The same for who goes on with a log that is open elsewhere: its epoch stays.
    #[must_use]
    pub(super) fn going_on(self) -> Self {
        // A century: no epoch's time is over.
        Self { begin: None, epoch_max: Duration::from_secs(100 * 365 * 24 * 3600), ..self }
    }
}
