//! The next epoch of a log during writes. No acknowledged record is lost, and every epoch verifies.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::format::record::Record;
use token_shield::audit::read::reader;
use token_shield::audit::read::verify::{VerifiedEpoch, VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::audit::store::vault::Vault;
use token_shield::clock::SystemClock;
use token_shield::id::KeyId;

const WRITERS: u8 = 20;
const TURNS: u64 = 5;

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 1 << 20, ..LogSettings::of_data(data, "gw.example") }
}

fn verified(data: &Path) -> Vec<VerifiedEpoch> {
    let own = settings(data);
    let keys = read_vkeys(&fs::read_to_string(&own.vkeys).expect("vkeys")).expect("keys");
    verify(
        &VerifyTarget { dir: &own.dir, keys: &keys, head: Some(&own.head), since: None },
        |_, _| (),
    )
    .expect("it verifies")
}

/// The reasons of all revocations, by the record's name. Also the operator who began each epoch.
fn read(data: &Path) -> (Vec<(String, String)>, Vec<Option<String>>) {
    let own = settings(data);
    let vault = Vault::read(&own.record_keys).expect("keys");
    let (mut found, mut asked) = (Vec::new(), Vec::new());
    for epoch in reader::epochs(&own.dir).expect("epochs") {
        let _ = reader::each(&epoch, 0, |record| {
            let name = format!("gw.example/{}", record.name());
            match Record::decode(record.bytes, &vault).expect("a record") {
                Some(Record { event: Event::KeyRevoked { reason, .. }, .. }) => {
                    found.push((name, reason))
                }
                Some(Record { event: Event::Epoch { .. }, by, .. }) => asked.push(by),
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .expect("read");
    }
    (found, asked)
}

/// Writes until `over`. Returns the names of the records, with their content.
fn write(log: &Log, writer: u8, over: &AtomicBool) -> Vec<(String, String)> {
    let mut sealed = Vec::new();
    for number in 0.. {
        let reason = format!("{writer}-{number}");
        let done = log.append_blocking(
            Event::KeyRevoked { kid: KeyId([writer; 32]), reason: reason.clone() },
            None,
        );
        let done = done.expect("sealed, whatever epoch it is");
        sealed.push((format!("{}#{}", done.origin, done.index), reason));
        if over.load(Ordering::SeqCst) {
            break;
        }
    }
    sealed
}

#[test]
fn epochs_follow_each_other_while_others_write() {
    let folder = tempfile::tempdir().expect("folder");
    let (log, _) =
        Log::open(settings(folder.path()), Arc::new(SystemClock::start())).expect("a log");
    log.append_blocking(Event::Stop, None).expect("the first record");
    let over = AtomicBool::new(false);
    let (log, over) = (&log, &over);
    let mut sealed: Vec<(String, String)> = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(log, writer, over))).collect();
        for turn in 0..TURNS {
            let origin = log
                .begin_epoch(format!("turn {turn}"), Some("uid:7".to_owned()))
                .expect("the next epoch");
            assert_eq!(&*origin, format!("gw.example/e{:06}", turn + 2));
            assert_eq!((log.origin(), log.healthy()), (origin, true));
            // The log must verify at every moment, also during the writes.
            verified(folder.path());
        }
        over.store(true, Ordering::SeqCst);
        writers.into_iter().flat_map(|writer| writer.join().expect("writer")).collect()
    });
    log.close().expect("closed");
    let seen = verified(folder.path());
    assert_eq!(seen.len() as u64, TURNS + 1);
    assert!(seen.iter().all(|epoch| epoch.signed == epoch.size), "all of it is under checkpoints");
    let (mut found, asked) = read(folder.path());
    assert_eq!(
        asked,
        vec![Some("uid:7".to_owned()); 5],
        "who asked for it stands in the first record"
    );
    found.sort();
    sealed.sort();
    assert_eq!(found, sealed, "nothing lost, nothing twice, each where its writer was told");
    // Each epoch has its own keys, and the writer holds the lock of the newest one.
    let lines = fs::read_to_string(settings(folder.path()).vkeys).expect("vkeys");
    assert_eq!(lines.lines().count() as u64, 2 * (TURNS + 1));
}

#[test]
fn a_log_that_has_turned_is_locked_and_goes_on_after_a_start() {
    let folder = tempfile::tempdir().expect("folder");
    let open = || Log::open(settings(folder.path()), Arc::new(SystemClock::start()));
    let (log, _) = open().expect("a log");
    log.append_blocking(Event::Stop, None).expect("sealed");
    log.begin_epoch("a test".to_owned(), None).expect("the next epoch");
    assert!(open().is_err(), "another process finds it locked");
    log.append_blocking(Event::Stop, None).expect("sealed");
    log.close().expect("closed");
    assert!(log.begin_epoch("too late".to_owned(), None).is_err());
    let (log, recovered) = open().expect("again");
    assert_eq!((&*log.origin(), log.state().size), ("gw.example/e000002", 2));
    assert_eq!(recovered.records.len(), 3, "the books are folded from both");
    drop(log);
    verified(folder.path());
}
