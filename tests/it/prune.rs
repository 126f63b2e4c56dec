//! `audit prune`: old records are removed, the proof of them stays, and no revocation is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::read::verify::{VerifiedEpoch, VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogFault, LogSettings, NewEpoch};
use token_shield::audit::store::retain::is_clock_doubtful;
use token_shield::clock::{Clock as _, ManualClock, SystemClock, Timestamp};
use token_shield::crypto::sha256;
use token_shield::id::KeyId;

const DAY: i64 = 24 * 3600 * 1000;
/// A time that is in the past for the clock of every computer, in milliseconds.
const LONG_AGO: i64 = 1_700_000_000_000;
/// The records of an epoch: more than a tile.
const RECORDS: u64 = 300;

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 0, ..LogSettings::of_data(data, "gw.example") }
}

fn kid(epoch: i64, number: u64) -> KeyId {
    KeyId(sha256(format!("{epoch} {number}").as_bytes()))
}

/// Opens the log, and returns the revoked keys in order. With `begin`, a new epoch begins.
fn opened(data: &Path, at: i64, begin: bool) -> Result<(Log, Vec<KeyId>), LogFault> {
    let begin =
        begin.then(|| NewEpoch { reason: "for a test".to_owned(), by: None, after_loss: false });
    let clock = Arc::new(ManualClock::at(Timestamp(at)));
    let (log, recovered) = Log::open(LogSettings { begin, ..settings(data) }, clock)?;
    let revoked = recovered.records.iter().filter_map(|record| {
        let Event::KeyRevoked { kid, .. } = &record.event else { return None };
        Some(*kid)
    });
    Ok((log, revoked.collect()))
}

fn everything() -> Vec<KeyId> {
    (0..3).flat_map(|epoch| (0..RECORDS).map(move |number| kid(epoch, number))).collect()
}

/// A log of three epochs, a hundred days apart.
fn grown() -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("a folder");
    for epoch in 0..3 {
        let (log, _) = opened(data.path(), LONG_AGO + epoch * 100 * DAY, epoch > 0).expect("a log");
        for number in 0..RECORDS {
            log.append_blocking(
                Event::KeyRevoked { kid: kid(epoch, number), reason: "a test".to_owned() },
                None,
            )
            .expect("sealed");
        }
        log.close().expect("closed");
    }
    let config = "name = \"gw.example\"\ndata = \".\"\n[listen]\napi = \"127.0.0.1:0\"\nmetrics \
        = \"127.0.0.1:0\"\n\
         [[issuer]]\niss = \"https://operator.example\"\naud = \"https://gw.example\"\njwks \
         = \"keys.pub\"\nnamespaces = [\"*\"]\n\
         [[upstream]]\nname = \"echo\"\nurl = \"echo:\"\n[[model]]\nname = \"echo\"\nroute = \
         [\"echo\"]\n";
    fs::write(data.path().join("token-shield.toml"), config).expect("a config");
    data
}

fn prune(data: &Path, flags: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-shield"));
    let ran = command
        .args(["audit", "prune", "--yes", "--data"])
        .arg(data)
        .args(flags)
        .output()
        .expect("the command");
    (ran.status.success(), String::from_utf8([ran.stdout, ran.stderr].concat()).expect("UTF-8"))
}

/// A `--keep` that is shorter than the age of the second epoch: the first and the second one are
/// pruned.
fn days() -> String {
    format!("{}d", (SystemClock::start().now().0 - LONG_AGO) / DAY - 150)
}

fn check(data: &Path, dir: &Path, head: bool) -> Vec<VerifiedEpoch> {
    let own = settings(data);
    let keys = read_vkeys(&fs::read_to_string(own.vkeys).expect("keys")).expect("keys");
    verify(
        &VerifyTarget { dir, keys: &keys, head: head.then_some(&*own.head), since: None },
        |_, _| (),
    )
    .expect("it verifies")
}

fn epoch(data: &Path, number: u32) -> PathBuf {
    data.join(format!("audit/e{number:06}"))
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target)
        } else {
            assert!(fs::copy(&path, &target).is_ok())
        }
    }
}

