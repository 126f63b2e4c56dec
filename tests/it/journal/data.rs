//! A data folder with a log for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use token_shield::audit::format::event::Event;
use token_shield::audit::store::log::{Log, LogFault, LogSettings, Recovered};
use token_shield::clock::{Clock as _, ManualClock, SystemClock};
use token_shield::durable::{Disk, SystemDisk};
use token_shield::id::KeyId;

/// A data folder, and the events for its log.
pub(super) struct Data(pub(super) tempfile::TempDir);

impl Data {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    pub(super) fn settings(&self) -> LogSettings {
        LogSettings { reserve: 1 << 20, ..LogSettings::of_data(self.0.path(), "gw.example") }
    }

    pub(super) fn head(&self) -> PathBuf {
        self.0.path().join("secret/head")
    }

    pub(super) fn segment(&self, first: u64) -> PathBuf {
        self.0.path().join(format!("audit/e000001/journal/{first:020}"))
    }

    pub(super) fn open_on(&self, disk: Arc<dyn Disk>) -> Result<(Log, Recovered), LogFault> {
        Log::open_on(self.settings(), Arc::new(SystemClock::start()), disk)
    }

    #[track_caller]
    pub(super) fn open(&self) -> (Log, Recovered) {
        self.open_on(Arc::new(SystemDisk)).expect("log")
    }

    /// Opens the log, checks it, uses it and closes it again.
    #[track_caller]
    pub(super) fn holds(&self, expect: &[Event]) {
        let (log, recovered) = self.open();
        assert_eq!(
            recovered.records.into_iter().map(|record| record.event).collect::<Vec<_>>(),
            expect
        );
        log.close().expect("closed");
    }

    #[track_caller]
    pub(super) fn refused(&self, expect: impl FnOnce(&LogFault) -> bool) {
        let fault = self.open_on(Arc::new(SystemDisk)).map(|_| ()).expect_err("must be refused");
        assert!(expect(&fault), "{fault}");
    }

    /// A copy of the folder as it is now: the state that a crash would leave.
    pub(super) fn snapshot(&self) -> Self {
        let copy = Self::new();
        copy_folder(self.0.path(), copy.0.path());
        copy
    }

    /// The state that a crash leaves after `events`, without a checkpoint over them.
    pub(super) fn crashed(events: impl IntoIterator<Item = Event>) -> Self {
        let data = Self::new();
        // The clock does not advance, so no checkpoint is due.
        let clock = Arc::new(ManualClock::at(SystemClock::start().now()));
        let (log, _) = Log::open(data.settings(), clock).expect("log");
        for event in events {
            log.append_blocking(event, None).expect("sealed");
        }
        let left = data.snapshot();
        log.close().expect("closed");
        left
    }

    /// A closed log with `count` records.
    pub(super) fn with(count: u64) -> Self {
        let data = Self::new();
        let (log, _) = data.open();
        for number in 0..count {
            log.append_blocking(event(number), None).expect("sealed");
        }
        log.close().expect("closed");
        data
    }
}

/// Copies a folder with its content and the modes of its files.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("folder");
            fs::set_permissions(&target, fs::metadata(entry.path()).expect("mode").permissions())
                .expect("chmod");
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

pub(super) fn event(number: u64) -> Event {
    Event::KeyRevoked { kid: KeyId([7; 32]), reason: format!("number {number}") }
}

pub(super) fn events(count: u64) -> Vec<Event> {
    (0..count).map(event).collect()
}
