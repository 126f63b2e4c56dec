//! The paths of a log, and how it is kept.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LogFault;
use crate::durable;
use crate::secret::SecretRef;

/// The paths of a log, and how it is kept.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The folder of the epochs: `DATA/audit`.
    pub dir: PathBuf,
    /// The file of the head: `DATA/secret/head`.
    pub head: PathBuf,
    /// The record keys: `DATA/secret/record-keys`.
    pub record_keys: PathBuf,
    /// The folder of the epochs' signing keys: `DATA/secret/log`.
    pub log_keys: PathBuf,
    /// The epochs' public keys: `DATA/log.vkeys`.
    pub vkeys: PathBuf,
    /// The cache of the records that the state is folded from: `DATA/secret/cache`.
    pub cache: PathBuf,
    /// The gateway's name, the first part of the log's origin.
    pub name: String,
    /// A secret with the signing keys; `None` where the gateway generates them.
    pub signing_key: Option<SecretRef>,
    /// Whether payloads of records are encrypted.
    pub encrypted: bool,
    /// Bytes of the reserve, which is kept for a full disk.
    pub reserve: u64,
    /// An epoch older than this is closed at the next start.
    pub epoch_max: Duration,
    /// A new epoch to begin, with its reason.
    pub begin: Option<NewEpoch>,
    /// Whether a log must exist already; then none is begun.
    pub existing: bool,
}

/// The owner of a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOwner {
    /// The user id.
    pub uid: u32,
    /// The group id of the folder.
    pub gid: u32,
}

/// A new epoch that an operator requests.
#[derive(Clone, Debug)]
pub struct NewEpoch {
    /// The operator's reason.
    pub reason: String,
    /// The operator who requests it, such as `uid:0`.
    pub by: Option<String>,
    /// Whether the operator confirms that a part of the log is lost.
    pub after_loss: bool,
}

impl LogSettings {
    /// The log of the data folder `data`, with the default settings.
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
            encrypted: true,
            reserve: 256 << 20,
            epoch_max: Duration::from_secs(30 * 24 * 3600),
            begin: None,
            existing: false,
        }
    }

    /// The new epoch to begin, where the operator confirms with it that a part of the log is lost.
    pub(super) fn confirmed_loss(&self) -> Option<&NewEpoch> {
        let begin = self.begin.as_ref()?;
        if begin.after_loss { Some(begin) } else { None }
    }

    /// Checks that a log is begun only where the settings allow it.
    pub(super) fn may_begin(&self, begins: bool) -> Result<(), LogFault> {
        if begins && self.existing { Err(LogFault::None(self.dir.clone())) } else { Ok(()) }
    }

    /// The owner of the data folder; `None` where the folder does not exist yet. The data folder
    /// itself may be a symbolic link to another disk. The folders in it may not: a user who can
    /// write there would choose the folder in which root's process writes.
    ///
    /// # Errors
    /// When a folder in it is a symbolic link. For root, also when a folder in it has another owner
    /// than the data folder.
    pub fn owner(&self) -> Result<Option<FolderOwner>, LogFault> {
        let data = self.data();
        let found = match fs::metadata(data) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(durable::DiskFault::of("look at", data)(error).into()),
        };
        let folders = self.folder_owners()?;
        // Only root must check this. Another user writes with no more rights than its own, even
        // where the root folder of a volume belongs to root.
        let other = folders
            .iter()
            .find(|(_, owner)| rustix::process::geteuid().is_root() && *owner != found.uid());
        if let Some((path, owner)) = other {
            let (path, data) = (path.clone(), data.to_owned());
            return Err(LogFault::TwoOwners { path, owner: *owner, data, data_owner: found.uid() });
        }
        let uid = match folders.first() {
            Some((_, owner)) => *owner,
            None => found.uid(),
        };
        Ok(Some(FolderOwner { uid, gid: found.gid() }))
    }

    /// Checks that the log belongs to this user. Files of another user's process would stop that
    /// user's own gateway. Root may write everywhere, so for root the data folder must belong to
    /// root too.
    ///
    /// # Errors
    /// When it belongs to another user, or a folder of it is a symbolic link.
    pub fn is_own(&self) -> Result<(), LogFault> {
        // The effective user owns the files that this process creates.
        let own = rustix::process::geteuid();
        let owners = if own.is_root() {
            match self.owner()? {
                Some(owner) => vec![(self.data().to_owned(), owner.uid)],
                None => Vec::new(),
            }
        } else {
            self.folder_owners()?
        };
        match owners.into_iter().find(|(_, owner)| *owner != own.as_raw()) {
            Some((path, owner)) => Err(LogFault::Owner { path, owner }),
            None => Ok(()),
        }
    }

    /// The data folder: the parent of the folder of the epochs.
    fn data(&self) -> &Path {
        match self.dir.parent() {
            Some(data) if !data.as_os_str().is_empty() => data,
            Some(_) | None => Path::new("."),
        }
    }

    /// The existing folders in the data folder, each with its owner. A folder that the caller may
    /// not see is left out: then the data folder belongs to another user, which the other checks
    /// find.
    fn folder_owners(&self) -> Result<Vec<(PathBuf, u32)>, LogFault> {
        let mut owners = Vec::new();
        for path in [Some(self.dir.as_path()), self.head.parent()].into_iter().flatten() {
            // `symlink_metadata` does not follow a link, so a link is found as such.
            let found = match fs::symlink_metadata(path) {
                Ok(found) => found,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::PermissionDenied
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(durable::DiskFault::of("look at", path)(error).into()),
            };
            if found.is_symlink() {
                return Err(LogFault::Symlink(path.to_owned()));
            }
            owners.push((path.to_owned(), found.uid()));
        }
        Ok(owners)
    }

    /// These settings for a process that continues an open log: its epoch does not end by age.
    #[must_use]
    pub(super) fn going_on(self) -> Self {
        // A century is longer than any epoch.
        Self { begin: None, epoch_max: Duration::from_secs(100 * 365 * 24 * 3600), ..self }
    }
}
