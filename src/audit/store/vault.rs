//! The record keys: one for each principal. A key is generated at the principal's first record, and
//! destroyed by `audit forget`.
//!
//! The file consists of slots of 512 bytes of text. A slot has these lines: a title, the key's id,
//! its creation time, the principal, the key, and the SHA-256 of these lines. Line feeds fill the
//! rest. The slot of a destroyed key is overwritten in place. It keeps the id, so that a destroyed
//! key differs from a lost one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::clock::Timestamp;
use crate::crypto::{EntropyFault, entropy, sha256};
use crate::durable::{self, Disk, Identity, SystemDisk};

/// Bytes of a slot: one sector, which a disk writes completely or not.
const SLOT_BYTES: usize = 512;
/// The first line of a slot, with the version of its format.
const TITLE: &str = "token-shield record key 1";
/// The text in place of a destroyed key.
const DESTROYED: &str = "destroyed";

/// The reasons why record keys are not available.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultFault {
    /// The file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] durable::DiskFault),
    /// A damaged slot that is not the file's last.
    #[error("{}: slot {slot} is damaged: restore the file from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The number of the slot, from 0.
        slot: usize,
    },
    /// The file was removed or replaced since it was opened. Later keys would not be in the file
    /// that a start reads.
    #[error("{0}; the keys that are in use are in memory alone")]
    Changed(durable::Changed),
    /// The system gives no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFault),
    /// The record key was destroyed, or never existed.
    #[error(
        "there is no record key for this principal; its records were never encrypted, or the \
            key was destroyed already"
    )]
    Unknown,
}

/// One slot of the file. `key` is `None` where it was destroyed.
struct KeySlot {
    id: RecordKeyId,
    made: Timestamp,
    principal: String,
    key: Option<Zeroizing<[u8; 32]>>,
}

impl KeySlot {
    /// Encodes the slot; the result is wiped when it is dropped.
    fn encode(&self) -> Zeroizing<[u8; SLOT_BYTES]> {
        let key = match &self.key {
            Some(key) => URL_SAFE_NO_PAD.encode(**key),
            None => DESTROYED.to_owned(),
        };
        let text = Zeroizing::new(format!(
            "{TITLE}\n{}\n{}\n{}\n{key}\n",
            self.id, self.made, self.principal
        ));
        let sum = STANDARD.encode(sha256(text.as_bytes()));
        let mut slot = Zeroizing::new([b'\n'; SLOT_BYTES]);
        for (place, byte) in slot.iter_mut().zip(text.bytes().chain(sum.bytes())) {
            *place = byte;
        }
        slot
    }

    /// Decodes a slot; `None` where it is damaged.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines().skip(1);
        let id = lines.next()?.parse().ok()?;
        let made = lines.next()?.parse().ok()?;
        let principal = lines.next()?.to_owned();
        let key = match lines.next()? {
            DESTROYED => None,
            text => Some(Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?)),
        };
        let slot = Self { id, made, principal, key };
        // The slot is encoded again and compared. This checks the hash, the title and the padding
        // in one step.
        (slot.encode().as_slice() == bytes).then_some(slot)
    }
}

/// A slot whose key and name were removed from memory.
struct ErasedSlot {
    place: usize,
    principal: String,
}

/// The record keys, and their open file where they may be changed.
pub struct Vault {
    path: PathBuf,
    open: Option<VaultFile>,
    slots: Vec<KeySlot>,
    by_id: HashMap<RecordKeyId, usize>,
    by_principal: HashMap<String, usize>,
    /// Slots that were written since the last sync.
    unsynced: BTreeSet<usize>,
    /// Whether the last sync failed for a shortage. Then the slots are written again before the
    /// next sync.
    write_again: bool,
    /// Hashes of the principals whose keys were destroyed since the file was opened. Names are not
    /// kept, because they are to be forgotten.
    gone: HashSet<u64>,
    hashing: RandomState,
}

/// The open file of keys that may be changed.
struct VaultFile {
    disk: Arc<dyn Disk>,
    file: File,
    identity: Identity,
}

impl Vault {
    /// Opens the keys for use and for new keys. Creates the file where there is none.
    ///
    /// # Errors
    /// When the file cannot be created or read, or a slot is damaged. A damaged last slot was never
    /// used; it is ignored.
    pub fn open(path: &Path) -> Result<Self, VaultFault> {
        Self::open_on(path, Arc::new(SystemDisk))
    }

