//! The pen: one writer, group commit, and nothing acknowledged that is not on the disk.
//!
//! ```text
//! queue → batch encoded → written to the journal → fdatasync → head written → acknowledged, in the log's order
//!       → under a checkpoint: signed → note in the head → tiles → `checkpoint` → journal trimmed
//! ```
//!
//! What a crash at each arrow leaves stands beside the arrow in `log/writer.rs` and `log/integrate.rs`, how a start mends it in
//! `log/recover.rs`.

mod cache;
mod checkpoint_files;
mod compare;
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

/// Records that wait at the most; one more is refused with [`LogFault::Busy`].
const QUEUE_MAX: usize = 4096;
/// A sync that takes longer than this has failed.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// A checkpoint, of several syncs, that takes longer than this has failed.
const CHECKPOINT_MAX: Duration = Duration::from_secs(120);

/// New work is turned away while syncs take longer than this.
const SYNC_SLOW: Duration = Duration::from_millis(250);

/// Proof that a record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The log that it is in: `<gateway name>/<epoch>`.
    pub origin: Arc<str>,
    /// Its index in the log, and its leaf's in the tree.
    pub index: u64,
    /// When it was recorded: the wall clock, but never earlier than the record before.
    pub at: Timestamp,
    /// The record exactly as a later start will read it (free text may have been cut): what to apply.
    pub record: Record,
}

/// How the log is.
#[derive(Clone, Debug)]
pub struct LogState {
    /// How many records are durable.
    pub size: u64,
    /// The last one's time.
    pub at: Timestamp,
    /// How many of them are under a checkpoint.
    pub signed: u64,
    /// How long the last sync took.
    pub sync_last: Duration,
    /// Whether the disk is full but for the reserve.
    pub low: bool,
    /// Bytes that are free on the disk, as of a second ago; `None` where that cannot be told.
    pub free_bytes: Option<u64>,
    /// Bytes of the reserve that are there.
    pub reserve_bytes: u64,
    /// Bytes of the reserve where it is whole.
    pub reserve_whole_bytes: u64,
    /// What is short, where the log waits for that.
    pub short: Option<durable::DiskFault>,
    /// Why it writes no more, if so.
    pub failed: Option<LogFault>,
}

/// A handle on the log. The last one that is dropped closes it.
#[derive(Clone)]
pub struct Log(Arc<SharedLog>);

impl Log {
    /// Opens the log that `settings` name, or begins it; takes its lock; mends what a crash has left.
    ///
    /// # Errors
    /// When another process has it, or when anything that was acknowledged is not there as it was written.
    pub fn open(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovered), LogFault> {
        Self::open_on(settings, clock, Arc::new(durable::SystemDisk))
    }

    /// [`Log::open`] on a given disk, for tests that let it fail.
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