#[test]
fn old_records_move_away_and_the_books_stay_as_they_are() {
    let data = grown();
    let (data, moved) = (data.path(), data.path().join("moved"));
    let before = check(data, &settings(data).dir, true);
    let (done, said) = prune(data, &["--keep", &days(), "--to", &moved.to_string_lossy()]);
    assert!(
        done && said.contains("e000001: 300 records moved") && said.contains("e000002"),
        "{said}"
    );
    let after = check(data, &settings(data).dir, true);
    assert_eq!(after.iter().map(|epoch| epoch.pruned).collect::<Vec<_>>(), [true, true, false]);
    assert!(
        after
            .iter()
            .zip(&before)
            .take(2)
            .all(|(after, before)| (after.size, after.root) == (before.size, before.root))
    );
    assert_eq!(after[2].size, before[2].size + 1, "a record says what was moved");
    assert!(
        !epoch(data, 1).join("tile/0/000").exists()
            && epoch(data, 1).join("tile/0/001.p/44").exists()
    );
    let kept = check(data, &moved, false);
    assert!(
        kept.iter().zip(&before).all(|(kept, before)| kept.root == before.root && !kept.pruned)
            && kept.len() == 2
    );
    let (log, revoked) =
        opened(data, LONG_AGO + 300 * DAY, true).expect("a start, and a new epoch");
    assert!(revoked == everything(), "all that was revoked");
    log.close().expect("closed");
    let (done, said) = prune(data, &["--keep", &days()]);
    assert!(done && said.contains("no epoch was pruned"), "{said}");
    assert_eq!(check(data, &settings(data).dir, true).len(), 4);
}

/// Removes the cache, or damages it. Returns its path.
fn without_cache(data: &Path, damaged: bool) -> PathBuf {
    let cache = settings(data).cache;
    let done = if damaged { fs::write(&cache, b"no database") } else { fs::remove_file(&cache) };
    done.expect("without a cache");
    cache
}

#[test]
fn without_the_cache_a_start_says_what_to_restore() {
    for damaged in [false, true] {
        let data = grown();
        let (data, moved) = (data.path(), data.path().join("moved"));
        let (done, said) = prune(data, &["--keep", &days(), "--to", &moved.to_string_lossy()]);
        assert!(done, "{said}");
        let cache = without_cache(data, damaged);
        fs::remove_dir_all(cache.with_file_name("pruned")).expect("lost as well");
        // The first failed start must not change the folder so that the second one succeeds.
        for _ in 0..2 {
            let fault = opened(data, LONG_AGO + 300 * DAY, false)
                .map(|_| ())
                .expect_err("a start that would forget");
            let said = fault.to_string();
            assert!(
                matches!(fault, LogFault::Pruned { .. }) && said.contains("e000001/tile"),
                "{said}"
            );
        }
        if damaged {
            assert_eq!(
                fs::read(&cache).expect("the cache"),
                b"no database",
                "it is left for who looks into it"
            );
            fs::remove_file(&cache).expect("removed");
        }
        for number in [1, 2] {
            // The remedy in the message: the archived tiles are put back.
            copy_folder(
                &moved.join(format!("e{number:06}/tile")),
                &epoch(data, number).join("tile"),
            );
        }
        let (log, revoked) = opened(data, LONG_AGO + 300 * DAY, false).expect("a start");
        assert!(revoked == everything(), "all that was revoked");
        log.close().expect("closed");
        check(data, &settings(data).dir, true);
    }
}

#[test]
fn a_lost_cache_is_made_anew_from_what_is_left_of_pruned_records() {
    for damaged in [false, true] {
        let data = grown();
        let data = data.path();
        let (done, said) = prune(data, &["--keep", &days()]);
        assert!(done, "{said}");
        without_cache(data, damaged);
        for _ in 0..2 {
            let (log, revoked) = opened(data, LONG_AGO + 300 * DAY, false).expect("a start");
            assert!(revoked == everything(), "all that was revoked");
            log.close().expect("closed");
        }
        check(data, &settings(data).dir, true);
    }
}

fn fault(data: &Path, dir: &Path, head: bool) -> String {
    let own = settings(data);
    let keys = read_vkeys(&fs::read_to_string(own.vkeys).expect("keys")).expect("keys");
    let found = verify(
        &VerifyTarget { dir, keys: &keys, head: head.then_some(&*own.head), since: None },
        |_, _| (),
    );
    found.expect_err("a fault").to_string()
}

