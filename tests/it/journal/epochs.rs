//! From epoch to epoch, with a cache and without, and after a loss.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use token_shield::audit::event::Event;
use token_shield::audit::log::{Log, LogFault, NewEpoch, Settings};
use token_shield::audit::note::read_vkeys;
use token_shield::audit::verify::{Wanted, verify};
use token_shield::clock::SystemClock;

use super::log::{Data, copy_folder, event, events};

#[test]
fn an_older_folder_put_back_is_noticed() {
    let data = Data::with(2);
    let older = data.snapshot();
    let (log, _) = data.open();
    log.seal_blocking(event(2), None).expect("sealed");
    log.close().expect("closed");
    fs::remove_dir_all(data.settings().dir).expect("remove");
    fs::create_dir(data.settings().dir).expect("folder");
    copy_folder(&older.settings().dir, &data.settings().dir);
    fs::set_permissions(data.settings().dir, fs::metadata(older.settings().dir).expect("mode").permissions()).expect("chmod");
    data.refused(|fault| matches!(fault, LogFault::Behind { size: 2, acknowledged: 3 }));
    // An operator who knows of it says so, and the books are those of before the loss: a revocation is not undone by it.
    let begin = Some(NewEpoch { reason: "the disk was restored".to_owned(), after_loss: true });
    let (log, recovered) = Log::open(Settings { begin, ..data.settings() }, Arc::new(SystemClock::start())).expect("begun");
    assert_eq!(log.origin(), "gw.example/e000002");
    assert!(recovered.records.len() >= 2);
    log.close().expect("closed");
    data.open().0.close().expect("closed");
}

#[test]
fn what_was_durable_before_a_loss_is_recorded_anew() {
    let data = Data::crashed(events(3));
    // The head is lost, and with it the knowledge of how much there was.
    fs::remove_file(data.head()).expect("remove");
    data.refused(|fault| matches!(fault, LogFault::HeadMissing(_)));
    let begin = Some(NewEpoch { reason: "the head was lost".to_owned(), after_loss: true });
    let (log, recovered) = Log::open(Settings { begin, ..data.settings() }, Arc::new(SystemClock::start())).expect("begun");
    assert_eq!((recovered.records.len(), log.state().size), (3, 4), "its revocations, and the record of the loss");
    log.close().expect("closed");
    fs::remove_file(data.settings().cache).expect("remove");
    let (log, recovered) = data.open();
    let found: Vec<Event> =
        recovered.records.into_iter().map(|record| record.event).filter(|event| event.kind() != "epoch").collect();
    assert_eq!(found, events(3));
    log.close().expect("closed");
}

#[test]
fn an_epoch_is_closed_and_the_next_one_follows_it() {
    let data = Data::with(300);
    let begin = |reason: &str| Some(NewEpoch { reason: reason.to_owned(), after_loss: false });
    let (log, recovered) =
        Log::open(Settings { begin: begin("for a test"), ..data.settings() }, Arc::new(SystemClock::start())).expect("begun");
    assert_eq!((log.origin(), recovered.records.len(), log.state().size), ("gw.example/e000002", 300, 1));
    log.seal_blocking(event(300), None).expect("sealed");
    log.close().expect("closed");
    let again = || {
        let (log, recovered) = data.open();
        let found: Vec<Event> =
            recovered.records.into_iter().map(|record| record.event).filter(|event| event.kind() != "epoch").collect();
        assert_eq!(found, events(301));
        log.close().expect("closed");
    };
    again();
    // With or without the cache, the books are folded from both.
    fs::remove_file(data.settings().cache).expect("remove");
    again();
    // One whose time is over is closed at a start.
    let (log, _) =
        Log::open(Settings { epoch_max: Duration::ZERO, ..data.settings() }, Arc::new(SystemClock::start())).expect("begun");
    assert_eq!(log.origin(), "gw.example/e000003");
    log.close().expect("closed");
    again();
}

#[test]
fn an_epoch_that_was_made_and_not_begun_is_none() {
    let data = Data::with(3);
    let folder = data.settings().dir.join("e000002/journal");
    fs::create_dir_all(&folder).expect("folder");
    data.holds(&events(3));
    assert!(!folder.exists());
}

#[test]
fn a_cache_of_another_log_is_made_anew_and_one_ahead_is_refused() {
    let data = Data::with(10);
    let other = Data::with(5);
    fs::copy(other.settings().cache, data.settings().cache).expect("copy");
    data.holds(&events(10));
    fs::write(data.settings().cache, b"no database at all").expect("write");
    data.holds(&events(10));
    fs::copy(data.settings().cache, other.settings().cache).expect("copy");
    other.refused(|fault| matches!(fault, LogFault::CacheAhead { size: 10, .. }));
}

#[test]
fn what_a_lost_epoch_says_of_itself_is_not_said_again() {
    let data = Data::with(3);
    let open = |reason: &str, after_loss| {
        let begin = Some(NewEpoch { reason: reason.to_owned(), after_loss });
        Log::open(Settings { begin, ..data.settings() }, Arc::new(SystemClock::start())).expect("begun").0
    };
    let log = open("a second one", false);
    log.seal_blocking(event(3), None).expect("sealed");
    log.close().expect("closed");
    // Its journal has all of it, its first record too, which says what it follows.
    let second = data.settings().dir.join("e000002");
    fs::remove_file(second.join("checkpoint")).expect("remove");
    fs::remove_dir_all(second.join("tile")).expect("remove");
    open("tiles were lost", true).close().expect("closed");
    let keys = read_vkeys(&fs::read_to_string(data.settings().vkeys).expect("keys")).expect("keys");
    let (dir, head) = (data.settings().dir, data.head());
    let seen = verify(&Wanted { dir: &dir, keys: &keys, head: Some(&head), since: None }, |_, _| ()).expect("it verifies");
    assert_eq!(seen.iter().map(|epoch| epoch.lost.is_some()).collect::<Vec<_>>(), [false, true, false]);
    let (log, recovered) = data.open();
    assert!(recovered.records.iter().any(|record| record.event == event(3)), "what changes the books is");
    log.close().expect("closed");
    // What was left of it is known: it may not get less, nor more.
    let segment = second.join("journal").join(format!("{:020}", 0));
    let whole = fs::read(&segment).expect("a segment");
    let again = || {
        let wanted = Wanted { dir: &dir, keys: &keys, head: Some(&head), since: None };
        verify(&wanted, |_, _| ()).expect_err("a fault").to_string()
    };
    fs::write(&segment, vec![0; whole.len()]).expect("emptied");
    assert!(again().contains("2 were acknowledged"), "{}", again());
    fs::remove_dir_all(second.join("journal")).expect("removed");
    assert!(again().contains("2 were acknowledged"), "{}", again());
    fs::create_dir(second.join("journal")).expect("a folder");
    let mut longer = whole;
    let batch = longer[..512].to_vec();
    let records = longer.chunks(512).position(|sector| sector.iter().all(|byte| *byte == 0)).expect("room");
    longer[512 * records..512 * (records + 1)].copy_from_slice(&batch);
    fs::write(&segment, longer).expect("written");
    assert!(!again().is_empty());
}
