//! Benchmark of the audit log. It measures how fast records become durable, how fast a log
//! verifies, and how long a start with a large log takes. It also measures the bytes written at one
//! record per second.
//!
//! `cargo bench --bench audit`. `RECORDS=1000000` gives the sizes of docs/PERFORMANCE.md; `DIR=…`
//! selects another disk.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program that measures prints, and ends where it cannot"
)]

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::format::request::{Admission, BodyDigest, Caller, RequestContext, Server};
use token_shield::audit::read::verify::{VerifyTarget, verify};
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::clock::{Clock, ManualClock, SystemClock};
use token_shield::durable::{Disk, SystemDisk};
use token_shield::id::{KeyId, RequestId, TokenId};

/// An admission with typical content.
fn admission(number: u64) -> Event {
    let caller = Caller {
        agent: format!("research/agent-{}", number % 50).parse().expect("agent"),
        principal: format!("team:{}", number % 5).parse().expect("principal"),
        chain: vec![(TokenId([1; 32]), KeyId([2; 32]))],
    };
    let about = RequestContext {
        request: RequestId::new(1_790_000_000_000, u128::from(number)),
        caller: Arc::new(caller),
        handle: None,
        peer: None,
        operation: "chat",
        model: Some("llama-3.1-8b".into()),
        policy: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".into(),
    };
    let upstream =
        Some(Server { name: "vllm-a".into(), controlled: true, jurisdiction: Some("DE".into()) });
    let body = BodyDigest { bytes: 2048, digest: [7; 32] };
    Event::Admission(Box::new(Admission {
        about,
        upstream,
        model_digest: None,
        stripped: Vec::new(),
        fetches: Vec::new(),
        output_tokens: Some(4096),
        digest_key: [3; 16],
        received: body,
        forwarded: Some(body),
    }))
}

fn settings(dir: &Path) -> LogSettings {
    LogSettings { reserve: 0, ..LogSettings::of_data(dir, "bench") }
}

/// The median of 200 syncs, each after a write of one page (4096 bytes).
fn fdatasync(dir: &Path, clock: &SystemClock) -> Duration {
    let file = SystemDisk.create(&dir.join("sync")).expect("file");
    SystemDisk.write(&file, &vec![0; 1 << 20], 0).expect("write");
    SystemDisk.sync(&file).expect("sync");
    let mut times: Vec<Duration> = (0..200_u64)
        .map(|place| {
            SystemDisk.write(&file, &[1; 4096], place * 4096).expect("write");
            let before = clock.monotonic();
            SystemDisk.sync(&file).expect("sync");
            clock.monotonic() - before
        })
        .collect();
    times.sort_unstable();
    times[100]
}

/// Appends `records` records, with `waiters` of them waiting at any time. Returns records per
/// second.
fn fill(log: &Log, records: u64, waiters: u64, clock: &SystemClock) -> f64 {
    let (answer, answers) = mpsc::channel();
    let seal = |number| {
        let answer = answer.clone();
        log.append_with(admission(number), None, move |sealed| {
            let _ = answer.send(sealed.is_ok());
        });
    };
    let began = clock.monotonic();
    (0..waiters.min(records)).for_each(seal);
    for number in waiters.min(records)..records {
        assert!(answers.recv().expect("answer"), "a record was refused");
        seal(number);
    }
    for _ in 0..waiters.min(records) {
        assert!(answers.recv().expect("answer"), "a record was refused");
    }
    records as f64 / (clock.monotonic() - began).as_secs_f64()
}

/// Prints the bytes written to the disk per byte of record, at one record per second of the log's
/// own clock.
fn amplification(dir: &Path) {
    let clock = Arc::new(ManualClock::at(SystemClock::start().now()));
    let disk = Arc::new(Counting::default());
    let time = Arc::clone(&clock) as Arc<dyn Clock>;
    let (log, _) =
        Log::open_on(settings(dir), time, Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    let before = disk.bytes();
    let count = 1024;
    for number in 0..count {
        log.append_blocking(admission(number), None).expect("sealed");
        clock.advance(Duration::from_secs(1));
        // The recorder's thread reads the same clock. The pause gives it time to do so.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let written = disk.bytes() - before;
    log.close().expect("closed");
    let stored: u64 = folder_bytes(&dir.join("audit/e000001/tile/entries"));
    println!(
        "amplification   {:.2} bytes written for each byte of record, at one record a second",
        written as f64 / stored as f64
    );
}

/// The bytes of all files in a folder and below.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                folder_bytes(&entry.path())
            } else {
                entry.metadata().map_or(0, |about| about.len())
            }
        })
        .sum()
}

/// The machine's disk, which counts the bytes written.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicU64);

impl Counting {
    fn bytes(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Disk for Counting {
    fn write(&self, file: &std::fs::File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::SeqCst);
        SystemDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &std::fs::File) -> std::io::Result<()> {
        SystemDisk.sync(file)
    }
}

/// The resident memory of this process, in kB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn main() {
    let records: u64 =
        std::env::var("RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let above = std::env::var_os("DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(above).expect("folder");
    let (dir, clock) = (folder.path(), SystemClock::start());
    let sync = fdatasync(dir, &clock);
    println!("fdatasync       {sync:?} (median of 200)");
    let (log, _) = Log::open(settings(dir), Arc::new(clock)).expect("log");
    for waiters in [1, 16, 64, 1024] {
        let rate = fill(&log, records / 20, waiters, &clock);
        let bound = waiters as f64 / sync.as_secs_f64();
        println!(
            "durable         {rate:>8.0} records/s with {waiters:>4} waiting: {:.2} of waiters / \
                fdatasync",
            rate / bound
        );
    }
    let before = resident_kb();
    fill(&log, records - records / 5, 1024, &clock);
    println!(
        "memory          {} kB more after {} records",
        resident_kb().saturating_sub(before),
        records - records / 5
    );
    let closing = clock.monotonic();
    log.close().expect("closed");
    println!("closed          in {:?}", clock.monotonic() - closing);
    let began = clock.monotonic();
    let (log, _) = Log::open(settings(dir), Arc::new(clock)).expect("log");
    println!("start           {:?} with {} records", clock.monotonic() - began, log.state().size);
    log.close().expect("closed");
    let keys =
        read_vkeys(&std::fs::read_to_string(dir.join("log.vkeys")).expect("keys")).expect("keys");
    let head = dir.join("secret/head");
    let wanted =
        VerifyTarget { dir: &dir.join("audit"), keys: &keys, head: Some(&head), since: None };
    let began = clock.monotonic();
    let seen = verify(&wanted, |_, _| {}).expect("valid");
    let took = (clock.monotonic() - began).as_secs_f64();
    println!("verify          {:.0} records/s on one core", seen[0].size as f64 / took);
    let other = tempfile::tempdir().expect("folder");
    amplification(other.path());
}
