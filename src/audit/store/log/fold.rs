//! Reads the records that the state is folded from: first the cache, then the records of the log
//! that follow.

use super::cache::Cache;
use super::epoch::EpochFolder;
use super::integrate::Checkpointer;
use super::{LogFault, LogSettings};
use crate::audit::format::envelope::Envelope;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::note::Checkpoint;
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles, epoch_name};
use crate::audit::store::vault::Vault;
use crate::clock::Timestamp;
use crate::merkle::proof::tree_at;

/// The records, and the time of the last one.
pub(super) struct Fold {
    pub(super) records: Vec<Record>,
    pub(super) at: Timestamp,
}

impl Fold {
    /// Adds a record. A record whose key was destroyed is skipped.
    fn take(
        &mut self,
        epoch: u32,
        index: u64,
        bytes: &[u8],
        vault: &Vault,
    ) -> Result<(), LogFault> {
        let record = Record::decode(bytes, vault);
        self.records.extend(record.map_err(|fault| LogFault::record(epoch, index, fault))?);
        Ok(())
    }

    /// Keeps the time of the log's last record, which is the lower limit for new records. Fails
    /// where time goes back.
    fn last(&mut self, bytes: &[u8], epoch: u32, index: u64) -> Result<(), LogFault> {
        let at = Envelope::read(bytes).and_then(|envelope| envelope.moment());
        let at = at.map_err(|fault| LogFault::record(epoch, index, fault))?;
        // The times of records never decrease; the verifier requires the same.
        if at < self.at {
            return Err(LogFault::record(epoch, index, RecordFault::Earlier));
        }
        self.at = at;
        Ok(())
    }
}

/// One epoch's tree.
struct EpochTree {
    number: u32,
    tiles: Tiles,
    /// Whether its records were moved away.
    pruned: bool,
    /// Whether the next epoch records a loss of this one. Then unreadable records are known to be
    /// missing.
    lost: bool,
}

impl EpochTree {
    /// The tree of an epoch without a known loss.
    const fn new(number: u32, tiles: Tiles, pruned: bool) -> Self {
        Self { number, tiles, pruned, lost: false }
    }
}

/// The trees of all epochs up to the one that continues, with the sizes of their verified
/// checkpoints.
fn trees(
    settings: &LogSettings,
    epoch: &EpochFolder,
    signed: u64,
    pending: &[Vec<u8>],
) -> Result<Vec<EpochTree>, LogFault> {
    let mut found: Vec<EpochTree> = Vec::new();
    for (number, folder) in tiles::epochs(&settings.dir)? {
        if number >= epoch.number {
            continue;
        }
        let before = EpochFolder::new(settings, number)?;
        let Some(note) = tiles::checkpoint_note(&folder)? else { continue };
        let keys = before.known_keys(settings)?;
        let path = folder.join("checkpoint");
        let checkpoint = keys.open(&note).map_err(|fault| LogFault::note(&path, fault))?;
        let tiles = Tiles::new(&folder, checkpoint.size);
        found.push(EpochTree::new(number, tiles, tiles::is_pruned(&folder)));
    }
    found.push(EpochTree::new(epoch.number, Tiles::new(&epoch.folder, signed), false));
    // An epoch's first record states whether a part of the previous epoch was lost. The epoch that
    // begins now has no record yet.
    let begins_lossy = settings.confirmed_loss().is_some();
    let mut says_loss = false;
    for tree in found.iter_mut().rev() {
        tree.lost = says_loss;
        // A lost epoch may lack its bundles without a prune, so it does not count as pruned.
        tree.pruned &= !says_loss;
        let first = match tree.tiles.record(0) {
            Ok(first) => Some(first),
            Err(_) if tree.number == epoch.number => pending.first().cloned(),
            Err(_) => None,
        };
        says_loss = match first {
            Some(first) => super::prune::says_loss(&first),
            None => begins_lossy && tree.number == epoch.number,
        };
    }
    Ok(found)
}