    /// [`Vault::open`] on a given disk.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn open_on(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, VaultFault> {
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(durable::DiskFault::of("open", path))?;
        // A new file needs a sync of its folder. Otherwise a power failure could remove the name,
        // and with it all keys.
        if is_new && let Some(folder) = path.parent() {
            disk.sync_dir(folder).map_err(durable::DiskFault::of("sync", folder))?;
        }
        let mut vault = Self::read(path)?;
        vault.open = Some(VaultFile { disk, file, identity: Identity::growing(path)? });
        Ok(vault)
    }

    /// The identity of the file, where the keys may be changed.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        Some(&self.open.as_ref()?.identity)
    }

    /// Reads the keys, without the right to change them.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn read(path: &Path) -> Result<Self, VaultFault> {
        Self::of_bytes(
            path,
            &Zeroizing::new(std::fs::read(path).map_err(durable::DiskFault::of("read", path))?),
        )
    }

    /// The keys in `bytes`, the content of the file `path`.
    ///
    /// # Errors
    /// When a slot other than the last is damaged.
    pub fn of_bytes(path: &Path, bytes: &[u8]) -> Result<Self, VaultFault> {
        let mut vault = Self::empty(path);
        let count = bytes.len().div_ceil(SLOT_BYTES);
        for (place, slot) in bytes.chunks(SLOT_BYTES).enumerate() {
            match KeySlot::decode(slot) {
                Some(slot) => vault.keep(slot),
                // The sync of this slot did not end, so no record was encrypted with its key.
                None if place + 1 == count => {}
                None => return Err(VaultFault::Damaged { path: path.to_owned(), slot: place }),
            }
        }
        Ok(vault)
    }

    /// An instance without keys, for callers that read only plain records.
    #[must_use]
    pub fn empty(path: &Path) -> Self {
        let (by_id, by_principal) = (HashMap::new(), HashMap::new());
        Self {
            path: path.to_owned(),
            open: None,
            slots: Vec::new(),
            by_id,
            by_principal,
            unsynced: BTreeSet::new(),
            write_again: false,
            gone: HashSet::new(),
            hashing: RandomState::new(),
        }
    }

    /// Adds a slot in memory.
    fn keep(&mut self, slot: KeySlot) {
        let place = self.slots.len();
        self.by_id.insert(slot.id, place);
        if slot.key.is_some() {
            self.by_principal.insert(slot.principal.clone(), place);
        }
        self.slots.push(slot);
    }

    /// Writes a slot into the file, without a sync.
    fn write(&mut self, place: usize) -> Result<(), VaultFault> {
        let (Some(open), Some(slot)) = (&self.open, self.slots.get(place)) else {
            return Err(VaultFault::Unknown);
        };
        let written = open.disk.write(&open.file, &*slot.encode(), (place * SLOT_BYTES) as u64);
        written.map_err(durable::DiskFault::of("write", &self.path))?;
        self.unsynced.insert(place);
        Ok(())
    }

    /// The key of a principal; the empty name means the gateway itself. It is generated where there
    /// is none. The key may be used after [`Vault::sync`] has returned.
    ///
    /// # Errors
    /// When the key cannot be generated or written.
    pub fn of(
        &mut self,
        principal: &str,
        now: Timestamp,
    ) -> Result<(RecordKeyId, &[u8; 32]), VaultFault> {
        let place = match self.by_principal.get(principal) {
            Some(place) => *place,
            None => {
                let (id, key) = (RecordKeyId(entropy()?), Zeroizing::new(entropy()?));
                if self.gone.remove(&self.hashing.hash_one(principal)) {
                    // Only a gateway generates keys, and only the gateway build has `tracing`.
                    #[cfg(feature = "gateway")]
                    tracing::warn!(record_key = %id, "a principal that was forgotten is recorded \
                        again: a token with its name is still valid");
                }
                let made = crate::audit::format::payload::moment(now);
                self.keep(KeySlot { id, made, principal: principal.to_owned(), key: Some(key) });
                let place = self.slots.len() - 1;
                // A key that is not in the file must not stay in memory: records under it would be
                // lost at the next start.
                if let Err(fault) = self.write(place) {
                    self.by_principal.remove(principal);
                    self.by_id.remove(&id);
                    self.slots.pop();
                    return Err(fault);
                }
                place
            }
        };
        let Some(KeySlot { id, key: Some(key), .. }) = self.slots.get(place) else {
            return Err(VaultFault::Unknown);
        };
        Ok((*id, &**key))
    }

    /// Returns when all new and destroyed keys are durable in the file at their path. It may be
    /// called again after a shortage.
    ///
    /// # Errors
    /// When the sync fails, or the file was removed or replaced.
    pub fn sync(&mut self) -> Result<(), VaultFault> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if self.write_again {
            // A failed sync may have dropped the written pages. A second sync alone would report
            // success without them.
            self.unsynced.clone().into_iter().try_for_each(|place| self.write(place))?;
        }
        let Some(open) = &self.open else { return Ok(()) };
        if let Err(error) = open.disk.sync(&open.file) {
            self.write_again = durable::passes(&error);
            return Err(durable::DiskFault::of("sync", &self.path)(error).into());
        }
        // Checked after the sync: a sync of a removed file succeeds too.
        open.identity.check().map_err(VaultFault::Changed)?;
        self.unsynced.clear();
        self.write_again = false;
        Ok(())
    }

    /// The id of a principal's record key, where it has one.
    #[must_use]
    pub fn id_of(&self, principal: &str) -> Option<RecordKeyId> {
        let place = self.by_principal.get(principal)?;
        Some(self.slots.get(*place)?.id)
    }

    /// Destroys the key `id`: overwrites it, and returns when that is durable.
    ///
    /// # Errors
    /// When there is no such key, or it cannot be overwritten.
    pub fn destroy(&mut self, id: &RecordKeyId) -> Result<(), VaultFault> {
        let Some(erased) = self.erase(id) else { return Err(VaultFault::Unknown) };
        self.gone.insert(self.hashing.hash_one(&erased.principal));
        self.write(erased.place)?;
        self.sync()
    }

    /// Removes the key `id` from memory, after the process that writes the log has destroyed it.
    /// Returns the principal.
    pub fn drop_key(&mut self, id: &RecordKeyId) -> Option<String> {
        Some(self.erase(id)?.principal)
    }

    /// Removes the key `id` and its principal's name from memory. `None` where there is no such
    /// slot.
    fn erase(&mut self, id: &RecordKeyId) -> Option<ErasedSlot> {
        let place = *self.by_id.get(id)?;
        let slot = self.slots.get_mut(place)?;
        slot.key = None;
        // The name is removed too: the slot keeps only the id.
        let principal = std::mem::take(&mut slot.principal);
        if self.by_principal.get(&principal) == Some(&place) {
            self.by_principal.remove(&principal);
        }
        Some(ErasedSlot { place, principal })
    }

    /// The principals with keys, and their keys' ids.
    pub fn principals(&self) -> impl Iterator<Item = (&str, RecordKeyId)> {
        self.slots
            .iter()
            .filter(|slot| slot.key.is_some())
            .map(|slot| (slot.principal.as_str(), slot.id))
    }
}

