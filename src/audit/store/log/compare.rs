//! Compares the cache with the log.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::cache::Cache;
use crate::audit::format::envelope::Envelope;
use crate::audit::read::reader::{Epoch, ReadFault, each};
use crate::audit::read::tiles::{Tiles, epoch_name, is_pruned};
use crate::merkle::proof::tree_at;

/// The differences between the cache and the log; `None` where there is no cache, or a gateway has
/// it open.
///
/// # Errors
/// When the log cannot be read.
pub fn cache_against(path: &Path, epochs: &[Epoch]) -> Result<Option<Vec<String>>, ReadFault> {
    let Some(cache) = Cache::existing(path) else { return Ok(None) };
    let Some(stamp) = cache.stamp() else { return Ok(None) };
    let mut found = Vec::new();
    let Some(last) =
        epochs.iter().find(|epoch| epoch.number == stamp.epoch && epoch.signed >= stamp.size)
    else {
        return Ok(Some(vec![format!(
            "the cache is ahead of the log: {} records of {}",
            stamp.size,
            epoch_name(stamp.epoch)
        )]));
    };
    // The stamp's root is compared first. Where it differs, a list of all records would be useless.
    if tree_at(&mut Tiles::new(&last.folder, last.signed), stamp.size)?.root() != stamp.root {
        return Ok(Some(vec!["the cache is of another log".to_owned()]));
    }
    let mut kept: BTreeMap<(u32, u64), Vec<u8>> = BTreeMap::new();
    let read = cache.controls(|epoch, index, bytes| {
        kept.insert((epoch, index), bytes.to_vec());
        Ok::<_, ReadFault>(())
    });
    match read {
        Ok(read) => read?,
        Err(error) => return Ok(Some(vec![format!("the cache cannot be read: {error}")])),
    }
    for epoch in epochs {
        if epoch.number > stamp.epoch {
            continue;
        }
        if is_pruned(&epoch.folder) {
            // The log has only hashes of these records, so there is no comparison.
            kept.retain(|(number, _), _| *number != epoch.number);
            continue;
        }
        // Of a lost epoch the cache may cover more than there is, or less. Records after its
        // checkpoint are not compared.
        let end = if epoch.number == stamp.epoch { stamp.size } else { epoch.signed };
        kept.retain(|(number, index), _| *number != epoch.number || *index < end);
        let _ = each(epoch, 0, |record| {
            if record.index >= end {
                return ControlFlow::Break(());
            }
            let known = kept.remove(&(record.epoch, record.index));
            let transient =
                Envelope::read(record.bytes).is_ok_and(|envelope| envelope.is_transient());
            // The cache must have exactly the records that change the state, byte for byte.
            if known.as_deref() != (!transient).then_some(record.bytes) {
                found.push(format!("{}: the cache has it otherwise than the log", record.name()));
            }
            ControlFlow::Continue(())
        })?;
    }
    for (epoch, index) in kept.keys() {
        let epoch = epoch_name(*epoch);
        found.push(format!("{epoch}#{index}: the cache has it, and the log has not"));
    }
    Ok(Some(found))
}