#[test]
fn records_are_missed_unless_one_says_that_they_were_moved_away() {
    let data = grown();
    let data = data.path();
    let dir = settings(data).dir;
    fs::remove_dir_all(epoch(data, 2).join("tile/entries")).expect("taken away");
    assert!(
        fault(data, &dir, true).contains("e000002: record 0: its records are missing"),
        "{}",
        fault(data, &dir, true)
    );

    let data = grown();
    let data = data.path();
    let dir = settings(data).dir;
    // The second epoch begins a hundred days after the first one. Only the first one is old enough.
    let keep = format!("{}d", (SystemClock::start().now().0 - LONG_AGO) / DAY - 50);
    let (done, said) = prune(data, &["--keep", &keep]);
    assert!(done && said.contains("e000001") && !said.contains("e000002"), "{said}");
    assert!(check(data, &dir, true)[0].pruned);
    fs::remove_dir_all(epoch(data, 2).join("tile/entries")).expect("taken away");
    assert!(
        fault(data, &dir, true).contains("e000002: record 0: its records are missing"),
        "the record says e000001"
    );

    fs::remove_dir_all(epoch(data, 1)).expect("taken away");
    assert!(
        fault(data, &dir, true).contains("the epochs before it are missing"),
        "with the head, the log begins with e000001"
    );
}

#[test]
fn nothing_is_pruned_that_the_cache_does_not_cover_or_a_gateway_writes() {
    let data = grown();
    let data = data.path();
    let (log, _) = opened(data, LONG_AGO + 300 * DAY, false).expect("a log");
    let (done, said) = prune(data, &["--keep", "0s"]);
    assert!(!done && said.contains("is locked"), "{said}");
    log.close().expect("closed");
    fs::remove_file(settings(data).cache).expect("lost");
    let (done, said) = prune(data, &["--keep", "0s"]);
    assert!(done && said.contains("no epoch was pruned"), "{said}");
    assert!(check(data, &settings(data).dir, true).iter().all(|epoch| !epoch.pruned));
}

#[test]
fn an_interrupted_run_is_finished_by_the_next() {
    let data = grown();
    let data = data.path();
    assert!(prune(data, &["--keep", &days()]).0);
    // A crash after the rename leaves this state: the moved folder, and a tile without a use.
    let aside = settings(data).dir.join("tmp/pruned-e000001");
    fs::create_dir_all(aside.join("x001")).expect("a folder");
    fs::write(aside.join("000"), b"records").expect("records");
    let tile = epoch(data, 1).join("tile/0/000");
    fs::write(&tile, [7; 256 * 32]).expect("a tile");
    let (done, said) = prune(data, &["--keep", &days()]);
    assert!(done && said.contains("no epoch was pruned"), "{said}");
    assert!(!aside.exists() && !tile.exists());
    check(data, &settings(data).dir, true);
}

#[test]
fn a_clock_far_ahead_of_the_log_is_doubtful() {
    let data = grown();
    let at = |days: i64| ManualClock::at(Timestamp(LONG_AGO + (200 + days) * DAY));
    let doubtful = |days| is_clock_doubtful(&settings(data.path()), &at(days)).expect("a log");
    assert_eq!(
        [doubtful(0), doubtful(29), doubtful(31), doubtful(3650)],
        [false, false, true, true]
    );
}

#[test]
fn an_epoch_of_which_something_was_lost_stays() {
    let data = grown();
    let (data, clock) = (data.path(), Arc::new(ManualClock::at(Timestamp(LONG_AGO + 250 * DAY))));
    let begin = Some(NewEpoch { reason: "for a test".to_owned(), by: None, after_loss: true });
    let (log, _) = Log::open(LogSettings { begin, ..settings(data) }, clock).expect("a log");
    log.close().expect("closed");
    // All its records are under its checkpoint. Only the next epoch shows the loss.
    fs::remove_dir_all(epoch(data, 3).join("journal")).expect("removed");
    fs::create_dir(epoch(data, 3).join("journal")).expect("a folder");
    assert_eq!(
        check(data, &settings(data).dir, true)
            .iter()
            .map(|epoch| epoch.lost.is_some())
            .collect::<Vec<_>>(),
        [false, false, true, false]
    );
    let (done, said) = prune(data, &["--keep", "1d"]);
    assert!(done && said.contains("e000002") && !said.contains("e000003"), "{said}");
    assert_eq!(
        check(data, &settings(data).dir, true).iter().map(|epoch| epoch.pruned).collect::<Vec<_>>(),
        [true, true, false, false]
    );
}
