//! Readers during writes. At any moment they see a complete prefix of the log, and never a fault.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use token_shield::audit::format::event::Event;
use token_shield::audit::format::note::{LogKeys, read_vkeys};
use token_shield::audit::read::verify::{VerifyTarget, verify};
use token_shield::audit::read::{reader, receipt};
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::clock::SystemClock;
use token_shield::id::KeyId;

/// The records that are written while others read. There is a checkpoint at least for each 1,024 of
/// them.
const RECORDS: u64 = 60_000;
/// The number of records that wait at any time.
const WRITERS: u64 = 300;

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 0, ..LogSettings::of_data(data, "gw.example") }
}

fn event(number: u64) -> Event {
    Event::KeyRevoked {
        kid: KeyId([number.to_be_bytes()[7]; 32]),
        reason: "r".repeat(usize::try_from(number % 200).expect("small")),
    }
}

/// Writes until `RECORDS` are durable. `durable` counts them.
fn write(log: &Log, durable: &AtomicU64) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for number in 0..RECORDS / WRITERS {
                    let sealed = log.append_blocking(event(writer + number), None).expect("sealed");
                    durable.fetch_max(sealed.index + 1, Ordering::SeqCst);
                }
            });
        }
    });
}

fn verified(data: &Path, keys: &[LogKeys]) -> u64 {
    let own = settings(data);
    let seen = verify(
        &VerifyTarget { dir: &own.dir, keys, head: Some(&own.head), since: None },
        |_, _| (),
    )
    .expect("it verifies");
    seen.iter().map(|epoch| epoch.size).sum()
}

/// Reads every record in order. Returns their number.
fn read(data: &Path) -> u64 {
    let epochs = reader::epochs(&settings(data).dir).expect("a log");
    let mut next = 0;
    let done = reader::each(&epochs[0], 0, |found| {
        assert_eq!(found.index, next, "none twice, none left out");
        next += 1;
        ControlFlow::Continue(())
    });
    let _ = done.expect("it can be read");
    next
}

#[test]
fn a_log_is_read_and_verified_while_it_is_written() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path();
    let (log, _) = Log::open(settings(data), Arc::new(SystemClock::start())).expect("a log");
    let keys = read_vkeys(&fs::read_to_string(settings(data).vkeys).expect("keys")).expect("keys");
    let (durable, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let again = |look: &dyn Fn()| {
        let mut times = 0_u32;
        while !over.load(Ordering::SeqCst) {
            look();
            times += 1;
        }
        times
    };
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            again(&|| {
                let before = durable.load(Ordering::SeqCst);
                assert!(verified(data, &keys) >= before, "what was acknowledged before is in it");
            })
        });
        let reading = scope.spawn(|| {
            again(&|| {
                let before = durable.load(Ordering::SeqCst);
                assert!(read(data) >= before, "what was acknowledged before is read");
            })
        });
        let proving = scope.spawn(|| {
            again(&|| {
                let epochs = reader::epochs(&settings(data).dir).expect("a log");
                let Some(last) = epochs[0].signed.checked_sub(1) else { return };
                let (proof, record) =
                    (receipt::prove(&epochs[0], last), reader::one(&epochs[0], last));
                let proven =
                    receipt::verify(&proof.expect("a proof"), &record.expect("a record"), &keys);
                assert_eq!(proven.expect("it proves").1, last);
            })
        });
        write(&log, &durable);
        over.store(true, Ordering::SeqCst);
        for looked in [verifier, reading, proving] {
            assert!(looked.join().expect("no fault was seen") >= 3, "it looked often enough");
        }
    });
    log.close().expect("closed");
    assert_eq!(verified(data, &keys), RECORDS);
}
