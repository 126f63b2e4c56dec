//! The audit log's writer: one writer thread with group commit. A record is acknowledged only when
//! it is durable.
//!
//! ```text
//! queue → batch encoded → written to the journal → fdatasync → head written → acknowledged
//!       → under a checkpoint: signed → note in the head → tiles → `checkpoint` → journal trimmed
//! ```
//!
//! `log/writer.rs` and `log/integrate.rs` state, at each of these steps, what a crash there leaves.
//! `log/recover.rs` states how the next start repairs it.

mod cache;
mod checkpoint_files;
mod compare;
mod current;
mod epoch;
mod fault;
mod fold;
mod integrate;
mod listeners;
mod opening;
mod ownership;
mod pending;
mod prune;
mod queue;
mod recover;
pub mod remains;
mod reserve;
mod settings;
mod shortage;
mod steps;
mod succeed;
mod sweep;
mod turn;
mod vkeys;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::audit::format::event::Event;
use crate::audit::format::record::Record;
use crate::audit::store::vault::Vault;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::durable;

pub use compare::cache_against;
pub use fault::LogFault;
use ownership::SharedLog;
pub use ownership::{Remote, Then};
pub use prune::{Old, Pruning};
use queue::QueuedEvent;
pub use recover::{Recovered, Torn};
pub use settings::{FolderOwner, LogSettings, NewEpoch};

/// The queue's maximum of waiting records. The next record is refused with [`LogFault::Busy`].
const QUEUE_MAX: usize = 4096;
/// A sync that takes longer than this counts as failed.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// A checkpoint needs several syncs. One that takes longer than this counts as failed.
const CHECKPOINT_MAX: Duration = Duration::from_secs(120);

/// New work is refused while syncs take longer than this.
const SYNC_SLOW: Duration = Duration::from_millis(250);

/// Proof that a record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The origin of the log that contains it: `<gateway name>/<epoch>`.
    pub origin: Arc<str>,
    /// The index of the record in the log, and of its leaf in the tree.
    pub index: u64,
    /// The time of recording: the wall clock, but never earlier than the previous record.
    pub at: Timestamp,
    /// The record exactly as a later start reads it; free text may have been cut. Callers apply
    /// this value.
    pub record: Record,
}

/// The status of the log, for metrics and health checks.
#[derive(Clone, Debug)]
pub struct LogState {
    /// The number of durable records.
    pub size: u64,
    /// The time of the last record.
    pub at: Timestamp,
    /// The number of records under a checkpoint.
    pub signed: u64,
    /// The duration of the last sync.
    pub sync_last: Duration,
    /// True while only the reserve is left on the disk.
    pub low: bool,
    /// Free bytes on the disk, at most a second old; `None` where the number is unknown.
    pub free_bytes: Option<u64>,
    /// Bytes that the reserve has now.
    pub reserve_bytes: u64,
    /// Bytes that the whole reserve has.
    pub reserve_whole_bytes: u64,
    /// The resource that is short, where the log waits for one.
    pub short: Option<durable::DiskFault>,
    /// The fault that ended the log, where it has failed.
    pub failed: Option<LogFault>,
}

/// A handle on the log. The log closes when its last handle is dropped.
#[derive(Clone)]
pub struct Log(Arc<SharedLog>);

impl Log {
    /// Opens the log that `settings` names, or begins it. Takes its lock, and repairs what a crash
    /// left.
    ///
    /// # Errors
    /// When another process has the lock, or when an acknowledged record or file is missing or
    /// changed.
    pub fn open(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovered), LogFault> {
        Self::open_on(settings, clock, Arc::new(durable::SystemDisk))
    }

