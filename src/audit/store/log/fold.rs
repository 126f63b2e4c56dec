//! What the books are folded from: the cache, as far as it reaches, and the log behind it.

use super::cache::Cache;
use super::epoch::EpochFolder;
use super::integrate::Checkpointer;
use super::{LogFault, LogSettings};
use crate::audit::format::envelope::Envelope;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles, epoch_name};
use crate::audit::store::vault::Vault;
use crate::clock::Timestamp;
use crate::merkle::proof::tree_at;

/// The records, and the last one's time.
pub(super) struct Fold {
    pub(super) records: Vec<Record>,
    pub(super) at: Timestamp,
}

impl Fold {
    fn take(
        &mut self,
        epoch: u32,
        index: u64,
        bytes: &[u8],
        vault: &Vault,
    ) -> Result<(), LogFault> {
        let record = Record::decode(bytes, vault);
        let record =
            record.map_err(|fault| LogFault::Record { epoch: epoch_name(epoch), index, fault })?;
        self.records.extend(record);
        Ok(())
    }

    /// The time of the log's last record: nothing may be recorded before it.
    fn last(&mut self, bytes: &[u8], epoch: u32, index: u64) -> Result<(), LogFault> {
        let at = Envelope::read(bytes).and_then(|envelope| envelope.moment());
        let at = at.map_err(|fault| LogFault::Record { epoch: epoch_name(epoch), index, fault })?;
        if at < self.at {
            return Err(LogFault::Record {
                epoch: epoch_name(epoch),
                index,
                fault: RecordFault::Earlier,
            });
        }
        self.at = at;
        Ok(())
    }
}

/// One epoch's tree, for the fold.
struct EpochTree {
    number: u32,
    tiles: Tiles,
    /// Its records were moved away.
    pruned: bool,
    /// The epoch behind it says that something of it was lost: what cannot be read is missing, and known to be.
    lost: bool,
}

/// The trees of every epoch up to the one that goes on, under their checkpoints.
fn trees(
    settings: &LogSettings,
    epoch: &EpochFolder,
    signed: u64,
    pending: &[Vec<u8>],
) -> Result<Vec<EpochTree>, LogFault> {
    let mut found: Vec<EpochTree> = Vec::new();
    let tree = |number, tiles, pruned| EpochTree { number, tiles, pruned, lost: false };
    for (number, folder) in
        tiles::epochs(&settings.dir)?.into_iter().filter(|(number, _)| *number < epoch.number)
    {
        let before = EpochFolder::new(settings, number)?;
        let Some(note) = tiles::checkpoint_note(&folder)? else { continue };
        let keys = before.known_keys(settings)?;
        let path = folder.join("checkpoint");
        let checkpoint = keys.open(&note).map_err(|fault| LogFault::Note { path, fault })?;
        found.push(tree(number, Tiles::new(&folder, checkpoint.size), tiles::is_pruned(&folder)));
    }
    found.push(tree(epoch.number, Tiles::new(&epoch.folder, signed), false));
    // What an epoch begins with says whether something of the one before was lost; the one that begins now does not say it yet.
    let begins_lossy = settings.begin.as_ref().is_some_and(|begin| begin.after_loss);
    let mut says_loss = false;
    for tree in found.iter_mut().rev() {
        tree.lost = says_loss;
        tree.pruned &= !says_loss;
        let first = tree
            .tiles
            .record(0)
            .ok()
            .or_else(|| pending.first().filter(|_| tree.number == epoch.number).cloned());
        says_loss = match first {
            Some(first) => super::prune::says_loss(&first),
            None => begins_lossy && tree.number == epoch.number,
        };
    }
    Ok(found)
}

/// Folds the log: with the cache where it fits, else from its first record on.
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
    let lossy = settings.begin.as_ref().is_some_and(|begin| begin.after_loss);
    let from =
        cached(checkpointer.cache.as_mut(), &mut trees, &mut fold, (vault, lossy), settings)?;
    if !lossy || from.is_none() {
        reaches(&trees, from.map_or(0, |(number, _)| number), settings)?;
    }
    for tree in &mut trees {
        let begin = match from {
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
            let transient = envelope
                .map_err(|fault| LogFault::Record { epoch: epoch_name(tree.number), index, fault })?
                .is_transient();
            if !transient {
                fold.take(tree.number, index, &bytes, vault)?;
                new.push((index, bytes));
            }
        }
        if size > begin
            && let Some(cache) = checkpointer.cache.as_mut()
        {
            let root = match tree_at(&mut tree.tiles, size) {
                Ok(tree) => tree.root(),
                // Nobody compares it: the records count as they are here.
                Err(_) if tree.lost => [0; 32],
                Err(fault) => return Err(fault.into()),
            };
            let records = new.iter().map(|(index, bytes)| (*index, bytes.as_slice()));
            cache.add(
                tree.number,
                records,
                &crate::audit::format::note::Checkpoint { origin: String::new(), size, root },
            );
        }
        match tree.tiles.record(size.saturating_sub(1)) {
            _ if size == 0 => {}
            Ok(last) => fold.last(&last, tree.number, size - 1)?,
            Err(_) if tree.lost => {}
            Err(fault) => return Err(fault.into()),
        }
        if missing > 0 {
            let epoch = epoch_name(tree.number);
            tracing::warn!(
                epoch,
                missing,
                "records of an epoch of which something was lost cannot be read"
            );
        }
    }
    for (index, bytes) in (signed..).zip(pending) {
        fold.last(bytes, epoch.number, index)?;
        fold.take(epoch.number, index, bytes, vault)?;
    }
    Ok(fold)
}

/// That every epoch whose records were moved away lies before `from`, up to which the cache has them. Otherwise what was revoked
/// there would be forgotten, and the cache may not be made anew either.
fn reaches(trees: &[EpochTree], from: u32, settings: &LogSettings) -> Result<(), LogFault> {
    match trees.iter().find(|tree| tree.pruned && tree.number >= from) {
        Some(tree) => {
            Err(LogFault::Pruned { epoch: epoch_name(tree.number), cache: settings.cache.clone() })
        }
        None => Ok(()),
    }
}

/// Takes what the cache has, if it is of this log; says how far it reaches. Where something of the log is `lost`, what the cache
/// has seen of it counts: what was revoked stays so.
fn cached(
    cache: Option<&mut Cache>,
    trees: &mut [EpochTree],
    fold: &mut Fold,
    (vault, lost): (&Vault, bool),
    settings: &LogSettings,
) -> Result<Option<(u32, u64)>, LogFault> {
    let Some(cache) = cache else { return Ok(None) };
    let Some(stamp) = cache.stamp() else { return Ok(None) };
    let epoch = epoch_name(stamp.epoch);
    let tree = trees.iter_mut().find(|tree| tree.number == stamp.epoch);
    match tree.filter(|tree| tree.tiles.size() >= stamp.size) {
        Some(tree) => match tree_at(&mut tree.tiles, stamp.size) {
            Ok(tree) if tree.root() == stamp.root => {}
            Ok(_) => {
                reaches(trees, 0, settings)?;
                tracing::warn!("the cache of the log is not of this log, and is made anew");
                cache.clear();
                return Ok(None);
            }
            // What is gone of the tree is known to be; the cache has seen it.
            Err(_) if tree.lost => {}
            Err(fault) => return Err(fault.into()),
        },
        None if lost => {}
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
