//! An epoch of a log: its folder, its keys, and the link to the next epoch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{LogFault, LogSettings};
use crate::audit::format::event::{Event, Left, Previous};
use crate::audit::format::head::{HEAD_BYTES, HeadNote};
use crate::audit::format::note::{Checkpoint, LogKeys, LogSigner, NoteFault, peek, read_vkeys};
use crate::audit::read::tiles::{self, epoch_name};
use crate::durable::{self, Identity};
use crate::merkle::Tree;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One epoch.
#[derive(Clone, Debug)]
pub(super) struct EpochFolder {
    pub(super) number: u32,
    pub(super) folder: PathBuf,
    pub(super) origin: String,
}

impl EpochFolder {
    /// The epoch of that number. Checks that the gateway's name can be part of an origin: at most
    /// 200 visible ASCII characters. `+` is the separator of a verifier key (C2SP signed-note).
    pub(super) fn new(settings: &LogSettings, number: u32) -> Result<Self, LogFault> {
        let name = &settings.name;
        if !(1..=200).contains(&name.len())
            || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+')
        {
            return Err(LogFault::Name(name.chars().take(80).collect()));
        }
        let epoch = epoch_name(number);
        Ok(Self { number, folder: settings.dir.join(&epoch), origin: format!("{name}/{epoch}") })
    }

    /// The folder of its journal.
    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// The file of its signing keys, where the gateway generates them.
    fn key_path(&self, settings: &LogSettings) -> PathBuf {
        settings.log_keys.join(format!("{}.key", epoch_name(self.number)))
    }

    /// The identity of the file of its signing keys, where the gateway generates them.
    pub(super) fn key_identity(
        &self,
        settings: &LogSettings,
    ) -> Result<Option<Identity>, LogFault> {
        if settings.signing_key.is_some() {
            return Ok(None);
        }
        Ok(Some(Identity::growing(&self.key_path(settings))?))
    }

    /// Its signing keys. They are generated where the epoch is `new` and has none.
    pub(super) fn signer(&self, settings: &LogSettings, new: bool) -> Result<LogSigner, LogFault> {
        let path = self.key_path(settings);
        let text = match &settings.signing_key {
            Some(secret) => {
                secret.load().map_err(|fault| LogFault::SigningKey(fault.to_string()))?
            }
            None => match fs::read_to_string(&path) {
                Ok(text) => text.into(),
                Err(error) if error.kind() == io::ErrorKind::NotFound && new => {
                    durable::make_private_dir(&settings.log_keys)?;
                    let signer = LogSigner::generate()?;
                    // The file is durable before the first signature. A checkpoint under a lost key
                    // could never be continued.
                    durable::write_new(&path, signer.write().as_bytes(), 0o600)?;
                    return Ok(signer);
                }
                // Records of this epoch are signed already. New keys would not verify against the
                // published ones.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(LogFault::KeyLost(path));
                }
                Err(error) => return Err(durable::DiskFault::of("read", &path)(error).into()),
            },
        };
        LogSigner::read(&text).map_err(|fault| LogFault::note(&path, fault))
    }

    /// Writes the public keys to the file that verifiers read.
    pub(super) fn publish(&self, keys: &LogKeys, settings: &LogSettings) -> Result<(), LogFault> {
        let path = &settings.vkeys;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(durable::DiskFault::of("read", path)(error).into()),
        };
        let lines = keys.lines();
        if !text.contains(&lines) {
            // Old lines of this epoch are replaced: a start that was interrupted may have published
            // keys that were never used.
            let own = format!("{}+", self.origin);
            let mut rest = String::new();
            for line in text.lines() {
                if !line.starts_with(&own) {
                    rest.push_str(line);
                    rest.push('\n');
                }
            }
            durable::write_atomic(path, format!("{rest}{lines}").as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// The published public keys of that epoch.
    pub(super) fn known_keys(&self, settings: &LogSettings) -> Result<LogKeys, LogFault> {
        let path = &settings.vkeys;
        let text = fs::read_to_string(path).map_err(durable::DiskFault::of("read", path))?;
        let keys = read_vkeys(&text).map_err(|fault| LogFault::note(path, fault))?;
        match keys.into_iter().find(|keys| keys.origin == self.origin) {
            Some(own) => Ok(own),
            None => Err(LogFault::note(path, NoteFault::NoKeys(self.origin.clone()))),
        }
    }
}

/// The first record of an epoch. `last` is the last known checkpoint of the epoch before; `left`
/// describes what is left of it after a loss.
pub(super) fn first_record(last: &Checkpoint, reason: &str, left: Option<Left>) -> Event {
    let previous =
        Previous { origin: last.origin.clone(), size: last.size, root: STANDARD.encode(last.root) };
    Event::Epoch { previous, reason: reason.to_owned(), left }
}

/// The first record for an epoch whose head exists without one: a start was interrupted there.
pub(super) fn begun(settings: &LogSettings, epoch: &EpochFolder) -> Result<Event, LogFault> {
    let before = EpochFolder::new(settings, epoch.number - 1)?;
    Ok(first_record(&last_known(settings, &before), "a start that was interrupted", None))
}

/// The newest checkpoint of an epoch that still exists: in its folder, or in the head. Without
/// public keys its signature cannot be checked, and the text counts. An empty checkpoint where
/// there is none.
pub(super) fn last_known(settings: &LogSettings, epoch: &EpochFolder) -> Checkpoint {
    let in_folder = tiles::checkpoint_note(&epoch.folder).ok().flatten();
    let in_head = note_in_head(settings);
    // After a loss, the public keys may be missing too.
    let keys = epoch.known_keys(settings).ok();
    let mut newest = Checkpoint { origin: epoch.origin.clone(), size: 0, root: Tree::new().root() };
    for note in [in_folder, in_head].into_iter().flatten() {
        let opened = match &keys {
            Some(keys) => keys.open(&note),
            None => peek(&note),
        };
        if let Ok(checkpoint) = opened
            && checkpoint.origin == epoch.origin
            && checkpoint.size >= newest.size
        {
            newest = checkpoint;
        }
    }
    newest
}

/// The note in the head, where the head can be read and has its full length.
fn note_in_head(settings: &LogSettings) -> Option<String> {
    let bytes = fs::read(&settings.head).ok()?;
    if bytes.len() != HEAD_BYTES {
        return None;
    }
    Some(HeadNote::decode(&bytes)?.note)
}

/// The number of the newest epoch that has a folder.
pub(super) fn newest_epoch(settings: &LogSettings) -> Result<Option<u32>, LogFault> {
    let Some((number, _)) = tiles::epochs(&settings.dir)?.pop() else { return Ok(None) };
    Ok(Some(number))
}

/// Makes the folders of a log, private to its user.
pub(super) fn make_folders(settings: &LogSettings, epoch: &EpochFolder) -> Result<(), LogFault> {
    let beside = [settings.head.parent(), settings.record_keys.parent(), settings.cache.parent()];
    let own: [&Path; 4] =
        [&settings.dir, &settings.dir.join("tmp"), &epoch.folder, &epoch.journal()];
    for dir in beside.into_iter().flatten().chain(own) {
        durable::make_private_dir(dir)?;
    }
    Ok(())
}
