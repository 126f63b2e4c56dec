//! Exports closed epochs with the keys of their records, for an auditor who may read only these.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::audit::format::envelope::Envelope;
use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::audit::format::note::{LogKeys, NoteFault, read_vkeys};
use crate::audit::read::copy::{self, CopyFault, Sink};
use crate::audit::read::reader::{Epoch, ReadFault, each};
use crate::audit::read::receipt::{ProofFault, disclose};
use crate::audit::read::tiles::{epoch_name, is_pruned};
use crate::audit::read::verify::{VerifyFault, VerifyTarget, verify};
use crate::crypto::encryption::{SALT_BYTES, salt_of};
use crate::durable;

/// The selection for an export.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The epochs; all closed epochs if the list is empty.
    pub epochs: Vec<u32>,
    /// The principal whose records get keys; `None` for all.
    pub principal: Option<String>,
    /// Whether the export has no keys.
    pub without_keys: bool,
}

/// The result of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The epochs, each with its number of records.
    pub epochs: Vec<(u32, u64)>,
    /// The number of exported keys.
    pub keys: u64,
}

/// The reasons why an export fails.
#[derive(Debug, thiserror::Error)]
pub enum ExportFault {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// A copy fails.
    #[error(transparent)]
    Copy(#[from] CopyFault),
    /// A record's key cannot be derived.
    #[error("{record}: {fault}")]
    Key {
        /// The record's name.
        record: String,
        /// The reason.
        fault: ProofFault,
    },
    /// The log's public keys are invalid.
    #[error(transparent)]
    Note(#[from] NoteFault),
    /// The copy does not verify.
    #[error("what was exported does not verify: {0}")]
    Damaged(VerifyFault),
    /// An epoch that cannot be exported.
    #[error("{}: {why}", epoch_name(*epoch))]
    Epoch {
        /// The number of the epoch.
        epoch: u32,
        /// The reason.
        why: &'static str,
    },
    /// No epoch is closed.
    #[error(
        "no closed epoch yet: token-shield audit begin --reason ... closes the one that is being \
            written"
    )]
    NoneClosed,
    /// The target folder exists already.
    #[error("{} is there already: name a new folder", .0.display())]
    Taken(PathBuf),
    /// A line in a file of keys is invalid.
    #[error("{}: line {line} is not {{\"key\",\"record\",\"record_key\",\"salt\"}} as audit export \
        writes it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// The selected epochs. The newest epoch cannot be exported, because it is being written.
fn chosen<'e>(epochs: &'e [Epoch], choice: &Choice) -> Result<Vec<&'e Epoch>, ExportFault> {
    let Some((last, closed)) = epochs.split_last() else { return Ok(Vec::new()) };
    if choice.epochs.is_empty() {
        return Ok(closed.iter().filter(|epoch| !is_pruned(&epoch.folder)).collect());
    }
    let one = |number: &u32| {
        let fault = |why| ExportFault::Epoch { epoch: *number, why };
        if *number == last.number {
            return Err(fault("it is being written; token-shield audit begin closes it"));
        }
        let epoch = closed
            .iter()
            .find(|epoch| epoch.number == *number)
            .ok_or_else(|| fault("there is no such epoch"))?;
        if is_pruned(&epoch.folder) { Err(fault("its records were moved away")) } else { Ok(epoch) }
    };
    choice.epochs.iter().map(one).collect()
}

/// The names of the epochs that [`export`] copies.
///
/// # Errors
/// When no epoch is closed, or a selected one cannot be exported.
pub fn names(epochs: &[Epoch], choice: &Choice) -> Result<Vec<String>, ExportFault> {
    let chosen = chosen(epochs, choice)?;
    if chosen.is_empty() {
        return Err(ExportFault::NoneClosed);
    }
    Ok(chosen.iter().map(|epoch| epoch_name(epoch.number)).collect())
}

