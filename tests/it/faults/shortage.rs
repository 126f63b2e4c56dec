//! Temporary shortages. New work is refused, admitted requests wait, and the log continues when the
//! shortage ends.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::store::log::{Log, LogFault};
use token_shield::clock::{Clock, SystemClock};
use token_shield::durable::{Disk, SystemDisk};

use super::disk::EMFILE;
use super::room::{outcome, refusal};
use super::{Base, Told, folder, large, policy, settings, small, within};

/// The machine's disk, which has no free descriptor while the flag is set.
#[derive(Default)]
struct Exhausted {
    none_left: AtomicBool,
    refused: AtomicUsize,
}

impl Exhausted {
    fn ask(&self) -> io::Result<()> {
        if self.none_left.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        Ok(())
    }
}

impl Disk for Exhausted {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        SystemDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync(file)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.ask()?;
        SystemDisk.create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask()?;
        SystemDisk.sync_dir(path)
    }
}

fn opened(data: &Path) -> (Log, Arc<Exhausted>) {
    let disk = Arc::new(Exhausted::default());
    let clock = Arc::new(SystemClock::start()) as Arc<dyn Clock>;
    let (log, _) =
        Log::open_on(settings(data), clock, Arc::clone(&disk) as Arc<dyn Disk>).expect("log");
    (log, disk)
}

#[test]
fn a_checkpoint_without_a_descriptor_waits_for_one() {
    let data = folder();
    let (log, disk) = opened(data.path());
    log.append_blocking(small(0), None).expect("sealed");
    disk.none_left.store(true, Ordering::SeqCst);
    log.want_checkpoint();
    assert!(within(Duration::from_secs(10), || log.state().short.is_some()), "{:?}", log.state());
    assert!(log.healthy());
    let refused = log.append_blocking(refusal(), None).expect_err("nothing new meanwhile");
    assert!(matches!(refused, LogFault::Short(_)), "{refused}");
    // Work that needs no descriptor continues: commands, and outcomes of admitted requests.
    log.append_blocking(small(1), None).expect("a command");
    log.append_blocking(outcome(), None).expect("an outcome");
    disk.none_left.store(false, Ordering::SeqCst);
    assert!(within(Duration::from_secs(10), || log.state().short.is_none()), "{:?}", log.state());
    log.append_blocking(refusal(), None).expect("new work again");
    log.close().expect("closed");
    policy(
        data.path(),
        &Base::empty(),
        &Told { tried: vec![small(0), small(1)], acknowledged: vec![(0, small(0))] },
    );
}

#[test]
fn a_segment_without_a_descriptor_waits_for_one() {
    let data = folder();
    let (log, disk) = opened(data.path());
    disk.none_left.store(true, Ordering::SeqCst);
    // About a hundred of these records fill a segment. The record without space waits, and is not
    // lost.
    let (told, answers) = std::sync::mpsc::channel();
    let events: Vec<Event> = (0..140).map(large).collect();
    for event in &events {
        let told = told.clone();
        log.append_with(event.clone(), None, move |sealed| {
            drop(told.send(sealed.map(|sealed| sealed.index)))
        });
    }
    let last = told.clone();
    log.append_with(outcome(), None, move |sealed| {
        drop(last.send(sealed.map(|sealed| sealed.index)))
    });
    assert!(within(Duration::from_secs(10), || log.state().short.is_some()), "{:?}", log.state());
    let refused = log.append_blocking(refusal(), None).expect_err("nothing new meanwhile");
    assert!(matches!(refused, LogFault::Short(_)), "{refused}");
    let before = disk.refused.load(Ordering::SeqCst);
    assert!(
        within(Duration::from_secs(10), || disk.refused.load(Ordering::SeqCst) > before),
        "it tries again"
    );
    disk.none_left.store(false, Ordering::SeqCst);
    let sealed: Vec<u64> =
        (0..=events.len()).map(|_| answers.recv().expect("an answer").expect("sealed")).collect();
    assert_eq!(sealed, (0..=events.len() as u64).collect::<Vec<_>>());
    log.append_blocking(refusal(), None).expect("new work again");
    log.close().expect("closed");
    policy(data.path(), &Base::empty(), &Told { tried: events, acknowledged: Vec::new() });
}

#[test]
fn a_log_that_closes_does_not_wait_for_ever() {
    let data = folder();
    let (log, disk) = opened(data.path());
    log.append_blocking(small(0), None).expect("sealed");
    disk.none_left.store(true, Ordering::SeqCst);
    // The journal has all records. The next start finishes a checkpoint that was not completed.
    log.close().expect("closed");
    policy(
        data.path(),
        &Base::empty(),
        &Told { tried: vec![small(0)], acknowledged: vec![(0, small(0))] },
    );
}
