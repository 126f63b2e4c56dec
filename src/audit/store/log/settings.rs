//! Where a log lies, and how it is kept.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LogFault;
use crate::durable;
use crate::secret::SecretRef;

/// Where a log lies, and how it is kept.
#[derive(Clone, Debug)]
pub struct LogSettings {
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
    pub encrypted: bool,
    /// Bytes that are kept for when the disk is full.
    pub reserve: u64,
    /// An epoch older than this is closed at the next start.
    pub epoch_max: Duration,
    /// Begin a new epoch, and why.
    pub begin: Option<NewEpoch>,
    /// Only go on with a log that is there: begin none.
    pub existing: bool,
}

/// Who owns a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOwner {
    /// The user.
    pub uid: u32,
    /// The folder's group.
    pub gid: u32,
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

impl LogSettings {
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
            encrypted: true,
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

    /// Who owns the data folder; `None` where there is none yet. The data folder itself may be a symbolic link to another disk.
    /// The folders in it may not: a user who can write there would choose the folder in which root's process writes.
    ///
    /// # Errors
    /// When a folder in it is a symbolic link; or, for root, belongs to somebody else than the data folder.
    pub fn owner(&self) -> Result<Option<FolderOwner>, LogFault> {
        let data = self.data();
        let found = match fs::metadata(data) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(durable::DiskFault::of("look at", data)(error).into()),
        };
        let folders = self.folder_owners()?;
        // Anybody else writes with no more rights than their own, also where a volume's root folder is root's.
        let other = folders
            .iter()
            .find(|(_, owner)| rustix::process::geteuid().is_root() && *owner != found.uid());
        if let Some((path, owner)) = other {
            let (path, data) = (path.clone(), data.to_owned());
            return Err(LogFault::TwoOwners { path, owner: *owner, data, data_owner: found.uid() });
        }
        let uid = folders.first().map_or(found.uid(), |(_, owner)| *owner);
        Ok(Some(FolderOwner { uid, gid: found.gid() }))
    }

    /// That the log is this user's: files of another user's process would stop its own gateway. Root, who may write everywhere,
    /// needs the data folder to be root's too.
    ///
    /// # Errors
    /// When it is another user's, or a folder of it is a symbolic link.
    pub fn is_own(&self) -> Result<(), LogFault> {
        let own = rustix::process::geteuid();
        let owners = if own.is_root() {
            self.owner()?.map(|owner| (self.data().to_owned(), owner.uid)).into_iter().collect()
        } else {
            self.folder_owners()?
        };
        match owners.into_iter().find(|(_, owner)| *owner != own.as_raw()) {
            Some((path, owner)) => Err(LogFault::Owner { path, owner }),
            None => Ok(()),
        }
    }

    /// The data folder.
    fn data(&self) -> &Path {
        self.dir.parent().filter(|data| !data.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The folders in the data folder that are there, each with its owner. One that the caller may not see is left out: the data
    /// folder is then another user's, which says enough.
    fn folder_owners(&self) -> Result<Vec<(PathBuf, u32)>, LogFault> {
        let mut owners = Vec::new();
        for path in [Some(self.dir.as_path()), self.head.parent()].into_iter().flatten() {
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

    /// The same for who goes on with a log that is open elsewhere: its epoch stays.
    #[must_use]
    pub(super) fn going_on(self) -> Self {
        // A century: no epoch's time is over.
        Self { begin: None, epoch_max: Duration::from_secs(100 * 365 * 24 * 3600), ..self }
    }
}