/// Copies closed epochs to `to`: `audit`, `log.vkeys`, and `keys.jsonl`. The keys decrypt the
/// records of these epochs only. The copy is verified. `progress` gets the number of finished
/// records. Everything is written to a folder beside `to` and then renamed, so that `to` is
/// complete or missing.
///
/// # Errors
/// When no epoch is closed, or an epoch or a key is not available. A destroyed key is no error.
pub fn export(
    epochs: &[Epoch],
    keys: (&Path, &dyn Opener),
    choice: &Choice,
    to: &Path,
    progress: impl FnMut(u64),
) -> Result<Exported, ExportFault> {
    if to.exists() {
        return Err(ExportFault::Taken(to.to_owned()));
    }
    let chosen = chosen(epochs, choice)?;
    if chosen.is_empty() {
        return Err(ExportFault::NoneClosed);
    }
    let name = to.file_name().ok_or_else(|| ExportFault::Taken(to.to_owned()))?.to_string_lossy();
    // In the same folder, because a rename works only within one file system.
    let temporary = to.with_file_name(format!(".{name}.part-{}", std::process::id()));
    let done = make(&chosen, keys, choice, &temporary, progress).and_then(|exported| {
        fs::rename(&temporary, to).map_err(durable::DiskFault::of("make", to))?;
        durable::sync_dir(
            to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
        Ok(exported)
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    done
}

/// Writes the folder of an export.
fn make(
    chosen: &[&Epoch],
    (vkeys, opener): (&Path, &dyn Opener),
    choice: &Choice,
    to: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Exported, ExportFault> {
    let mut sink = Sink::default();
    durable::make_private_dir(&to.join("audit"))?;
    let text = fs::read_to_string(vkeys).map_err(durable::DiskFault::of("read", vkeys))?;
    let is_of = |line: &str, epoch: &Epoch| {
        line.split('+')
            .next()
            .is_some_and(|name| name.ends_with(&format!("/{}", epoch_name(epoch.number))))
    };
    // The verification of an export needs only the keys of its epochs.
    let lines = text.lines().filter(|line| chosen.iter().any(|epoch| is_of(line, epoch)));
    let own: String = lines.flat_map(|line| [line, "\n"]).collect();
    sink.put(&to.join("log.vkeys"), own.as_bytes())?;
    let mut exported = Exported::default();
    for epoch in chosen {
        copy::closed_epoch(
            &epoch.folder,
            &to.join("audit").join(epoch_name(epoch.number)),
            &mut sink,
        )?;
        exported.epochs.push((epoch.number, epoch.signed));
    }
    if !choice.without_keys {
        let path = to.join("keys.jsonl");
        // The keys decrypt records, so only the owner may read the file.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut out = BufWriter::new(file.map_err(durable::DiskFault::of("write", &path))?);
        let mut done = 0;
        for epoch in chosen {
            exported.keys += keys_of(epoch, opener, choice, (&mut out, &path), || {
                done += 1;
                progress(done);
            })?;
        }
        let written = out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file: File| file.sync_all());
        written.map_err(durable::DiskFault::of("write", &path))?;
    }
    sink.settle()?;
    check(to, &read_vkeys(&own)?)?;
    Ok(exported)
}

/// Verifies the copy.
fn check(to: &Path, keys: &[LogKeys]) -> Result<(), ExportFault> {
    let wanted = VerifyTarget { dir: &to.join("audit"), keys, head: None, since: None };
    verify(&wanted, |_, _| ()).map(|_| ()).map_err(ExportFault::Damaged)
}

/// Writes the own key of each selected record; returns their number.
fn keys_of(
    epoch: &Epoch,
    opener: &dyn Opener,
    choice: &Choice,
    (out, path): (&mut impl Write, &Path),
    mut done: impl FnMut(),
) -> Result<u64, ExportFault> {
    let (mut count, mut fault) = (0, None);
    let _ = each(epoch, 0, |found| {
        done();
        let line = || -> Result<Option<String>, ExportFault> {
            let of = |fault| ExportFault::Key { record: found.name(), fault };
            let envelope = Envelope::read(found.bytes).map_err(|fault| of(fault.into()))?;
            let Some((id, encrypted, _)) = envelope.encrypted() else { return Ok(None) };
            // A destroyed key stays destroyed: the export has only the ciphertext.
            if matches!(opener.held(&id), KeyLookup::Destroyed) {
                return Ok(None);
            }
            if let Some(principal) = &choice.principal
                // The principal is inside the ciphertext, so each record must be decrypted for this
                // check.
                && found.tell(opener)?.text("principal").as_ref() != Some(principal)
            {
                return Ok(None);
            }
            let key = disclose(found.bytes, opener).map_err(of)?;
            let salt = URL_SAFE_NO_PAD.encode(salt_of(&encrypted).unwrap_or_default());
            Ok(Some(format!(
                r#"{{"key":"{key}","record":"{}","record_key":"{id}","salt":"{salt}"}}"#,
                found.name()
            )))
        };
        let written = line().and_then(|line| {
            let Some(line) = line else { return Ok(()) };
            count += 1;
            Ok(writeln!(out, "{line}").map_err(durable::DiskFault::of("write", path))?)
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map_or(Ok(count), Err)
}

/// The own keys of single records, from a file that [`export`] wrote.
pub struct OwnKeys(HashMap<Sealing, Zeroizing<[u8; 32]>>);

/// The record key's id and the salt from which a record's own key is derived.
type Sealing = (RecordKeyId, [u8; SALT_BYTES]);

impl OwnKeys {
    /// Reads the file of keys.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is invalid.
    pub fn read(path: &Path) -> Result<Self, ExportFault> {
        let file = File::open(path).map_err(durable::DiskFault::of("open", path))?;
        let mut keys = HashMap::new();
        for (place, line) in BufReader::new(file).lines().enumerate() {
            let line = Zeroizing::new(line.map_err(durable::DiskFault::of("read", path))?);
            let (id, key) = Self::line(&line)
                .ok_or_else(|| ExportFault::Line { path: path.to_owned(), line: place + 1 })?;
            keys.insert(id, key);
        }
        Ok(Self(keys))
    }

    /// Decodes one line.
    fn line(line: &str) -> Option<(Sealing, Zeroizing<[u8; 32]>)> {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        let bytes = |member: &str| {
            URL_SAFE_NO_PAD.decode(row.get(member)?.as_str()?).ok().map(Zeroizing::new)
        };
        let key = bytes("key")?.as_slice().try_into().ok()?;
        let salt = bytes("salt")?.as_slice().try_into().ok()?;
        Some(((row.get("record_key")?.as_str()?.parse().ok()?, salt), Zeroizing::new(key)))
    }
}

impl Opener for OwnKeys {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        // Only own keys of single records are known. A missing record key leads to a call of `own`.
        KeyLookup::Missing
    }

    fn own(&self, id: &RecordKeyId, salt: &[u8; SALT_BYTES]) -> Option<&[u8; 32]> {
        self.0.get(&(*id, *salt)).map(|key| &**key)
    }
}
