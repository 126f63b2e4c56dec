//! A power failure at every call to the disk. Each sector that was not synced has a random one of
//! the states that it had since the last sync.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, PoisonError};

use token_shield::audit::format::event::Event;
use token_shield::durable::{Disk, SystemDisk};
use token_shield::id::KeyId;

use super::data::Data;

const SECTOR: u64 = 512;

/// A disk that loses power before call number `calls`. That call may have happened in part.
struct Failing(Mutex<Inner>);

struct Inner {
    calls: usize,
    /// For each file and sector: every content since the last sync, the synced one first.
    unsynced: HashMap<(u64, u64), Versions>,
    random: u64,
}

struct Versions {
    file: File,
    contents: Vec<Vec<u8>>,
}

impl Failing {
    fn after(calls: usize, seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { calls, unsynced: HashMap::new(), random: seed })))
    }

    /// Decides the content of the disk after power returns. True if there was a power failure.
    fn settle(&self) -> bool {
        let inner = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sectors: Vec<_> = inner.unsynced.drain().collect();
        sectors.sort_unstable_by_key(|(key, _)| *key);
        for ((_, sector), Versions { file, contents }) in sectors {
            // The generator xorshift64 makes a failed run repeatable.
            inner.random ^= inner.random << 13;
            inner.random ^= inner.random >> 7;
            inner.random ^= inner.random << 17;
            let choice = usize::try_from(inner.random % 1_000_003).expect("small") % contents.len();
            file.write_all_at(&contents[choice], sector * SECTOR).expect("settle");
        }
        inner.calls == 0
    }
}

fn sector_of(file: &File, sector: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![0; 512];
    let mut filled = 0;
    while let Ok(more @ 1..) =
        file.read_at(&mut content[filled..], sector * SECTOR + u64::try_from(filled).unwrap_or(0))
    {
        filled += more;
    }
    Ok(content)
}

impl Disk for Failing {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.calls == 0 {
            return Err(io::Error::other("no power"));
        }
        inner.calls -= 1;
        let inode = file.metadata()?.ino();
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let sectors = offset / SECTOR..end.div_ceil(SECTOR);
        for sector in sectors.clone() {
            if let std::collections::hash_map::Entry::Vacant(vacant) =
                inner.unsynced.entry((inode, sector))
            {
                vacant.insert(Versions {
                    file: file.try_clone()?,
                    contents: vec![sector_of(file, sector)?],
                });
            }
        }
        file.write_all_at(bytes, offset)?;
        for sector in sectors {
            if let Some(versions) = inner.unsynced.get_mut(&(inode, sector)) {
                versions.contents.push(sector_of(file, sector)?);
            }
        }
        // The power failed during this write, so no caller gets a success.
        if inner.calls == 0 { Err(io::Error::other("power cut")) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.calls = inner.calls.saturating_sub(1);
        if inner.calls == 0 {
            return Err(io::Error::other("power cut"));
        }
        let inode = file.metadata()?.ino();
        inner.unsynced.retain(|(of, _), _| *of != inode);
        Ok(())
    }
}

/// An event whose batch has several sectors, so that a power failure can tear it.
fn event(number: usize) -> Event {
    Event::KeyAdded {
        issuer: number.to_string(),
        jwk: "k".repeat(300 * (1 + number % 7)),
        kid: KeyId([0; 32]),
    }
}

/// The records that the log must contain, and those that it may contain.
struct Expected {
    acknowledged: usize,
    tried: Vec<Event>,
}

/// Appends to a log on `disk` until it fails, or `count` times.
fn seal(data: &Data, disk: &Arc<Failing>, count: usize, expected: &mut Expected) {
    let Ok((log, recovered)) = data.open_on(Arc::clone(disk) as Arc<dyn Disk>) else {
        return;
    };
    check(recovered.records.iter().map(|record| &record.event), expected);
    for _ in 0..count {
        let next = event(expected.tried.len());
        expected.tried.push(next.clone());
        if log.append_blocking(next, None).is_err() {
            break;
        }
        expected.acknowledged = expected.tried.len();
    }
    // The close may fail too.
    let _ = log.close();
}

/// The found records are the attempted ones, in order, and all acknowledged ones are there. From
/// now on they are fixed.
#[track_caller]
fn check<'a>(found: impl Iterator<Item = &'a Event>, expected: &mut Expected) {
    let found: Vec<&Event> = found.collect();
    assert!(
        found.len() >= expected.acknowledged,
        "{} of {} acknowledged",
        found.len(),
        expected.acknowledged
    );
    assert!(found.iter().zip(&expected.tried).all(|(found, tried)| **found == *tried));
    assert!(found.len() <= expected.tried.len());
    expected.tried.truncate(found.len());
    expected.acknowledged = found.len();
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let mut cuts = 0;
    let mut lost = 0;
    for seed in 1..=4_u64 {
        for calls in 1..=24 {
            let data = Data::new();
            let mut expected = Expected { acknowledged: 0, tried: Vec::new() };
            let random =
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::try_from(calls).expect("small");
            let disk = Failing::after(calls, random);
            seal(&data, &disk, 6, &mut expected);
            cuts += usize::from(disk.settle());
            // The next start also loses power, early, and then once more.
            for calls in [1 + calls % 4, 2 + calls % 5] {
                let disk = Failing::after(calls, random.rotate_left(7));
                seal(&data, &disk, 2, &mut expected);
                cuts += usize::from(disk.settle());
            }
            let (log, recovered) = data.open_on(Arc::new(SystemDisk)).expect("mended");
            lost += usize::from(recovered.torn.is_some());
            check(recovered.records.iter().map(|record| &record.event), &mut expected);
            log.close().expect("closed");
        }
    }
    // Proves that the campaign has an effect: most runs lost power, and some tore a batch.
    assert!(cuts > 200 && lost > 5, "{cuts} cuts, {lost} torn");
}