impl Opener for Vault {
    fn held(&self, id: &RecordKeyId) -> KeyLookup<'_> {
        let Some(place) = self.by_id.get(id) else { return KeyLookup::Missing };
        match self.slots.get(*place) {
            None => KeyLookup::Missing,
            Some(KeySlot { key: None, .. }) => KeyLookup::Destroyed,
            Some(KeySlot { key: Some(key), .. }) => KeyLookup::Key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_destroyed_ones_do_not() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("record-keys");
        let mut vault = Vault::open(&path).expect("vault");
        let now = Timestamp(1_790_000_000_000);
        let (ada, key) = vault.of("user:ada", now).map(|(id, key)| (id, *key)).expect("key");
        let (bob, _) = vault.of("user:bob", now).map(|(id, key)| (id, *key)).expect("key");
        vault.sync().expect("sync");
        assert_eq!(vault.of("user:ada", now).map(|(id, key)| (id, *key)).expect("key"), (ada, key));
        let read = Vault::read(&path).expect("read");
        assert!(matches!(read.held(&ada), KeyLookup::Key(found) if *found == key));
        vault.destroy(&ada).expect("destroyed");
        let read = Vault::read(&path).expect("read");
        assert!(
            matches!(read.held(&ada), KeyLookup::Destroyed)
                && matches!(read.held(&bob), KeyLookup::Key(_))
        );
        assert!(matches!(read.held(&RecordKeyId([9; 16])), KeyLookup::Missing));
        let bytes = std::fs::read(&path).expect("file");
        let text = URL_SAFE_NO_PAD.encode(key);
        for secret in [text.as_bytes(), b"user:ada"] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "something of it is left"
            );
        }
        assert_ne!(vault.of("user:ada", now).map(|(id, _)| id).expect("a new one"), ada);
    }

    #[test]
    fn a_damaged_slot_is_noticed_unless_it_is_the_last() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("record-keys");
        let mut vault = Vault::open(&path).expect("vault");
        for name in ["a", "b"] {
            vault.of(name, Timestamp(0)).expect("key");
        }
        let whole = std::fs::read(&path).expect("file");
        for place in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).expect("write");
            assert_eq!(Vault::read(&path).is_err(), place < SLOT_BYTES, "byte {place}");
        }
        std::fs::write(&path, &whole[..700]).expect("write");
        assert_eq!(Vault::read(&path).expect("read").principals().count(), 1);
    }
}