    /// [`Log::open`] of a log that another process has closed for this one, with the lock that it has passed on. The epoch goes on.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn take_over(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        lock: File,
    ) -> Result<(Self, Recovered), LogFault> {
        let lock = recover::adopt(&settings, lock)?;
        Self::open_with(settings.going_on(), clock, Arc::new(durable::SystemDisk), Some(lock))
    }

    fn open_with(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn durable::Disk>,
        lock: Option<durable::Lock>,
    ) -> Result<(Self, Recovered), LogFault> {
        let (open, recovered) = SharedLog::begin(settings, clock, disk, lock)?;
        Ok((Self(Arc::new(open)), recovered))
    }

    /// The log that is being written: `<gateway name>/<epoch>`.
    #[must_use]
    pub fn origin(&self) -> Arc<str> {
        self.0.origin()
    }

    /// The folder of all epochs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.settings().dir
    }

    /// Whether what a record says is sealed under keys.
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

    /// How long the oldest record that no checkpoint covers has been waiting for one; zero where none waits.
    #[must_use]
    pub fn checkpoint_age(&self) -> Duration {
        self.0.own().map_or(Duration::ZERO, |shared| shared.checkpoint_age())
    }

    /// Asks for a checkpoint soon, whatever little it would cover.
    pub fn want_checkpoint(&self) {
        if let Some(shared) = self.0.own() {
            shared.want_checkpoint();
        }
    }

    /// True while syncs take so long that new work would only wait.
    #[must_use]
    pub fn slow(&self) -> bool {
        self.0.own().is_some_and(|shared| shared.slow())
    }

    /// Records `event`, and returns when it is durable. A caller that stops waiting does not take it back: where the
    /// event must also be applied, use [`Log::append_with`].
    ///
    /// # Errors
    /// When it is not known to be durable; [`LogFault`] says which faults end the log.
    pub async fn append(&self, event: Event, by: Option<String>) -> Result<Appended, LogFault> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.append_with(event, by, move |sealed| drop(answer.send(sealed)));
        answered.await.unwrap_or(Err(LogFault::Stopped))
    }

    /// [`Log::append`] for callers that may block their thread: the command line without a gateway.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_blocking(&self, event: Event, by: Option<String>) -> Result<Appended, LogFault> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.append_with(event, by, move |sealed| drop(answer.send(sealed)));
        answered.recv().unwrap_or(Err(LogFault::Stopped))
    }

    /// Records `event` and calls `then` when it is durable, or known not to be. For successes `then` runs on the writer's
    /// thread, one record after the other in the log's order, so that what it applies is the fold of the log whoever waits;
    /// it must be short and must not wait for the log.
    pub fn append_with(
        &self,
        event: Event,
        by: Option<String>,
        then: impl FnOnce(Result<Appended, LogFault>) + Send + 'static,
    ) {
        match event.fits() {
            Ok(()) => self.0.give(QueuedEvent { event, by, then: Box::new(then) }),
            Err(fault) => then(Err(fault.into())),
        }
    }

    /// Whether records can be made durable. False within a second of anything that ends the log.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.0.healthy()
    }

    /// How many events wait for a batch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// How the log is.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.0.state()
    }

    /// Lets `observe` hear of each sync: how long it took and how many records shared it. The first observer stays.
    pub fn observe_syncs(&self, observe: impl Fn(Duration, usize) + Send + Sync + 'static) {
        self.0.observe(Arc::new(observe));
    }

    /// Lets `tell` hear when the log fails. The first that asks for it stays.
    pub fn on_failure(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.0.on_failure(Arc::new(tell));
    }

    /// Lets `tell` hear of each record that changes the books, once it is durable, on the writer's thread. The first stays.
    pub fn on_control(&self, tell: impl Fn(&Record) + Send + Sync + 'static) {
        self.0.on_control(Arc::new(tell));
    }

    /// Stops writing, for another process to go on: all that came is sealed and under a checkpoint, and the files are closed. What
    /// comes from now on waits for [`Log::resume`] or [`Log::leave`]. The lock stays taken. Blocks for a few syncs.
    ///
    /// # Errors
    /// When the log had failed, or fails now: then nothing has changed.
    pub fn pause(&self) -> Result<(), LogFault> {
        self.0.pause()
    }

    /// The lock's own descriptor, for the process that goes on: as long as one of its copies is open the lock is taken.
    ///
    /// # Errors
    /// When it cannot be copied, or is gone.
    pub fn lock(&self) -> Result<durable::Lock, LogFault> {
        self.0.lock()
    }

    /// Goes on after [`Log::pause`], with what waits first. The process that was to go on must have ended. Gives what changes the
    /// books and may be that process's: this one's last millisecond is among it. Blocks.
    ///
    /// # Errors
    /// When the log cannot be opened: it has failed then; [`LogFault::Closed`] where it was not paused.
    pub fn resume(&self) -> Result<Vec<Record>, LogFault> {
        self.0.resume()
    }

    /// Leaves the log to another process after [`Log::pause`]: the lock's copy here is given up, and what waits, and whatever
    /// comes, goes to `remote`.
    pub fn leave(&self, remote: Arc<dyn Remote>) {
        self.0.leave(remote);
    }

    /// Says that the process is about to end: what is short is not waited for for long from now on.
    pub fn closes_soon(&self) {
        self.0.closes_soon();
    }

    /// Seals what waits, writes the head for good, and gives the lock back. Blocks for a sync or two. Later calls, and
    /// records that come later, find the log closed.
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
    recover::lock_path(settings)
        .is_ok_and(|path| path.exists() && matches!(durable::Lock::take(&path), Ok(None)))
}