    /// [`Log::open`] on a given disk, for tests with disk faults.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn durable::Disk>,
    ) -> Result<(Self, Recovered), LogFault> {
        Self::open_with(settings, clock, disk, None)
    }

    /// [`Log::open`] of a log that another process has closed for this process. That process has
    /// passed its lock to this one. The epoch continues.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn take_over(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        lock: File,
    ) -> Result<(Self, Recovered), LogFault> {
        // The lock comes first: without it another process could write while this one opens the
        // log.
        let lock = recover::adopt(&settings, lock)?;
        Self::open_with(settings.going_on(), clock, Arc::new(durable::SystemDisk), Some(lock))
    }

    /// Common part of the three functions above. Without a `lock`, the lock of the epoch is taken.
    fn open_with(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn durable::Disk>,
        lock: Option<durable::Lock>,
    ) -> Result<(Self, Recovered), LogFault> {
        let (open, recovered) = SharedLog::begin(settings, clock, disk, lock)?;
        Ok((Self(Arc::new(open)), recovered))
    }

    /// The origin of the epoch that is being written: `<gateway name>/<epoch>`.
    #[must_use]
    pub fn origin(&self) -> Arc<str> {
        self.0.origin()
    }

    /// The folder of all epochs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.settings().dir
    }

    /// Whether the payloads of records are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.settings().encrypted
    }

    /// The folder of the epoch that is being written.
    #[must_use]
    pub fn epoch(&self) -> PathBuf {
        self.0.epoch()
    }

    /// The record keys.
    #[must_use]
    pub fn vault(&self) -> &Arc<Mutex<Vault>> {
        self.0.vault()
    }

    /// The time that the oldest record without a checkpoint has waited; zero where no record waits.
    #[must_use]
    pub fn checkpoint_age(&self) -> Duration {
        match self.0.own() {
            Some(shared) => shared.checkpoint_age(),
            None => Duration::ZERO,
        }
    }

    /// Requests a checkpoint soon, even for few records.
    pub fn want_checkpoint(&self) {
        if let Some(shared) = self.0.own() {
            shared.want_checkpoint();
        }
    }

    /// True while syncs are so slow that new work would only wait.
    #[must_use]
    pub fn slow(&self) -> bool {
        self.0.own().is_some_and(|shared| shared.slow())
    }

    /// Records `event`, and returns when it is durable. The event is recorded even if the caller
    /// stops waiting. Where the event must also be applied, use [`Log::append_with`].
    ///
    /// # Errors
    /// When the record is not known to be durable. [`LogFault`] states which faults end the log.
    pub async fn append(&self, event: Event, by: Option<String>) -> Result<Appended, LogFault> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.append_with(event, by, move |sealed| drop(answer.send(sealed)));
        // The sender is dropped without an answer only if the writer has ended.
        answered.await.unwrap_or(Err(LogFault::Stopped))
    }

    /// [`Log::append`] for callers that may block their thread: commands that run without a
    /// gateway.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_blocking(&self, event: Event, by: Option<String>) -> Result<Appended, LogFault> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.append_with(event, by, move |sealed| drop(answer.send(sealed)));
        let Ok(appended) = answered.recv() else { return Err(LogFault::Stopped) };
        appended
    }

    /// Records `event`, and calls `then` when it is durable or known to have failed. On success,
    /// `then` runs on the writer's thread, for one record after the other in the log's order. The
    /// applied state is therefore always the fold of the log, even if no caller waits. `then` must
    /// be short and must not wait for the log.
    pub fn append_with(
        &self,
        event: Event,
        by: Option<String>,
        then: impl FnOnce(Result<Appended, LogFault>) + Send + 'static,
    ) {
        // An event with a name that is too long fails here, on the caller's thread. It never gets
        // into a batch.
        match event.fits() {
            Ok(()) => self.0.give(QueuedEvent { event, by, then: Box::new(then) }),
            Err(fault) => then(Err(fault.into())),
        }
    }

    /// Whether records can be made durable. Becomes false within a second after a fault that ends
    /// the log.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.0.healthy()
    }

    /// The number of events that wait for a batch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// The status of the log.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.0.state()
    }

    /// Registers a function that gets the duration of each sync and its number of records. Only the
    /// first registration counts.
    pub fn observe_syncs(&self, observe: impl Fn(Duration, usize) + Send + Sync + 'static) {
        self.0.observe(Arc::new(observe));
    }

    /// Registers a function that is called when the log fails. Only the first registration counts.
    pub fn on_failure(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.0.on_failure(Arc::new(tell));
    }

    /// Registers a function that gets each durable record that changes the state. It runs on the
    /// writer's thread. Only the first registration counts.
    pub fn on_control(&self, tell: impl Fn(&Record) + Send + Sync + 'static) {
        self.0.on_control(Arc::new(tell));
    }

    /// Stops writing, so that another process can continue the log. All earlier records get
    /// committed and covered by a checkpoint, and the files are closed. Later events wait for
    /// [`Log::resume`] or [`Log::leave`]. The lock stays taken. Blocks for a few syncs.
    ///
    /// # Errors
    /// When the log had failed, or fails now. Then the log is as before.
    pub fn pause(&self) -> Result<(), LogFault> {
        self.0.pause()
    }

    /// A copy of the lock's descriptor, for the process that continues the log. The lock is taken
    /// as long as one copy is open.
    ///
    /// # Errors
    /// When the descriptor cannot be copied, or is closed already.
    pub fn lock(&self) -> Result<durable::Lock, LogFault> {
        self.0.lock()
    }

    /// Continues after [`Log::pause`]; waiting events come first. The process that was to continue
    /// the log must have ended. Returns the records that change the state and may be that
    /// process's. They begin with the last millisecond of this process. Blocks.
    ///
    /// # Errors
    /// When the log cannot be opened; then it has failed. [`LogFault::Closed`] where it was not
    /// paused.
    pub fn resume(&self) -> Result<Vec<Record>, LogFault> {
        self.0.resume()
    }

    /// Leaves the log to another process after [`Log::pause`]. Closes this process's copy of the
    /// lock. Sends waiting and later events to `remote`.
    pub fn leave(&self, remote: Arc<dyn Remote>) {
        self.0.leave(remote);
    }

    /// Announces the end of the process. From now on, the log waits only briefly for resources that
    /// are short.
    pub fn closes_soon(&self) {
        self.0.closes_soon();
    }

    /// Commits waiting records, syncs the head, and releases the lock. Blocks for a sync or two.
    /// Later calls, and later records, get [`LogFault::Closed`].
    ///
    /// # Errors
    /// When the log had failed, or fails now.
    pub fn close(&self) -> Result<(), LogFault> {
        self.0.close()
    }
}

/// Whether another process holds the lock of the newest epoch.
#[must_use]
pub fn is_locked(settings: &LogSettings) -> bool {
    // A lock that can be taken here is released at once, because its handle is dropped.
    recover::lock_path(settings)
        .is_ok_and(|path| path.exists() && matches!(durable::Lock::take(&path), Ok(None)))
}
