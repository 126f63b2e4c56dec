//! Changes of the epoch, with and without a cache, and after a loss.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use redb::ReadableTable as _;
use token_shield::audit::format::event::{AgentStatus, Event};
use token_shield::audit::format::head::Head;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::read::verify::{VerifiedEpoch, VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogFault, LogSettings, NewEpoch};
use token_shield::clock::SystemClock;
use token_shield::merkle::Tree;

use super::data::{Data, copy_folder, event, events};

#[test]
fn an_older_folder_put_back_is_noticed() {
    let data = Data::with(2);
    let older = data.snapshot();
    let (log, _) = data.open();
    log.append_blocking(event(2), None).expect("sealed");
    log.close().expect("closed");
    fs::remove_dir_all(data.settings().dir).expect("remove");
    fs::create_dir(data.settings().dir).expect("folder");
    // The older log comes back, but the head still has the newer size.
    copy_folder(&older.settings().dir, &data.settings().dir);
    fs::set_permissions(
        data.settings().dir,
        fs::metadata(older.settings().dir).expect("mode").permissions(),
    )
    .expect("chmod");
    data.refused(|fault| matches!(fault, LogFault::Behind { size: 2, acknowledged: 3 }));
    // An operator confirms the loss. The state is that of before the loss: a loss does not undo a
    // revocation.
    let begin =
        Some(NewEpoch { reason: "the disk was restored".to_owned(), by: None, after_loss: true });
    let (log, recovered) =
        Log::open(LogSettings { begin, ..data.settings() }, Arc::new(SystemClock::start()))
            .expect("begun");
    assert_eq!(&*log.origin(), "gw.example/e000002");
    assert!(recovered.records.len() >= 2);
    log.close().expect("closed");
    data.open().0.close().expect("closed");
}

#[test]
fn what_was_durable_before_a_loss_is_recorded_anew() {
    let data = Data::crashed(events(3));
    // The head is lost. The log no longer knows how many records there were.
    fs::remove_file(data.head()).expect("remove");
    data.refused(|fault| matches!(fault, LogFault::HeadMissing(_)));
    let begin =
        Some(NewEpoch { reason: "the head was lost".to_owned(), by: None, after_loss: true });
    let (log, recovered) =
        Log::open(LogSettings { begin, ..data.settings() }, Arc::new(SystemClock::start()))
            .expect("begun");
    assert_eq!(
        (recovered.records.len(), log.state().size),
        (3, 4),
        "its revocations, and the record of the loss"
    );
    log.close().expect("closed");
    fs::remove_file(data.settings().cache).expect("remove");
    let (log, recovered) = data.open();
    let found: Vec<Event> = recovered
        .records
        .into_iter()
        .map(|record| record.event)
        .filter(|event| event.kind() != "epoch")
        .collect();
    assert_eq!(found, events(3));
    log.close().expect("closed");
}

#[test]
fn an_epoch_is_closed_and_the_next_one_follows_it() {
    let data = Data::with(300);
    let begin =
        |reason: &str| Some(NewEpoch { reason: reason.to_owned(), by: None, after_loss: false });
    let (log, recovered) = Log::open(
        LogSettings { begin: begin("for a test"), ..data.settings() },
        Arc::new(SystemClock::start()),
    )
    .expect("begun");
    assert_eq!(
        (&*log.origin(), recovered.records.len(), log.state().size),
        ("gw.example/e000002", 300, 1)
    );
    log.append_blocking(event(300), None).expect("sealed");
    log.close().expect("closed");
    let again = || {
        let (log, recovered) = data.open();
        let found: Vec<Event> = recovered
            .records
            .into_iter()
            .map(|record| record.event)
            .filter(|event| event.kind() != "epoch")
            .collect();
        assert_eq!(found, events(301));
        log.close().expect("closed");
    };
    again();
    // The state is computed from both epochs, with or without the cache.
    fs::remove_file(data.settings().cache).expect("remove");
    again();
    // An epoch whose time is over is closed at a start.
    let (log, _) = Log::open(
        LogSettings { epoch_max: Duration::ZERO, ..data.settings() },
        Arc::new(SystemClock::start()),
    )
    .expect("begun");
    assert_eq!(&*log.origin(), "gw.example/e000003");
    log.close().expect("closed");
    again();
}