/// Folds the log: with the cache where it matches, otherwise from the first record.
pub(super) fn fold(
    settings: &LogSettings,
    epoch: &EpochFolder,
    checkpointer: &mut Checkpointer,
    pending: &[Vec<u8>],
    vault: &Vault,
) -> Result<Fold, LogFault> {
    let signed = checkpointer.size();
    let mut fold = Fold { records: Vec::new(), at: Timestamp(0) };
    let mut trees = trees(settings, epoch, signed, pending)?;
    let lossy = settings.confirmed_loss().is_some();
    let from = cached(checkpointer.cache.as_mut(), &mut trees, &mut fold, vault, settings)?;
    // After a confirmed loss, the cache counts as it is. In every other case it must cover each
    // pruned epoch.
    if !lossy || from.is_none() {
        reaches(&trees, from.map_or(0, |(number, _)| number), settings)?;
    }
    for tree in &mut trees {
        let begin = match from {
            // Epochs before the stamp are in the cache completely.
            Some((number, _)) if tree.number < number => continue,
            Some((number, size)) if tree.number == number => size,
            _ => 0,
        };
        let size = tree.tiles.size();
        let mut new = Vec::new();
        let mut missing = 0_u64;
        for index in begin..size {
            let bytes = match tree.tiles.record(index) {
                Ok(bytes) => bytes,
                Err(_) if tree.lost => {
                    missing += 1;
                    continue;
                }
                Err(fault) => return Err(fault.into()),
            };
            let envelope = Envelope::read(&bytes);
            let envelope = envelope.map_err(|fault| LogFault::record(tree.number, index, fault))?;
            if !envelope.is_transient() {
                fold.take(tree.number, index, &bytes, vault)?;
                new.push((index, bytes));
            }
        }
        if size > begin
            && let Some(cache) = checkpointer.cache.as_mut()
        {
            let root = match tree_at(&mut tree.tiles, size) {
                Ok(tree) => tree.root(),
                // The root of a lost epoch is never compared. Its records count as they are here.
                Err(_) if tree.lost => [0; 32],
                Err(fault) => return Err(fault.into()),
            };
            cache.add(tree.number, new, &Checkpoint { origin: String::new(), size, root });
        }
        match tree.tiles.record(size.saturating_sub(1)) {
            _ if size == 0 => {}
            Ok(last) => fold.last(&last, tree.number, size - 1)?,
            Err(_) if tree.lost => {}
            Err(fault) => return Err(fault.into()),
        }
        if missing > 0 {
            let epoch = epoch_name(tree.number);
            let what = "records of an epoch of which something was lost cannot be read";
            tracing::warn!(epoch, missing, "{what}");
        }
    }
    // Records of the journal are in no tile yet, so they come last.
    for (index, bytes) in (signed..).zip(pending) {
        fold.last(bytes, epoch.number, index)?;
        fold.take(epoch.number, index, bytes, vault)?;
    }
    Ok(fold)
}

/// Checks that the cache covers every epoch whose records were moved away: each is before `from`.
/// Otherwise revocations in these epochs would be forgotten. Then the cache may not be rebuilt
/// either.
fn reaches(trees: &[EpochTree], from: u32, settings: &LogSettings) -> Result<(), LogFault> {
    match trees.iter().find(|tree| tree.pruned && tree.number >= from) {
        Some(tree) => {
            Err(LogFault::Pruned { epoch: epoch_name(tree.number), cache: settings.cache.clone() })
        }
        None => Ok(()),
    }
}

/// Takes the records from the cache, if it is of this log, and returns how far it covers the log.
/// After a confirmed loss, the cache's records of the lost part still count, so revocations stay.
fn cached(
    cache: Option<&mut Cache>,
    trees: &mut [EpochTree],
    fold: &mut Fold,
    vault: &Vault,
    settings: &LogSettings,
) -> Result<Option<(u32, u64)>, LogFault> {
    let Some(cache) = cache else { return Ok(None) };
    let Some(stamp) = cache.stamp() else { return Ok(None) };
    let epoch = epoch_name(stamp.epoch);
    let tree = trees.iter_mut().find(|tree| tree.number == stamp.epoch);
    match tree.filter(|tree| tree.tiles.size() >= stamp.size) {
        // The root at the stamp's size proves that the cache is of this log.
        Some(tree) => match tree_at(&mut tree.tiles, stamp.size) {
            Ok(tree) if tree.root() == stamp.root => {}
            Ok(_) => {
                reaches(trees, 0, settings)?;
                tracing::warn!("the cache of the log is not of this log, and is made anew");
                cache.clear();
                return Ok(None);
            }
            // The missing part of the tree is a known loss, and the cache covers it.
            Err(_) if tree.lost => {}
            Err(fault) => return Err(fault.into()),
        },
        None if settings.confirmed_loss().is_some() => {}
        // A shorter log with an intact cache is a rollback, for example by an old backup. It could
        // undo a revocation.
        None => return Err(LogFault::CacheAhead { epoch, size: stamp.size }),
    }
    let taken = cache.controls(|epoch, index, bytes| fold.take(epoch, index, bytes, vault));
    match taken {
        Ok(done) => done.map(|()| Some((stamp.epoch, stamp.size))),
        Err(error) => {
            reaches(trees, 0, settings)?;
            tracing::warn!(%error, "the cache of the log cannot be read, and is made anew");
            cache.clear();
            fold.records.clear();
            Ok(None)
        }
    }
}
