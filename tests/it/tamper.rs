//! A log of ten thousand records with random changes of many kinds. The verifier finds each of
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tempfile::TempDir;
use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::{LogKeys, LogSigner, peek, read_vkeys};
use token_shield::audit::format::request::{RefusalCount, RefusalCounts};
use token_shield::audit::read::verify::{VerifiedEpoch, VerifyFault, VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogSettings, NewEpoch};
use token_shield::clock::{Clock, ManualClock, Timestamp};
use token_shield::id::KeyId;
use token_shield::merkle::leaf_hash;
use token_shield::merkle::tile::{bundle_push, bundle_records};

use crate::journal::copy_folder;

/// The records in the first epoch, and in the second one without its first record.
const RECORDS: [u64; 2] = [5_000, 4_999];

struct Built {
    data: TempDir,
    keys: Vec<LogKeys>,
    /// A checkpoint from the middle of each epoch.
    since: Vec<String>,
    /// The folder and the head as they were in the middle of the second epoch.
    older: TempDir,
}

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 1 << 16, ..LogSettings::of_data(data, "gw.example") }
}

fn event(number: u64) -> Event {
    let row = |whose: &str, stage| RefusalCount {
        whose: whose.to_owned(),
        stage,
        code: "no-such-token",
        count: number,
    };
    let tally = |row| {
        Box::new(RefusalCounts {
            principal: None,
            from: Timestamp(0),
            until: Timestamp(60_000),
            rows: vec![row],
            other: number,
        })
    };
    match number % 4 {
        0 => Event::Refusals(tally(row("ops/agent", None))),
        1 => Event::UnauthenticatedRefusals(tally(row("192.0.2.0/24", Some("token")))),
        _ => Event::KeyRevoked { kid: KeyId([7; 32]), reason: format!("number {number}") },
    }
}

