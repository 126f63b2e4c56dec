//! Files and folders that are removed under a running log. Each loss is detected or repaired, the
//! next start names the remedy, and the remedy works.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::store::log::{Log, LogFault, LogSettings, NewEpoch};
use token_shield::clock::{Clock as _, SystemClock};

use super::data::{Data, event, events};

/// The records under the checkpoint: more than a full tile.
const RECORDS: u64 = 300;

/// The effect on a running log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The log ends, and names the file.
    Ends,
    /// The loss is repaired, and the log continues.
    Heals,
    /// No part depends on the file.
    GoesOn,
}

/// The result of the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// It succeeds without a trace of the loss.
    Works,
    /// It is refused, and `audit begin --after-loss` is the remedy.
    AfterLoss,
    /// It is refused until the file is restored.
    Restore,
}

const TABLE: [(&str, Then, Start); 19] = [
    ("audit/e000001/tile/entries/000", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/entries/001.p/44", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/0/000", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/0/001.p/44", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/1/000.p/1", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/entries", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile/0", Then::Ends, Start::AfterLoss),
    ("audit/e000001/tile", Then::Ends, Start::AfterLoss),
    ("audit/e000001/checkpoint", Then::Ends, Start::Works),
    ("audit/e000001/journal", Then::Ends, Start::Works),
    ("audit/e000001/lock", Then::Ends, Start::Works),
    ("audit/e000001", Then::Ends, Start::AfterLoss),
    ("secret/head", Then::Ends, Start::AfterLoss),
    ("secret/record-keys", Then::Ends, Start::Restore),
    ("secret/log/e000001.key", Then::Ends, Start::AfterLoss),
    ("log.vkeys", Then::Heals, Start::Works),
    ("secret/cache", Then::GoesOn, Start::Works),
    ("audit/reserve", Then::GoesOn, Start::Works),
    ("audit/tmp", Then::Heals, Start::Works),
];

fn within(most: Duration, done: impl Fn() -> bool) -> bool {
    let clock = SystemClock::start();
    while !done() {
        if clock.monotonic() > most {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    true
}

fn take_away(path: &Path) {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    gone.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// An open log like `base`.
fn running(base: &Data) -> (Data, Log) {
    let data = base.snapshot();
    let (log, _) = data.open();
    (data, log)
}

fn after_loss(data: &Data) -> Result<(Log, Vec<Event>), LogFault> {
    let begin = Some(NewEpoch { reason: "a file was lost".to_owned(), by: None, after_loss: true });
    let (log, recovered) =
        Log::open(LogSettings { begin, ..data.settings() }, Arc::new(SystemClock::start()))?;
    Ok((log, recovered.records.into_iter().map(|record| record.event).collect()))
}

#[track_caller]
fn has_all(found: &[Event], name: &str) {
    for event in events(RECORDS) {
        assert!(found.contains(&event), "{name}: {event:?} is not known any more");
    }
}

fn one(base: &Data, (name, then, start): (&str, Then, Start)) {
    let (data, log) = running(base);
    let path = data.0.path().join(name);
    let kept = path.is_file().then(|| fs::read(&path).expect(name));
    take_away(&path);
    match then {
        Then::Ends => {
            assert!(within(Duration::from_secs(10), || !log.healthy()), "{name}: not noticed");
            let fault = log.state().failed.expect("a fault");
            assert!(matches!(&fault, LogFault::Changed(_)), "{name}: {fault}");
            assert!(fault.to_string().contains(name), "{name}: {fault}");
            log.close().expect_err("it has failed");
        }
        Then::Heals | Then::GoesOn => {
            log.append_blocking(event(RECORDS), None).expect("sealed");
            log.want_checkpoint();
            assert!(
                within(Duration::from_secs(10), || log.state().signed == log.state().size),
                "{name}: no checkpoint"
            );
            assert_eq!(
                within(Duration::from_secs(2), || path.exists()),
                then == Then::Heals,
                "{name}"
            );
            assert!(log.healthy(), "{name}: {:?}", log.state().failed);
            log.close().expect("closed");
        }
    }
    let opened = Log::open(data.settings(), Arc::new(SystemClock::start()));
    match start {
        Start::Works => {
            let (log, recovered) = opened.unwrap_or_else(|fault| panic!("{name}: {fault}"));
            has_all(
                &recovered.records.into_iter().map(|record| record.event).collect::<Vec<_>>(),
                name,
            );
            log.close().expect("closed");
            return;
        }
        Start::AfterLoss => {
            let fault = opened.map(|_| ()).expect_err(name).to_string();
            assert!(fault.contains("audit begin --after-loss"), "{name}: {fault}");
            let (log, found) = after_loss(&data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            has_all(&found, name);
            log.append_blocking(event(1000), None).expect("sealed");
            log.close().expect("closed");
        }
        Start::Restore => {
            let fault = opened.map(|_| ()).expect_err(name).to_string();
            assert!(fault.contains(name) && fault.contains("restore"), "{name}: {fault}");
            fs::write(&path, kept.expect("a file")).expect("restored");
        }
    }
    // From now on, starts succeed as usual. No revocation is lost, with or without the cache.
    for cache in [true, false] {
        if !cache {
            take_away(&data.settings().cache);
        }
        let (log, recovered) = data.open();
        has_all(
            &recovered.records.into_iter().map(|record| record.event).collect::<Vec<_>>(),
            name,
        );
        log.close().expect("closed");
    }
}

#[test]
fn whatever_is_taken_away_is_noticed_and_has_a_way_out() {
    let base = Data::with(RECORDS);
    for row in TABLE {
        one(&base, row);
    }
}

#[test]
fn nothing_is_signed_over_what_is_gone() {
    let (data, log) = running(&Data::with(RECORDS));
    let checkpoint = data.0.path().join("audit/e000001/checkpoint");
    let before = fs::read(&checkpoint).expect("a checkpoint");
    take_away(&data.0.path().join("audit/e000001/tile"));
    // So many records need a checkpoint at the same time.
    for number in 0..2000 {
        if log.append_blocking(event(number), None).is_err() {
            break;
        }
    }
    assert!(within(Duration::from_secs(10), || !log.healthy()), "not noticed");
    assert_eq!(fs::read(&checkpoint).expect("a checkpoint"), before);
    let journal =
        fs::read_dir(data.0.path().join("audit/e000001/journal")).expect("a journal").count();
    assert!(journal > 0, "what no checkpoint covers is in the journal");
    log.close().expect_err("it has failed");
}

#[test]
fn an_older_tile_is_missed_too() {
    let data = Data::with(1100);
    let (log, _) = data.open();
    take_away(&data.0.path().join("audit/e000001/tile/entries/001"));
    assert!(within(Duration::from_secs(10), || !log.healthy()), "not noticed");
    log.close().expect_err("it has failed");
}
