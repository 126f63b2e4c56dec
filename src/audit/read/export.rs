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
use crate::audit::read::reader::{Epoch, ReadFault, StoredRecord, each};
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
    let mut found = Vec::with_capacity(choice.epochs.len());
    for &number in &choice.epochs {
        if number == last.number {
            let why = "it is being written; token-shield audit begin closes it";
            return Err(ExportFault::Epoch { epoch: number, why });
        }
        let Some(epoch) = closed.iter().find(|epoch| epoch.number == number) else {
            return Err(ExportFault::Epoch { epoch: number, why: "there is no such epoch" });
        };
        if is_pruned(&epoch.folder) {
            return Err(ExportFault::Epoch { epoch: number, why: "its records were moved away" });
        }
        found.push(epoch);
    }
    Ok(found)
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
/// records of these epochs only. `vkeys` is the log's file of public keys, and `opener` has its
/// record keys. The copy is verified. `progress` gets the number of finished records. Everything is
/// written to a folder beside `to` and then renamed, so that `to` is complete or missing.
///
/// # Errors
/// When no epoch is closed, or an epoch or a key is not available. A destroyed key is no error.
pub fn export(
    epochs: &[Epoch],
    vkeys: &Path,
    opener: &dyn Opener,
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
    let Some(name) = to.file_name() else { return Err(ExportFault::Taken(to.to_owned())) };
    // In the same folder, because a rename works only within one file system.
    let temporary =
        to.with_file_name(format!(".{}.part-{}", name.to_string_lossy(), std::process::id()));
    let done = make(&chosen, vkeys, opener, choice, &temporary, progress).and_then(|exported| {
        fs::rename(&temporary, to).map_err(durable::DiskFault::of("make", to))?;
        durable::sync_dir(durable::parent_of(to))?;
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
    vkeys: &Path,
    opener: &dyn Opener,
    choice: &Choice,
    to: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Exported, ExportFault> {
    let mut sink = Sink::default();
    durable::make_private_dir(&to.join("audit"))?;
    let text = fs::read_to_string(vkeys).map_err(durable::DiskFault::of("read", vkeys))?;
    // The verification of an export needs only the keys of its epochs.
    let mut own = String::new();
    for line in text.lines() {
        if chosen.iter().any(|epoch| is_key_of(line, epoch)) {
            own.push_str(line);
            own.push('\n');
        }
    }
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
        let mut file = KeysFile::create(&to.join("keys.jsonl"))?;
        let mut done = 0;
        for epoch in chosen {
            exported.keys += keys_of(epoch, opener, choice, &mut file, || {
                done += 1;
                progress(done);
            })?;
        }
        file.finish()?;
    }
    sink.settle()?;
    check(to, &read_vkeys(&own)?)?;
    Ok(exported)
}

/// Whether a line of `log.vkeys` has a key of that epoch.
fn is_key_of(line: &str, epoch: &Epoch) -> bool {
    let name = match line.split_once('+') {
        Some((name, _)) => name,
        None => line,
    };
    name.ends_with(&format!("/{}", epoch_name(epoch.number)))
}

/// Verifies the copy.
fn check(to: &Path, keys: &[LogKeys]) -> Result<(), ExportFault> {
    let wanted = VerifyTarget { dir: &to.join("audit"), keys, head: None, since: None };
    verify(&wanted, |_, _| ()).map_err(ExportFault::Damaged)?;
    Ok(())
}

/// The file of keys while it is written.
struct KeysFile {
    out: BufWriter<File>,
    path: PathBuf,
}

impl KeysFile {
    /// Creates the file. The keys decrypt records, so only the owner may read it.
    fn create(path: &Path) -> Result<Self, durable::DiskFault> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let out = BufWriter::new(file.map_err(durable::DiskFault::of("write", path))?);
        Ok(Self { out, path: path.to_owned() })
    }

    /// Adds a line.
    fn put(&mut self, line: &str) -> Result<(), durable::DiskFault> {
        writeln!(self.out, "{line}").map_err(durable::DiskFault::of("write", &self.path))
    }

    /// Writes what is still in memory, and syncs the file.
    fn finish(self) -> Result<(), durable::DiskFault> {
        let file = match self.out.into_inner() {
            Ok(file) => file,
            Err(error) => {
                return Err(durable::DiskFault::of("write", &self.path)(error.into_error()));
            }
        };
        file.sync_all().map_err(durable::DiskFault::of("write", &self.path))
    }
}

/// Writes the own key of each selected record; returns their number.
fn keys_of(
    epoch: &Epoch,
    opener: &dyn Opener,
    choice: &Choice,
    file: &mut KeysFile,
    mut done: impl FnMut(),
) -> Result<u64, ExportFault> {
    let (mut count, mut fault) = (0, None);
    let _ = each(epoch, 0, |found| {
        done();
        match put_key(found, opener, choice, file) {
            Ok(is_put) => {
                count += u64::from(is_put);
                ControlFlow::Continue(())
            }
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(count),
    }
}

/// Writes the own key of a record. False where the record is plain or not selected, or its record
/// key was destroyed.
fn put_key(
    found: StoredRecord<'_>,
    opener: &dyn Opener,
    choice: &Choice,
    file: &mut KeysFile,
) -> Result<bool, ExportFault> {
    let envelope = Envelope::read(found.bytes)
        .map_err(|fault| ExportFault::Key { record: found.name(), fault: fault.into() })?;
    let Some((id, encrypted, _)) = envelope.encrypted() else { return Ok(false) };
    // A destroyed key stays destroyed: the export has only the ciphertext.
    if matches!(opener.held(&id), KeyLookup::Destroyed) {
        return Ok(false);
    }
    if let Some(principal) = &choice.principal
        // The principal is inside the ciphertext, so each record must be decrypted for this check.
        && found.tell(opener)?.text("principal").as_ref() != Some(principal)
    {
        return Ok(false);
    }
    let key = disclose(found.bytes, opener)
        .map_err(|fault| ExportFault::Key { record: found.name(), fault })?;
    let salt = URL_SAFE_NO_PAD.encode(salt_of(&encrypted).unwrap_or_default());
    file.put(&format!(
        r#"{{"key":"{key}","record":"{}","record_key":"{id}","salt":"{salt}"}}"#,
        found.name()
    ))?;
    Ok(true)
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
        let key = member_bytes(&row, "key")?.as_slice().try_into().ok()?;
        let salt = member_bytes(&row, "salt")?.as_slice().try_into().ok()?;
        Some(((row.get("record_key")?.as_str()?.parse().ok()?, salt), Zeroizing::new(key)))
    }
}

/// The bytes of a member in base64url; `None` where it is missing or has another form.
fn member_bytes(row: &serde_json::Value, member: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = URL_SAFE_NO_PAD.decode(row.get(member)?.as_str()?).ok()?;
    Some(Zeroizing::new(bytes))
}

impl Opener for OwnKeys {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        // Only own keys of single records are known. A missing record key leads to a call of `own`.
        KeyLookup::Missing
    }

    fn own(&self, id: &RecordKeyId, salt: &[u8; SALT_BYTES]) -> Option<&[u8; 32]> {
        let key = self.0.get(&(*id, *salt))?;
        Some(key)
    }
}
