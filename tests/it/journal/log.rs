//! The audit recorder: recovery, one writer, shared syncs, and every cause that ends a log.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use token_shield::audit::format::event::{Event, Previous};
use token_shield::audit::format::fault::RecordFault;
use token_shield::audit::format::record::Record;
use token_shield::audit::store::log::{Log, LogFault, LogSettings};
use token_shield::clock::{Clock, ManualClock, SystemClock, Timestamp};
use token_shield::durable::Disk;
use token_shield::id::KeyId;

use super::data::{Data, event, events};
use super::gate::Gate;

/// Waits until `done` is true, for at most ten seconds.
#[track_caller]
fn until(done: impl Fn() -> bool) {
    let clock = SystemClock::start();
    while !done() {
        assert!(clock.monotonic() < Duration::from_secs(10), "waited in vain");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn records_come_back_in_order() {
    let data = Data::new();
    let (log, recovered) = data.open();
    assert!(recovered.records.is_empty() && recovered.torn.is_none());
    let first = log.append_blocking(event(0), Some("uid:0".to_owned())).expect("sealed");
    assert_eq!((first.index, first.record.by.as_deref()), (0, Some("uid:0")));
    let second = log.append_blocking(event(1), None).expect("sealed");
    assert_eq!((second.index, log.state().size), (1, 2));
    log.close().expect("closed");
    assert!(matches!(log.append_blocking(event(2), None), Err(LogFault::Closed)));
    let (_, recovered) = data.open();
    assert_eq!(recovered.records, [first.record, second.record]);
}

#[test]
fn time_never_goes_back() {
    let data = Data::new();
    let at = |ms| {
        let (log, _) =
            Log::open(data.settings(), Arc::new(ManualClock::at(Timestamp(ms)))).expect("log");
        log.append_blocking(Event::Stop, None).expect("sealed").at
    };
    assert_eq!([at(5000), at(3000), at(6000)], [Timestamp(5000), Timestamp(5000), Timestamp(6000)]);
}

#[test]
fn there_is_one_writer() {
    let data = Data::with(1);
    let (log, _) = data.open();
    data.refused(|fault| matches!(fault, LogFault::Locked(_)));
    // The lock is released with the last handle, and not with the first.
    let other = log.clone();
    drop(log);
    data.refused(|fault| matches!(fault, LogFault::Locked(_)));
    drop(other);
    data.holds(&events(1));
}

#[test]
fn all_that_wait_share_a_sync() {
    let data = Data::new();
    let disk = Arc::new(Gate::default());
    let (log, _) = data.open_on(Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    let shared = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&shared);
    log.observe_syncs(move |_, records| seen.lock().expect("lock").push(records));
    disk.shut();
    let (answer, answers) = mpsc::channel();
    let seal = |number| {
        let answer = answer.clone();
        log.append_with(event(number), None, move |sealed| {
            let _ = answer.send(sealed.map(|sealed| sealed.index));
        });
    };
    seal(0);
    // The first record is in a sync. All later ones wait for the next sync together.
    until(|| disk.waits());
    (1..100).for_each(seal);
    assert!(answers.try_recv().is_err(), "answered before the sync came back");
    disk.open();
    let order: Vec<u64> =
        (0..100).map(|_| answers.recv().expect("answer").expect("sealed")).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
    // Two syncs: one record, and then all others.
    assert_eq!(*shared.lock().expect("lock"), [1, 99]);
    log.close().expect("closed");
    data.holds(&events(100));
}

#[test]
fn async_callers_are_answered() {
    let data = Data::new();
    let (log, _) = data.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(async {
        let callers = (0..50).map(|number| {
            let log = log.clone();
            tokio::spawn(async move { log.append(event(number), None).await })
        });
        let mut seen = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            seen.push(caller.await.expect("task").expect("sealed").index);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        // A record without a waiting caller is written too.
        drop(log.append(event(50), None));
        let abandoned = tokio::spawn({
            let log = log.clone();
            async move { log.append(event(50), None).await }
        });
        tokio::task::yield_now().await;
        abandoned.abort();
    });
    log.close().expect("closed");
    assert_eq!(data.open().1.records.len(), 51);
}

#[test]
fn what_is_applied_in_then_may_hold_the_last_handle() {
    let data = Data::new();
    let (log, _) = data.open();
    let (answer, answered) = mpsc::channel();
    let last = log.clone();
    log.append_with(event(0), None, move |sealed| {
        let _ = answer.send(sealed.is_ok());
        drop(last);
    });
    drop(log);
    assert!(answered.recv().expect("answer"));
}

#[test]
fn a_name_that_does_not_fit_is_refused_and_the_log_goes_on() {
    let data = Data::new();
    let (log, _) = data.open();
    let added =
        Event::KeyAdded { issuer: "x".repeat(257), jwk: String::new(), kid: KeyId([0; 32]) };
    let refused = log.append_blocking(added, None);
    assert!(matches!(refused, Err(LogFault::Event(RecordFault::TooLong { member: "issuer", .. }))));
    log.append_blocking(event(0), None).expect("sealed");
    log.close().expect("closed");
    data.holds(&events(1));
}

#[test]
fn segments_follow_each_other_and_go_when_a_checkpoint_covers_them() {
    let added = |number: u64| Event::KeyAdded {
        issuer: number.to_string(),
        jwk: "k".repeat(8000),
        kid: KeyId([0; 32]),
    };
    let expect: Vec<Event> = (0..300).map(added).collect();
    let left = Data::crashed(expect.clone());
    let segments = |data: &Data| {
        let mut segments: Vec<PathBuf> = fs::read_dir(data.segment(0).parent().expect("folder"))
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .collect();
        segments.sort();
        segments
    };
    assert!(segments(&left).len() >= 3);
    let held = left.snapshot();
    held.holds(&expect);
    assert_eq!(segments(&held).len(), 1, "all but the last are under the checkpoint");
    held.holds(&expect);
    let lost = left.snapshot();
    fs::remove_file(segments(&lost).last().expect("last")).expect("remove");
    lost.refused(|fault| matches!(fault, LogFault::Behind { acknowledged: 300, .. }));
    let lost = left.snapshot();
    fs::remove_file(&segments(&lost)[0]).expect("remove");
    lost.refused(|fault| matches!(fault, LogFault::Gap { signed: 0, .. }));
    let lost = left.snapshot();
    fs::remove_file(&segments(&lost)[1]).expect("remove");
    lost.refused(|fault| matches!(fault, LogFault::Stray(_)));
}

#[test]
fn a_log_that_is_not_what_it_was_is_refused() {
    let changed = |change: fn(&Data), expect: fn(&LogFault) -> bool| {
        let data = Data::crashed(events(3));
        change(&data);
        data.refused(expect);
    };
    let put = |path: PathBuf, place: usize| {
        let mut bytes = fs::read(&path).expect("read");
        bytes[place] ^= 1;
        fs::write(path, bytes).expect("write");
    };
    changed(
        |data| fs::remove_file(data.head()).expect("remove"),
        |fault| matches!(fault, LogFault::HeadMissing(_)),
    );
    changed(
        |data| fs::write(data.head(), b"").expect("write"),
        |fault| matches!(fault, LogFault::HeadDamaged { .. }),
    );
    changed(
        |data| fs::remove_file(data.segment(0)).expect("remove"),
        |fault| {
            matches!(fault, LogFault::KeyLost(_) | LogFault::Behind { size: 0, acknowledged: 3 })
        },
    );
    changed(
        |data| fs::write(data.segment(0), vec![0; 4096]).expect("write"),
        |fault| matches!(fault, LogFault::Damaged { .. } | LogFault::Behind { size: 0, .. }),
    );
    changed(
        |data| fs::write(data.segment(0).with_file_name("notes"), b"").expect("write"),
        |fault| matches!(fault, LogFault::Stray(_)),
    );
    changed(
        |data| fs::remove_file(data.settings().record_keys).expect("remove"),
        |fault| matches!(fault, LogFault::RecordKeysMissing(_)),
    );
    let data = Data::crashed(events(3));
    put(data.segment(0), 700);
    data.refused(|fault| matches!(fault, LogFault::Damaged { .. }));
    put(data.segment(0), 700);
    let other = LogSettings { name: "gw2.example".to_owned(), ..data.settings() };
    let refused =
        Log::open(other, Arc::new(SystemClock::start())).map(|_| ()).expect_err("another log");
    assert!(matches!(refused, LogFault::Origin { .. }));
    data.holds(&events(3));
}

#[test]
fn what_is_under_a_checkpoint_must_be_what_it_was() {
    let tile = |data: &Data, name: &str| data.settings().dir.join("e000001").join(name);
    for (name, place) in [
        ("checkpoint", 30),
        ("checkpoint", 200),
        ("tile/0/000.p/3", 50),
        ("tile/entries/000.p/3", 20),
    ] {
        let data = Data::with(3);
        let mut bytes = fs::read(tile(&data, name)).expect("read");
        bytes[place] ^= 1;
        fs::write(tile(&data, name), bytes).expect("write");
        // A changed bundle is detected if the journal still has the record, and by the verifier.
        data.refused(|fault| {
            matches!(
                fault,
                LogFault::Note { .. }
                    | LogFault::Root(_)
                    | LogFault::Damaged { .. }
                    | LogFault::Record { .. }
            )
        });
    }
    let data = Data::with(3);
    fs::remove_file(data.settings().log_keys.join("e000001.key")).expect("remove");
    data.refused(|fault| matches!(fault, LogFault::KeyLost(_)));
}

#[test]
fn an_unfinished_write_is_cut_off_and_said_so() {
    let data = Data::crashed(events(2));
    let mut bytes = fs::read(data.segment(0)).expect("read");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("records").next_multiple_of(512);
    // Bytes after the last batch, as an interrupted write leaves them.
    bytes[end..end + 700].fill(b'x');
    fs::write(data.segment(0), bytes).expect("write");
    let (log, recovered) = data.open();
    let torn = recovered.torn.expect("torn");
    assert_eq!((torn.offset, torn.bytes), (u64::try_from(end).expect("small"), 700));
    log.append_blocking(event(2), None).expect("sealed");
    log.close().expect("closed");
    data.holds(&events(3));
    assert!(data.open().1.torn.is_none());
}

#[test]
fn a_segment_that_was_not_filled_up_is_filled() {
    let data = Data::with(2);
    File::options()
        .write(true)
        .open(data.segment(0))
        .expect("open")
        .set_len(2048)
        .expect("truncate");
    data.holds(&events(2));
    assert_eq!(fs::metadata(data.segment(0)).expect("metadata").len(), 1024 * 1024);
}

#[test]
fn a_sync_that_fails_ends_the_log() {
    let data = Data::new();
    let disk = Arc::new(Gate::default());
    let (log, _) = data.open_on(Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    log.append_blocking(event(0), None).expect("sealed");
    disk.fail_syncs.store(true, Ordering::SeqCst);
    assert!(matches!(log.append_blocking(event(1), None), Err(LogFault::Disk(_))));
    // After a failed sync, Linux may drop the dirty pages. A later success would not prove that
    // they are durable.
    disk.fail_syncs.store(false, Ordering::SeqCst);
    assert!(
        matches!(log.append_blocking(event(2), None), Err(LogFault::Disk(_))),
        "a second sync proves nothing"
    );
    assert!(!log.healthy());
    data.refused(|fault| matches!(fault, LogFault::Locked(_)));
    log.close().expect_err("it had failed");
    // The bytes are complete on the disk, so the record counts from now on. It is written and
    // synced again.
    data.holds(&events(2));
}

#[test]
fn a_full_disk_is_waited_out() {
    let data = Data::new();
    let disk = Arc::new(Gate::default());
    let (log, _) = data.open_on(Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    let added =
        || Event::KeyAdded { issuer: String::new(), jwk: "k".repeat(8000), kid: KeyId([0; 32]) };
    // The first record also makes the gateway's record key, which needs space.
    log.append_blocking(added(), None).expect("sealed");
    disk.full.store(true, Ordering::SeqCst);
    let mut sealed = 1;
    let fault = loop {
        match log.append_blocking(added(), None) {
            Ok(_) => sealed += 1,
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, LogFault::NoSpace(_)), "{fault}");
    assert!(log.healthy() && sealed > 50);
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(log.append_blocking(added(), None).expect("sealed").index, sealed);
    log.close().expect("closed");
    let count = usize::try_from(sealed).expect("small") + 1;
    assert_eq!(data.open().1.records.len(), count);
}

#[test]
fn a_sync_that_hangs_ends_the_log() {
    let data = Data::new();
    let disk = Arc::new(Gate::default());
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let time = Arc::clone(&clock) as Arc<dyn Clock>;
    let (log, _) =
        Log::open_on(data.settings(), time, Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    disk.shut();
    let (answer, answers) = mpsc::channel();
    for number in 0..2 {
        let answer = answer.clone();
        log.append_with(event(number), None, move |sealed| {
            let _ = answer.send(sealed);
        });
        until(|| disk.waits());
    }
    // The limit for a sync is 30 seconds.
    clock.advance(Duration::from_secs(29));
    assert!(log.healthy());
    clock.advance(Duration::from_secs(2));
    for _ in 0..2 {
        assert!(matches!(answers.recv().expect("answer"), Err(LogFault::Hung)));
    }
    assert!(!log.healthy());
    assert!(matches!(log.close(), Err(LogFault::Hung)), "closing must not wait for the sync");
    data.refused(|fault| matches!(fault, LogFault::Locked(_)));
    disk.open();
}

#[test]
fn files_that_change_under_the_log_end_it() {
    let changed = |change: fn(&Data), while_idle: bool| {
        let data = Data::with(1);
        let (log, _) = data.open();
        change(&data);
        if while_idle {
            until(|| !log.healthy());
        }
        assert!(matches!(log.append_blocking(event(1), None), Err(LogFault::Changed(_))));
        assert!(!log.healthy());
    };
    let lock = |data: &Data| data.settings().dir.join("e000001/lock");
    for while_idle in [false, true] {
        // With `while_idle`, the log must detect the change without a new record.
        changed(|data| fs::remove_file(data.segment(0)).expect("remove"), while_idle);
        changed(
            |data| fs::rename(data.settings().dir, data.0.path().join("moved")).expect("rename"),
            while_idle,
        );
        changed(
            |data| {
                File::options()
                    .write(true)
                    .open(data.segment(0))
                    .expect("open")
                    .set_len(0)
                    .expect("cut")
            },
            while_idle,
        );
        changed(|data| drop(fs::remove_file(data.head())), while_idle);
        changed(
            |data| {
                fs::copy(data.segment(0), data.0.path().join("copy")).expect("copy");
                fs::rename(data.0.path().join("copy"), data.segment(0)).expect("replace");
            },
            while_idle,
        );
    }
    let data = Data::with(1);
    let (log, _) = data.open();
    fs::remove_file(lock(&data)).expect("remove");
    until(|| !log.healthy());
}

#[test]
fn a_record_that_turns_time_back_is_refused() {
    use token_shield::audit::format::journal::Builder;
    use token_shield::merkle::Tree;
    let data = Data::with(0);
    let mut batch = Builder::new(Tree::new());
    let previous =
        Previous { origin: "gw.example/e000000".to_owned(), size: 0, root: String::new() };
    let event = Event::Epoch { previous, reason: "a plain one".to_owned(), left: None };
    for ms in [2000, 1000] {
        batch
            .push(&Record { at: Timestamp(ms), by: None, event: event.clone() }.encode(None))
            .expect("room");
    }
    fs::write(data.segment(0), batch.finish().0).expect("write");
    data.refused(|fault| {
        matches!(fault, LogFault::Record { index: 1, fault: RecordFault::Earlier, .. })
    });
}

#[test]
fn names_that_cannot_be_an_origin() {
    let data = Data::new();
    for name in ["", "a b", "a+b", "a\nb", "ä", &"x".repeat(201)] {
        let settings = LogSettings { name: name.to_owned(), ..data.settings() };
        let refused = Log::open(settings, Arc::new(SystemClock::start())).map(|_| ());
        assert!(matches!(refused, Err(LogFault::Name(_))), "{name:?}");
    }
}