impl Built {
    fn new() -> Self {
        let folder =
            || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("folder");
        let (data, older) = (folder(), folder());
        let mut since = Vec::new();
        for (epoch, records) in (1..).zip(RECORDS) {
            let begin = (epoch > 1).then(|| NewEpoch {
                reason: "for a test".to_owned(),
                by: None,
                after_loss: false,
            });
            let clock = Arc::new(ManualClock::at(Timestamp(1_790_000_000_000)));
            let time = Arc::clone(&clock) as Arc<dyn Clock>;
            let (log, _) =
                Log::open(LogSettings { begin, ..settings(data.path()) }, time).expect("log");
            for half in [0..records / 2, records / 2..records] {
                let (answer, answers) = mpsc::channel();
                let count = half.end - half.start;
                for number in half {
                    let answer = answer.clone();
                    log.append_with(event(number), None, move |sealed| {
                        let _ = answer.send(sealed.is_ok());
                    });
                }
                assert!((0..count).all(|_| answers.recv().expect("answer")));
                clock.advance(Duration::from_millis(300));
                log.want_checkpoint();
                while log.state().signed < log.state().size {
                    assert!(log.healthy());
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                if count == records / 2 && since.len() < epoch {
                    since.push(
                        fs::read_to_string(log.epoch().join("checkpoint")).expect("checkpoint"),
                    );
                    if epoch == 2 {
                        copy_folder(data.path(), older.path());
                    }
                }
            }
            log.close().expect("closed");
        }
        let keys = read_vkeys(&fs::read_to_string(settings(data.path()).vkeys).expect("keys"))
            .expect("keys");
        Self { data, keys, since, older }
    }

    fn epoch(&self, number: u32) -> PathBuf {
        settings(self.data.path()).dir.join(format!("e{number:06}"))
    }

    fn verify(&self, dir: &Path, since: Option<&str>) -> Result<Vec<VerifiedEpoch>, VerifyFault> {
        let head = settings(self.data.path()).head;
        verify(&VerifyTarget { dir, keys: &self.keys, head: Some(&head), since }, |_, _| {})
    }

    fn check(&self, since: Option<&str>) -> Result<Vec<VerifiedEpoch>, VerifyFault> {
        self.verify(&settings(self.data.path()).dir, since)
    }
}

/// The generator xorshift64, so that a failed run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(most.max(1)).expect("small")).expect("small")
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The first record that a change of this file affects, if a record can be named: in a bundle, or
/// in the hashes over it.
fn first_bad(path: &Path, old: &[u8], new: &[u8]) -> Option<u64> {
    let text = path.to_string_lossy();
    let (_, rest) = text.split_once("/tile/")?;
    let (level, tile) = rest.split_once('/')?;
    let first = tile.get(..3)?.parse::<u64>().ok()? * 256;
    let place = old
        .iter()
        .zip(new)
        .position(|(one, other)| one != other)
        .unwrap_or(old.len().min(new.len()));
    if level == "entries" {
        let mut end = 0;
        let known = bundle_records(old).position(|record| {
            end += 2 + record.expect("honest").len();
            place < end
        });
        return known.map(|known| first + u64::try_from(known).expect("small"));
    }
    let level: u32 = level.parse().ok()?;
    // A tile of another length cannot be read.
    let hash = if old.len() == new.len() { u64::try_from(place / 32).expect("small") } else { 0 };
    (level == 0).then_some(first + hash)
}

/// The result that the verifier must give when `path` has the content `new`, or none, in place of
/// `old`.
#[track_caller]
fn policy(
    path: &Path,
    old: &[u8],
    new: Option<&[u8]>,
    said: &Result<Vec<VerifiedEpoch>, VerifyFault>,
) {
    let text = path.to_string_lossy();
    let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let kept = old.iter().rposition(|byte| *byte != 0).map_or(0, |place| place + 1);
    let passes = match new {
        // The next start makes a lock and a reserve again. All records of the journal are also in
        // the tiles.
        None => text.ends_with("/lock") || text.ends_with("/reserve") || text.contains("/journal/"),
        Some(new) if text.ends_with("/reserve") => zeros(new),
        // An interrupted write may leave any bytes after the last batch. The verifier reports them,
        // and this is no fault.
        Some(new) if text.contains("/journal/") => {
            new.get(..kept.next_multiple_of(512)) == old.get(..kept.next_multiple_of(512))
        }
        Some(_) => false,
    };
    match said {
        Ok(seen) => {
            let torn = new
                .filter(|_| text.contains("/journal/"))
                .is_some_and(|new| !zeros(&new[kept.min(new.len())..]));
            assert!(passes, "{text} is changed, and nobody noticed");
            assert_eq!(seen.last().expect("an epoch").torn > 0, torn, "{text}");
            assert_eq!(seen.iter().map(|epoch| epoch.size).collect::<Vec<_>>(), [5_000, 5_000]);
        }
        // There are more bytes after the journal than one write can leave.
        Err(fault) if passes => {
            assert!(fault.to_string().contains("no batch was ever written"), "{text}: {fault}")
        }
        Err(fault) => {
            let bad =
                new.map_or_else(|| first_bad(path, old, &[]), |new| first_bad(path, old, new));
            if let Some(bad) = bad {
                assert_eq!(fault.index(), Some(bad), "{text}: {fault}");
                assert!(fault.epoch().is_some_and(|epoch| text.contains(epoch)), "{text}: {fault}");
            }
        }
    }
}

fn mangled(old: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut new = old.to_vec();
    let place = random.below(old.len());
    let count = (1 + random.below(40)).min(old.len() - place);
    match random.below(8) {
        0 => return None,
        1 => drop(new.drain(place..place + count)),
        2 => drop(new.splice(
            place..place,
            (0..count).map(|_| u8::try_from(random.below(256)).expect("a byte")),
        )),
        3 => new.truncate(place),
        _ => {
            if let Some(byte) = new.get_mut(place) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
    Some(new)
}

fn campaign(seed: u64, rounds: usize) {
    let built = Built::new();
    let honest = built.check(Some(&built.since[0])).expect("honest");
    assert_eq!(
        honest.iter().map(|epoch| (epoch.size, epoch.signed)).collect::<Vec<_>>(),
        [(5_000, 5_000); 2]
    );
    let files = files(&settings(built.data.path()).dir);
    let mut random = Random(seed);
    for _ in 0..rounds {
        let path = &files[random.below(files.len())];
        let old = fs::read(path).expect("read");
        let new = mangled(&old, &mut random);
        if new.as_ref() == Some(&old) {
            continue;
        }
        match &new {
            Some(new) => fs::write(path, new).expect("write"),
            None => fs::remove_file(path).expect("remove"),
        }
        policy(path, &old, new.as_deref(), &built.check(None));
        fs::write(path, &old).expect("undo");
    }
    built.check(None).expect("honest again");
}

#[test]
fn whatever_is_changed_is_found() {
    let each = if std::env::var_os("TOKEN_SHIELD_FULL").is_some() { 50_000 } else { 1_000 };
    let halves = [1, 2].map(|seed| std::thread::spawn(move || campaign(seed, each)));
    halves.into_iter().for_each(|half| half.join().expect("a half"));
}

#[test]
fn files_that_change_places_are_found() {
    let built = Built::new();
    let files: Vec<_> = files(&settings(built.data.path()).dir)
        .into_iter()
        .map(|path| (fs::read(&path).expect("read"), path))
        .collect();
    let mut swapped = 0;
    for (place, (one, here)) in files.iter().enumerate() {
        let behind = files
            .iter()
            .skip(place + 1)
            .filter(|(other, _)| other.len() == one.len() && other != one);
        for (other, there) in behind.step_by(7) {
            fs::write(here, other).and_then(|()| fs::write(there, one)).expect("swap");
            policy(here, one, Some(other), &built.check(None));
            fs::write(here, one).and_then(|()| fs::write(there, other)).expect("undo");
            swapped += 1;
        }
    }
    assert!(swapped > 50, "{swapped}");
}

#[test]
fn records_that_change_places_are_found_though_their_hashes_fit() {
    let built = Built::new();
    let mut random = Random(9);
    for _ in 0..20 {
        let (epoch, tile) =
            (1 + u32::try_from(random.below(2)).expect("small"), 1 + random.below(18));
        let paths = ["entries", "0"]
            .map(|level| built.epoch(epoch).join(format!("tile/{level}/{tile:03}")));
        let old = paths.clone().map(|path| fs::read(path).expect("read"));
        let mut records: Vec<&[u8]> =
            bundle_records(&old[0]).map(|record| record.expect("honest")).collect();
        let one = random.below(255);
        records.swap(one, one + 1 + random.below(255 - one));
        let (mut bundle, mut hashes) = (Vec::new(), Vec::new());
        for record in records {
            bundle_push(&mut bundle, record);
            hashes.extend(leaf_hash(record));
        }
        fs::write(&paths[0], bundle).and_then(|()| fs::write(&paths[1], hashes)).expect("write");
        // The hash over the 256 records cannot tell which of them was changed.
        let fault = built.check(None).expect_err("changed");
        assert_eq!(fault.index(), Some(u64::try_from(tile).expect("small") * 256), "{fault}");
        paths.iter().zip(old).for_each(|(path, old)| fs::write(path, old).expect("undo"));
    }
}

#[test]
fn other_keys_and_older_logs_are_found() {
    let built = Built::new();
    let other = LogSigner::generate().expect("keys");
    for number in [1, 2] {
        let path = built.epoch(number).join("checkpoint");
        let note = fs::read_to_string(&path).expect("note");
        let mut checkpoint = peek(&note).expect("checkpoint");
        for _ in 0..2 {
            fs::write(&path, other.sign(&checkpoint).expect("signed")).expect("write");
            built.check(None).expect_err("another key");
            checkpoint.size -= 1;
        }
        fs::write(&path, &note).expect("undo");
    }
    // An older folder has fewer records than the head. Without the head, it has fewer than a
    // checkpoint that a person kept.
    let old = settings(built.older.path()).dir;
    let fault = built.verify(&old, None).expect_err("older");
    assert!(fault.to_string().contains("acknowledged"), "{fault}");
    let newest = fs::read_to_string(built.epoch(2).join("checkpoint")).expect("checkpoint");
    let alone = |since| {
        verify(&VerifyTarget { dir: &old, keys: &built.keys, head: None, since }, |_, _| {})
    };
    alone(Some(&built.since[1])).expect("it holds what it held then");
    let fault = alone(Some(&newest)).expect_err("behind the checkpoint");
    assert!(fault.index().is_some_and(|index| index < 5_000), "{fault}");
    // Another log, complete and consistent.
    let another = Built::new();
    built.verify(&settings(another.data.path()).dir, None).expect_err("other keys");
    let since = VerifyTarget {
        dir: &settings(another.data.path()).dir,
        keys: &another.keys,
        head: None,
        since: Some(&built.since[0]),
    };
    verify(&since, |_, _| {}).expect_err("not the log of that checkpoint");
    // The last epoch is removed.
    fs::remove_dir_all(built.epoch(2)).expect("remove");
    let fault = built.check(None).expect_err("cut");
    assert!(fault.to_string().contains("gw.example/e000002"), "{fault}");
    let cut = VerifyTarget {
        dir: &settings(built.data.path()).dir,
        keys: &built.keys,
        head: None,
        since: Some(&built.since[1]),
    };
    verify(&cut, |_, _| {}).expect_err("cut, and a checkpoint of it was kept");
}

/// Appends a batch with one record after the journal of the newest epoch, as an attacker with write
/// access to the folder can.
fn forge(data: &Path, record: &str) {
    let epochs = token_shield::audit::read::reader::epochs(&settings(data).dir).expect("a log");
    let last = epochs.last().expect("an epoch");
    let mut tree = token_shield::merkle::Tree::new();
    let _ = token_shield::audit::read::reader::each(last, 0, |found| {
        tree.push(found.bytes);
        std::ops::ControlFlow::Continue(())
    });
    let mut batch = token_shield::audit::format::journal::Builder::new(tree);
    batch.push(record.as_bytes()).expect("room");
    let (_, segment) = token_shield::audit::read::tiles::segments(&last.folder.join("journal"))
        .expect("segments")
        .0
        .pop()
        .expect("one");
    let mut bytes = fs::read(&segment).expect("a segment");
    let (end, _) = token_shield::audit::format::journal::reach(&bytes, u64::MAX);
    let forged = batch.finish().0;
    bytes[end..end + forged.len()].copy_from_slice(&forged);
    fs::write(segment, bytes).expect("written");
}

#[test]
fn what_is_forged_behind_the_head_says_nothing() {
    let at = r#""at":"2036-11-21T08:15:30.000Z""#;
    let built = Built::new();
    let dir = settings(built.data.path()).dir;
    forge(
        built.data.path(),
        &format!(r#"{{{at},"kind":"pruned","payload":{{"through":"e000001"}},"v":1}}"#),
    );
    built.check(None).expect("durable, and never told of");
    fs::remove_dir_all(dir.join("e000001/tile/entries")).expect("removed");
    let fault = built.check(None).expect_err("it is not acknowledged that they may be missing");
    assert!(fault.to_string().contains("its records are missing"), "{fault}");
    // A start does not accept it either: it removes the batch.
    let started = Log::open(
        settings(built.data.path()),
        Arc::new(ManualClock::at(Timestamp(1_790_000_000_000))),
    );
    if let Ok((log, recovered)) = started {
        assert!(recovered.torn.is_some());
        log.close().expect("closed");
    }
    let fault = built.check(None).expect_err("a start has not told anybody of it");
    assert!(fault.to_string().contains("its records are missing"), "{fault}");

    let built = Built::new();
    let plain = r#"{"agent":"ops/agent","reason":"x","status":"active"}"#;
    forge(built.data.path(), &format!(r#"{{{at},"kind":"agent-status","payload":{plain},"v":1}}"#));
    let started = Log::open(
        settings(built.data.path()),
        Arc::new(ManualClock::at(Timestamp(1_790_000_000_000))),
    );
    let fault = started.map(|_| ()).expect_err("a command that nobody gave").to_string();
    assert!(fault.contains("another program wrote it"), "{fault}");
}