#[test]
fn an_epoch_that_was_made_and_not_begun_is_none() {
    let data = Data::with(3);
    let folder = data.settings().dir.join("e000002/journal");
    // A crash between the folder and the first record of the epoch leaves this.
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
fn a_cache_of_another_format_is_made_anew() {
    const FORMAT: redb::TableDefinition<'_, (), u32> = redb::TableDefinition::new("format");
    let data = Data::with(10);
    let format = |set: Option<u32>| {
        let database = redb::Database::create(data.settings().cache).expect("a cache");
        let write = database.begin_write().expect("begun");
        let found = {
            let mut table = write.open_table(FORMAT).expect("a table");
            let found = table.get(()).expect("read").map(|row| row.value());
            set.map(|format| table.insert((), format).expect("written"));
            found
        };
        write.commit().expect("committed");
        found
    };
    assert_eq!(format(Some(2)), Some(1));
    data.holds(&events(10));
    assert_eq!(format(None), Some(1));
}

#[test]
fn what_a_lost_epoch_says_of_itself_is_not_said_again() {
    let data = Data::with(3);
    let open = |reason: &str, after_loss| {
        let begin = Some(NewEpoch { reason: reason.to_owned(), by: None, after_loss });
        Log::open(LogSettings { begin, ..data.settings() }, Arc::new(SystemClock::start()))
            .expect("begun")
            .0
    };
    let log = open("a second one", false);
    log.append_blocking(event(3), None).expect("sealed");
    log.close().expect("closed");
    // Its journal has all records, also the first one, which names the epoch before.
    let second = data.settings().dir.join("e000002");
    fs::remove_file(second.join("checkpoint")).expect("remove");
    fs::remove_dir_all(second.join("tile")).expect("remove");
    open("tiles were lost", true).close().expect("closed");
    let keys = read_vkeys(&fs::read_to_string(data.settings().vkeys).expect("keys")).expect("keys");
    let (dir, head) = (data.settings().dir, data.head());
    let seen =
        verify(&VerifyTarget { dir: &dir, keys: &keys, head: Some(&head), since: None }, |_, _| ())
            .expect("it verifies");
    assert_eq!(
        seen.iter().map(|epoch| epoch.lost.is_some()).collect::<Vec<_>>(),
        [false, true, false]
    );
    let (log, recovered) = data.open();
    assert!(
        recovered.records.iter().any(|record| record.event == event(3)),
        "what changes the books is"
    );
    log.close().expect("closed");
    // The size of the remaining part is recorded. It may not become smaller or larger.
    let segment = second.join("journal").join(format!("{:020}", 0));
    let whole = fs::read(&segment).expect("a segment");
    let again = || {
        let wanted = VerifyTarget { dir: &dir, keys: &keys, head: Some(&head), since: None };
        verify(&wanted, |_, _| ()).expect_err("a fault").to_string()
    };
    fs::write(&segment, vec![0; whole.len()]).expect("emptied");
    assert!(again().contains("2 were acknowledged"), "{}", again());
    fs::remove_dir_all(second.join("journal")).expect("removed");
    assert!(again().contains("2 were acknowledged"), "{}", again());
    fs::create_dir(second.join("journal")).expect("a folder");
    let mut longer = whole;
    let batch = longer[..512].to_vec();
    let records =
        longer.chunks(512).position(|sector| sector.iter().all(|byte| *byte == 0)).expect("room");
    longer[512 * records..512 * (records + 1)].copy_from_slice(&batch);
    fs::write(&segment, longer).expect("written");
    assert!(!again().is_empty());
}

fn begun(data: &Data) -> Result<(Log, Vec<Event>), LogFault> {
    let begin = Some(NewEpoch { reason: "a disk was lost".to_owned(), by: None, after_loss: true });
    let (log, recovered) =
        Log::open(LogSettings { begin, ..data.settings() }, Arc::new(SystemClock::start()))?;
    Ok((log, recovered.records.into_iter().map(|record| record.event).collect()))
}

fn verified(data: &Data) -> Vec<VerifiedEpoch> {
    let keys = read_vkeys(&fs::read_to_string(data.settings().vkeys).expect("keys")).expect("keys");
    let (dir, head) = (data.settings().dir, data.head());
    verify(&VerifyTarget { dir: &dir, keys: &keys, head: Some(&head), since: None }, |_, _| ())
        .expect("it verifies")
}

#[test]
fn a_loss_that_was_not_said_to_its_end_is_said_again() {
    let data = Data::crashed(events(3));
    fs::remove_file(data.head()).expect("remove");
    let (log, _) = begun(&data).expect("begun");
    log.close().expect("closed");
    // A crash leaves this state between the new head and the new epoch's first record. The cache
    // does not have the record then.
    fs::remove_file(data.settings().cache).expect("removed");
    let second = data.settings().dir.join("e000002");
    for part in ["checkpoint", "tile", "journal"] {
        let path = second.join(part);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.expect("removed");
    }
    fs::create_dir(second.join("journal")).expect("a folder");
    let head = Head {
        origin: "gw.example/e000002".to_owned(),
        size: 0,
        root: Tree::new().root(),
        write: 1,
    };
    fs::write(data.head(), head.first_file()).expect("a head");
    data.refused(|fault| matches!(fault, LogFault::LossUnsaid(epoch) if epoch == "e000001"));
    let (log, found) = begun(&data).expect("begun again");
    assert_eq!((&*log.origin(), found), ("gw.example/e000002", events(3)));
    log.close().expect("closed");
    assert_eq!(
        verified(&data).iter().map(|epoch| (epoch.size, epoch.lost.is_some())).next(),
        Some((3, true))
    );
}

#[test]
fn what_the_cache_has_seen_of_the_lost_part_comes_behind_what_is_left() {
    let status = |status| Event::AgentStatus {
        agent: "acme/a".parse().expect("agent"),
        status,
        reason: "x".to_owned(),
    };
    let data = Data::crashed([status(AgentStatus::Active)]);
    let older = data.snapshot();
    let (log, _) = data.open();
    log.append_blocking(status(AgentStatus::Revoked), None).expect("sealed");
    log.close().expect("closed");
    let mode = fs::metadata(data.settings().dir).expect("mode").permissions();
    fs::remove_dir_all(data.settings().dir).expect("remove");
    copy_folder(&older.settings().dir, &data.settings().dir);
    for folder in ["", "tmp", "e000001", "e000001/journal"] {
        fs::set_permissions(data.settings().dir.join(folder), mode.clone()).expect("chmod");
    }
    let (log, found) = begun(&data).expect("begun");
    log.close().expect("closed");
    let last =
        |events: &[Event]| events.iter().rfind(|event| event.kind() == "agent-status").cloned();
    assert_eq!(last(&found), Some(status(AgentStatus::Revoked)));
    // From now on the log itself has the record.
    fs::remove_file(data.settings().cache).expect("remove");
    let (log, recovered) = data.open();
    let found: Vec<Event> = recovered.records.into_iter().map(|record| record.event).collect();
    assert_eq!(last(&found), Some(status(AgentStatus::Revoked)));
    log.close().expect("closed");
    verified(&data);
}
