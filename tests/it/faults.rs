//! A disk that fails in every form at every call. No acknowledged record is lost, and the log knows
//! whether it can continue.

mod disk;
#[cfg(feature = "failpoints")]
mod failpoints;
mod room;
mod shortage;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::read::verify::{VerifiedEpoch, VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogFault, LogSettings, Recovered};
use token_shield::clock::{Clock, ManualClock, SystemClock, Timestamp};
use token_shield::durable::Disk;
use token_shield::id::KeyId;

use crate::journal::copy_folder;

use disk::{Call, Faulty, Kind, Op};

const START: Timestamp = Timestamp(1_790_000_000_000);

/// A folder in memory if there is one: thousands of starts need no real disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("folder")
}

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 1 << 20, ..LogSettings::of_data(data, "gw.example") }
}

fn small(number: usize) -> Event {
    Event::KeyRevoked { kid: KeyId([7; 32]), reason: format!("number {number}") }
}

fn large(number: usize) -> Event {
    Event::KeyAdded { issuer: number.to_string(), jwk: "k".repeat(8000), kid: KeyId([0; 32]) }
}

/// Waits until `done` is true, for at most `most`. False if that does not happen.
fn within(most: Duration, done: impl Fn() -> bool) -> bool {
    let clock = SystemClock::start();
    while !done() {
        if clock.monotonic() > most {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

/// A log as a crash leaves it: a checkpoint, records after it, and a segment and a tile that are
/// almost full.
struct Base {
    data: TempDir,
    events: Vec<Event>,
}

impl Base {
    fn empty() -> Self {
        Self { data: folder(), events: Vec::new() }
    }

    fn grown() -> Self {
        let (live, data) = (folder(), folder());
        let clock = Arc::new(ManualClock::at(START));
        let (log, _) =
            Log::open(settings(live.path()), Arc::clone(&clock) as Arc<dyn Clock>).expect("log");
        // A tile has 256 hashes, and 78 large records almost fill a segment.
        let events: Vec<Event> = (0..238)
            .map(|number| if number < 78 { large(number) } else { small(number) })
            .collect();
        for (number, event) in events.iter().enumerate() {
            log.append_blocking(event.clone(), None).expect("sealed");
            if number == 200 {
                clock.advance(Duration::from_millis(300));
                log.want_checkpoint();
                assert!(
                    within(Duration::from_secs(10), || log.state().signed == 201),
                    "no checkpoint"
                );
            }
        }
        // A copy before the close is what a crash would leave.
        copy_folder(live.path(), data.path());
        log.close().expect("closed");
        Self { data, events }
    }

    fn copy(&self) -> TempDir {
        let copy = folder();
        copy_folder(self.data.path(), copy.path());
        copy
    }
}

/// The requests to a log and its answers.
struct Told {
    /// Every event except those that the log reported as not written.
    tried: Vec<Event>,
    acknowledged: Vec<(u64, Event)>,
}

/// Puts all records under a checkpoint. Without space, it waits until there is some. The clock
/// advances meanwhile, because the log sets its deadlines by it and would otherwise wait for ever.
fn checkpoint(log: &Log, clock: &ManualClock) {
    let done = || {
        clock.advance(Duration::from_millis(10));
        log.want_checkpoint();
        let state = log.state();
        state.failed.is_some() || (!state.low && state.signed == state.size)
    };
    assert!(within(Duration::from_secs(10), done), "{:?}", log.state());
}

/// Opens the log of `data` on a disk that fails, uses it and closes it. After a failure it checks
/// the log's health.
fn script(data: &Path, disk: &Arc<Faulty>, told: &mut Told) {
    let clock = Arc::clone(&disk.clock);
    let opened = Log::open_on(
        settings(data),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::clone(disk) as Arc<dyn Disk>,
    );
    let Ok((log, _)) = opened else {
        assert!(disk.fired().is_some(), "refused for nothing");
        return;
    };
    for number in 0..28 {
        let event = if number % 7 == 3 { large(number) } else { small(number) };
        match log.append_blocking(event.clone(), None) {
            Ok(sealed) => {
                told.acknowledged.push((sealed.index, event.clone()));
                told.tried.push(event);
            }
            // The log reports that the record was not written, so it must not be found.
            Err(LogFault::NoSpace(_)) => {}
            Err(_) => {
                told.tried.push(event);
                break;
            }
        }
        if number % 7 == 6 {
            checkpoint(&log, &clock);
        }
    }
    let fatal = |call: &Call| !disk.kind.passes(call);
    if let Some(call) = disk.fired().filter(|call| call.op != Op::Allocate) {
        if fatal(&call) {
            assert!(within(Duration::from_secs(1), || !log.healthy()), "well after {call:?}");
            log.append_blocking(small(999), None).expect_err("a second try must not be believed");
        } else {
            assert!(log.healthy(), "ill after {call:?}: {:?}", log.state().failed);
        }
        assert_eq!(log.close().is_err(), fatal(&call), "{call:?}");
    } else {
        let closed = log.close();
        let failed = disk.fired().filter(|call| fatal(call) && call.op != Op::Allocate);
        assert!(closed.is_err() == failed.is_some() || disk.kind.lasts(), "{failed:?}: {closed:?}");
    }
}

/// Opens the log on the machine's disk. All acknowledged records are there, in order, and the
/// verifier finds no fault.
fn policy(data: &Path, base: &Base, told: &Told) -> Vec<VerifiedEpoch> {
    let settings = settings(data);
    let (log, Recovered { records, .. }) = Log::open(
        settings.clone(),
        Arc::new(ManualClock::at(START.plus(Duration::from_secs(600)))),
    )
    .expect("mended");
    let found: Vec<&Event> = records.iter().map(|record| &record.event).collect();
    for (index, event) in &told.acknowledged {
        assert_eq!(
            found.get(usize::try_from(*index).expect("small")),
            Some(&event),
            "record {index} was acknowledged"
        );
    }
    let mut expected = base.events.iter().chain(&told.tried);
    assert!(
        found.iter().all(|event| expected.any(|tried| tried == *event)),
        "another event, or another order"
    );
    assert!(found.len() >= base.events.len() + told.acknowledged.len());
    log.append_blocking(small(1000), None).expect("sealed");
    log.close().expect("closed");
    let keys = read_vkeys(&fs::read_to_string(&settings.vkeys).expect("keys")).expect("keys");
    let wanted =
        VerifyTarget { dir: &settings.dir, keys: &keys, head: Some(&settings.head), since: None };
    verify(&wanted, |_, _| {}).unwrap_or_else(|fault| panic!("{fault}"))
}

/// One run of the script with one fault. Returns the calls that were made.
fn run(base: &Base, kind: Kind, at: usize) -> Vec<Call> {
    let disk = Faulty::new(kind, at);
    let data = base.copy();
    let mut told = Told { tried: Vec::new(), acknowledged: Vec::new() };
    script(data.path(), &disk, &mut told);
    // While a sync hangs, the lock is not released. A restart therefore uses a copy of the folder.
    let left = if kind == Kind::Hang { Base { data, events: Vec::new() }.copy() } else { data };
    disk.settle();
    let seen = policy(left.path(), base, &told);
    assert!(
        seen.iter()
            .all(|epoch| epoch.torn == 0 && epoch.unfinished == 0 && epoch.signed == epoch.size),
        "{seen:?}"
    );
    disk.release();
    disk.calls()
}

/// Every kind of fault at every call of a run without faults, or at a part of them.
fn campaign(base: &Base, everything: bool) {
    // The run without faults shows which calls there are.
    let calls = run(base, Kind::None, 0);
    assert!(calls.len() > 120, "{} calls", calls.len());
    let kinds = [
        Kind::Broken,
        Kind::Full,
        Kind::Interrupted,
        Kind::Descriptors,
        Kind::Short,
        Kind::Sync,
        Kind::Rename,
        Kind::Unlink,
    ];
    // The default tests a part of the calls, in each kind's steps. TOKEN_SHIELD_FULL tests all.
    let steps = [11, 11, 37, 11, 11, 7, 3, 1].into_iter().chain([37, 23, 7, 7]);
    let kinds = kinds
        .into_iter()
        .chain([Kind::ReadOnly, Kind::Hang, Kind::Cut, Kind::CutButHead])
        .zip(steps);
    // A call that hangs during the open blocks only the opener. No record is acknowledged by then.
    let opened = calls.iter().position(|call| {
        call.op == Op::Write && call.path.ends_with("00000000000000000000") && !call.fresh
    });
    for (kind, step) in kinds {
        let first = if kind == Kind::Hang { opened.expect("a first record") } else { 0 };
        let hit = (first..calls.len()).filter(|place| kind.hits(calls[*place].op));
        let mut runs = 0;
        for place in hit.step_by(if everything { 1 } else { step }) {
            run(base, kind, place + 1);
            runs += 1;
        }
        assert!(runs > 0 || matches!(kind, Kind::Unlink), "{kind:?} was never tried");
    }
}

fn everything() -> bool {
    std::env::var_os("TOKEN_SHIELD_FULL").is_some()
}

#[test]
fn a_log_that_begins_survives_every_fault() {
    campaign(&Base::empty(), everything());
}

#[test]
fn a_log_that_grows_survives_every_fault() {
    campaign(&Base::grown(), everything());
}
