//! A full disk and a clock that steps back. Neither ends the log.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::format::request::{
    BodyDigest, Caller, Outcome, RefusedRequest, RequestContext,
};
use token_shield::audit::store::log::{Log, LogFault, LogSettings};
use token_shield::clock::{Clock, ManualClock, Timestamp};
use token_shield::durable::{Disk, SystemDisk};
use token_shield::id::RequestId;

use super::{Base, START, Told, folder, large, policy, settings, small, within};

/// A disk with a fixed number of bytes.
struct Small(AtomicI64);

impl Small {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).expect("small");
        let taken = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| {
            (room >= bytes).then_some(room - bytes)
        });
        taken.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull.into())
    }

    fn give(&self, bytes: u64) {
        self.0.fetch_add(i64::try_from(bytes).expect("small"), Ordering::SeqCst);
    }
}

impl Disk for Small {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + u64::try_from(bytes.len()).expect("small");
        self.take(end.saturating_sub(file.metadata()?.len()))?;
        SystemDisk.write(file, bytes, offset)
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.give(fs::metadata(path).map_or(0, |about| about.len()));
        SystemDisk.create(path)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.give(fs::metadata(path).map_or(0, |about| about.len()));
        SystemDisk.unlink(path)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.take(bytes.saturating_sub(file.metadata()?.len()))?;
        SystemDisk.allocate(file, bytes)
    }

    fn resize(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.give(file.metadata()?.len().saturating_sub(bytes));
        SystemDisk.resize(file, bytes)
    }
}

fn about() -> RequestContext {
    let caller = Caller {
        agent: "ops/a".parse().expect("name"),
        principal: "user:a".parse().expect("name"),
        chain: Vec::new(),
    };
    let request = RequestId::new(START.0, 1);
    RequestContext {
        request,
        caller: Arc::new(caller),
        handle: None,
        peer: None,
        operation: "chat",
        model: None,
        policy: "p".into(),
    }
}

pub(super) fn refusal() -> Event {
    let refused = RefusedRequest {
        about: about(),
        stage: "model",
        code: "no",
        detail: None,
        param: None,
        status: 403,
        ms: 1,
    };
    Event::Refusal(Box::new(refused))
}

pub(super) fn outcome() -> Event {
    Event::Outcome(Box::new(Outcome {
        about: about(),
        admission: 0,
        upstream: None,
        model_digest: None,
        code: "ok",
        detail: None,
        status: 200,
        ms: 1,
        usage: None,
        outbound: (Vec::new(), 0),
        fetched: Vec::new(),
        forwarded: None,
        digest_key: [0; 16],
        delivered: BodyDigest::default(),
    }))
}

#[test]
pub(super) fn outcomes_and_commands_find_room_on_a_full_disk() {
    let data = folder();
    let reserve = 8 << 20;
    let settings = LogSettings { reserve, ..settings(data.path()) };
    // Space for the reserve and for one segment, but not for a second one.
    let disk = Arc::new(Small(AtomicI64::new((8 << 20) + (3 << 19))));
    let clock = Arc::new(ManualClock::at(START));
    let time = Arc::clone(&clock) as Arc<dyn Clock>;
    let (log, _) =
        Log::open_on(settings.clone(), time, Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    assert_eq!(fs::metadata(settings.dir.join("reserve")).expect("reserve").len(), reserve);
    log.append_blocking(refusal(), None).expect("there is room");
    for number in 0..200 {
        // A command is always accepted. Its space comes from the reserve.
        log.append_blocking(large(number), None).expect("sealed");
    }
    assert!(log.state().low && log.healthy());
    assert!(matches!(log.append_blocking(refusal(), None), Err(LogFault::Low)));
    log.append_blocking(outcome(), None).expect("an outcome was promised its place");
    log.append_blocking(small(200), None).expect("a command");
    disk.give(64 << 20);
    clock.advance(Duration::from_secs(2));
    assert!(within(Duration::from_secs(5), || !log.state().low), "there is room again");
    assert_eq!(fs::metadata(settings.dir.join("reserve")).expect("reserve").len(), reserve);
    log.append_blocking(refusal(), None).expect("new work again");
    log.close().expect("closed");
    let tried = (0..200).map(large).chain([small(200)]).collect();
    policy(data.path(), &Base::empty(), &Told { tried, acknowledged: Vec::new() });
}

/// A wall clock that the test sets.
struct Wall(AtomicI64, AtomicU64);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.1.fetch_add(1, Ordering::SeqCst))
    }
}

#[test]
fn a_clock_that_steps_back_turns_no_record_back() {
    let data = folder();
    let clock = Arc::new(Wall(AtomicI64::new(0), AtomicU64::new(0)));
    let mut acknowledged = Vec::new();
    let (mut number, mut last) = (0, Timestamp(0));
    for times in [[5000, 3000, 4000, 6000], [1000, 6000, 6001, 2]] {
        let (log, _) =
            Log::open(settings(data.path()), Arc::clone(&clock) as Arc<dyn Clock>).expect("log");
        for ms in times {
            clock.0.store(START.0 + ms, Ordering::SeqCst);
            let sealed = log.append_blocking(small(number), None).expect("sealed");
            assert_eq!(sealed.at, Timestamp(START.0 + ms).max(last));
            (number, last) = (number + 1, sealed.at);
            acknowledged.push((sealed.index, sealed.record.event));
        }
        log.close().expect("closed");
    }
    let tried = acknowledged.iter().map(|(_, event)| event.clone()).collect();
    policy(data.path(), &Base::empty(), &Told { tried, acknowledged });
}
