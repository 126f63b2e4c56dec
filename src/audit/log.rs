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
mod compare;
mod epoch;
mod fault;
mod fold;
mod integrate;
mod pending;
mod prune;
mod queue;
mod recover;
mod reserve;
mod settings;
mod shortage;
mod stands;
mod succeed;
mod turn;
mod watch;
mod writer;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::audit::event::Event;
use crate::audit::record::Record;
use crate::audit::vault::Vault;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::durable;

pub use compare::cache_against;
pub use fault::LogFault;
pub use prune::{Old, Pruning};
use queue::{Shared, Waiting};
use recover::Carried;
pub use recover::{Recovered, Torn};
pub use settings::{NewEpoch, Settings};

/// Records that wait at the most; one more is refused with [`LogFault::Busy`].
const QUEUE_MAX: usize = 4096;
/// A sync that takes longer than this has failed.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// A checkpoint, of several syncs, that takes longer than this has failed.
const SEAL_MAX: Duration = Duration::from_secs(120);

/// New work is turned away while syncs take longer than this.
const SYNC_SLOW: Duration = Duration::from_millis(250);

/// Proof that a record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
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
pub struct State {
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
    pub short: Option<durable::Fault>,
    /// Why it writes no more, if so.
    pub failed: Option<LogFault>,
}

/// A handle on the log. The last one that is dropped closes it.
#[derive(Clone)]
pub struct Log(Arc<Shelf>);

/// What the handles share: the epoch that is being written, and what the next one is opened with.
struct Shelf {
    settings: Settings,
    disk: Arc<dyn durable::Disk>,
    clock: Arc<dyn Clock>,
    vault: Arc<Mutex<Vault>>,
    current: Mutex<Current>,
    /// Held while one epoch follows another, and while the log is closed.
    turn: Mutex<()>,
    observer: OnceLock<Observer>,
    mourner: OnceLock<Mourner>,
}

type Observer = Arc<dyn Fn(Duration, usize) + Send + Sync>;
type Mourner = Arc<dyn Fn() + Send + Sync>;

struct Current {
    open: Arc<Open>,
    /// What comes while the next epoch is being opened.
    held: Option<VecDeque<Waiting>>,
}

impl Log {
    /// Opens the log that `settings` name, or begins it; takes its lock; mends what a crash has left.
    ///
    /// # Errors
    /// When another process has it, or when anything that was acknowledged is not there as it was written.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<(Self, Recovered), LogFault> {
        Self::open_on(settings, clock, Arc::new(durable::SystemDisk))
    }

    /// [`Log::open`] on a given disk, for tests that let it fail.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(
        settings: Settings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn durable::Disk>,
    ) -> Result<(Self, Recovered), LogFault> {
        let mut opened = recover::open(&settings, &disk, clock.now(), Carried::default())?;
        let first = std::mem::take(&mut opened.first);
        let recovered = std::mem::replace(&mut opened.recovered, Recovered { records: Vec::new(), torn: None });
        let vault = Arc::clone(&opened.desk.vault);
        let open = Arc::new(Open::new(&settings, &clock, opened)?);
        open.seal_first(first)?;
        // What was asked for is done; a later epoch is asked for anew.
        let settings = Settings { begin: None, ..settings };
        let (current, turn) = (Mutex::new(Current { open, held: None }), Mutex::new(()));
        let (observer, mourner) = (OnceLock::new(), OnceLock::new());
        let shelf = Shelf { settings, disk, clock, vault, current, turn, observer, mourner };
        Ok((Self(Arc::new(shelf)), recovered))
    }

    /// The log that is being written: `<gateway name>/<epoch>`.
    #[must_use]
    pub fn origin(&self) -> Arc<str> {
        Arc::clone(&self.0.current().open.origin)
    }

    /// The folder of all epochs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.settings.dir
    }

    /// The folder of the epoch that is being written.
    #[must_use]
    pub fn epoch(&self) -> PathBuf {
        self.0.current().open.epoch.clone()
    }

    /// The record keys.
    #[must_use]
    pub fn vault(&self) -> &Arc<Mutex<Vault>> {
        &self.0.vault
    }

    /// How long the oldest record that no checkpoint covers has been waiting for one; zero where none waits.
    #[must_use]
    pub fn checkpoint_age(&self) -> Duration {
        self.0.shared().checkpoint_age()
    }

    /// Asks for a checkpoint soon, whatever little it would cover.
    pub fn want_checkpoint(&self) {
        self.0.shared().want_checkpoint();
    }

    /// True while syncs take so long that new work would only wait.
    #[must_use]
    pub fn slow(&self) -> bool {
        self.0.shared().slow()
    }

    /// Records `event`, and returns when it is durable. A caller that stops waiting does not take it back: where the
    /// event must also be applied, use [`Log::seal_with`].
    ///
    /// # Errors
    /// When it is not known to be durable; [`LogFault`] says which faults end the log.
    pub async fn seal(&self, event: Event, by: Option<String>) -> Result<Sealed, LogFault> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.seal_with(event, by, move |sealed| drop(answer.send(sealed)));
        answered.await.unwrap_or(Err(LogFault::Stopped))
    }

    /// [`Log::seal`] for callers that may block their thread: the command line without a gateway.
    ///
    /// # Errors
    /// As [`Log::seal`].
    pub fn seal_blocking(&self, event: Event, by: Option<String>) -> Result<Sealed, LogFault> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.seal_with(event, by, move |sealed| drop(answer.send(sealed)));
        answered.recv().unwrap_or(Err(LogFault::Stopped))
    }

    /// Records `event` and calls `then` when it is durable, or known not to be. For successes `then` runs on the writer's
    /// thread, one record after the other in the log's order, so that what it applies is the fold of the log whoever waits;
    /// it must be short and must not wait for the log.
    pub fn seal_with(&self, event: Event, by: Option<String>, then: impl FnOnce(Result<Sealed, LogFault>) + Send + 'static) {
        match event.fits() {
            Ok(()) => self.0.put(Waiting { event, by, then: Box::new(then) }),
            Err(fault) => then(Err(fault.into())),
        }
    }

    /// Whether records can be made durable. False within a second of anything that ends the log.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let current = self.0.current();
        current.held.is_some() || current.open.shared.healthy()
    }

    /// How many events wait for a batch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let current = self.0.current();
        current.open.shared.waiting() + current.held.as_ref().map_or(0, VecDeque::len)
    }

    /// How the log is.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.shared().state()
    }

    /// Lets `observe` hear of each sync: how long it took and how many records shared it. The first observer stays.
    pub fn observe_syncs(&self, observe: impl Fn(Duration, usize) + Send + Sync + 'static) {
        let _ = self.0.observer.set(Arc::new(observe));
        self.0.attend(&self.0.shared());
    }

    /// Lets `tell` hear when the log fails. The first that asks for it stays.
    pub fn on_failure(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.mourner.set(Arc::new(tell));
        self.0.attend(&self.0.shared());
    }

    /// Seals what waits, writes the head for good, and gives the lock back. Blocks for a sync or two. Later calls, and
    /// records that come later, find the log closed.
    ///
    /// # Errors
    /// When the log had failed, or fails now.
    pub fn close(&self) -> Result<(), LogFault> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let open = Arc::clone(&self.0.current().open);
        open.close()
    }
}

/// One epoch that is being written. Dropped with the last handle, while the threads keep only `Shared`.
struct Open {
    shared: Arc<Shared>,
    writer: ThreadId,
    origin: Arc<str>,
    epoch: PathBuf,
    /// Held beyond a failure: a gateway that cannot record must not be overtaken by a second writer that can.
    lock: Mutex<Option<durable::Lock>>,
}

impl Open {
    /// Sets the threads of a recovered log to work.
    fn new(settings: &Settings, clock: &Arc<dyn Clock>, opened: recover::Opened) -> Result<Self, LogFault> {
        let recover::Opened { files, desk, mut sealer, begin, lock, .. } = opened;
        let (origin, epoch) = (Arc::clone(&desk.origin), sealer.epoch.clone());
        let shared = Arc::new(Shared::new(Arc::clone(clock), begin));
        sealer.shared = Some(Arc::clone(&shared));
        let writing = Arc::clone(&shared);
        let writer = spawn("audit-writer", &settings.dir, move || writer::run(&writing, files, &desk))?;
        let sealing = Arc::clone(&shared);
        spawn("audit-sealer", &settings.dir, move || integrate::run(&sealing, sealer))?;
        let watching = Arc::clone(&shared);
        let open = Self { shared, writer, origin, epoch, lock: Mutex::new(Some(lock)) };
        spawn("audit-watch", &settings.dir, move || watching.watch())?;
        Ok(open)
    }

    /// Records what an epoch begins with: all of it at once, so that a crash leaves all or nothing, as far as a batch reaches.
    fn seal_first(&self, first: Vec<(Event, Option<String>)>) -> Result<(), LogFault> {
        let (answer, answered) = mpsc::channel();
        let waiting = |(event, by): (Event, _)| {
            let answer = answer.clone();
            event.fits()?;
            Ok(Waiting { event, by, then: Box::new(move |sealed| drop(answer.send(sealed))) })
        };
        let first = first.into_iter().map(waiting).collect::<Result<Vec<_>, LogFault>>()?;
        let count = first.len();
        self.shared.enqueue_all(first);
        (0..count).try_for_each(|_| answered.recv().unwrap_or(Err(LogFault::Stopped)).map(|_| ()))
    }

    fn close(&self) -> Result<(), LogFault> {
        self.shared.begin_closing();
        // The last handle may have been held by what the writer just called: it cannot wait for itself.
        let ended = thread::current().id() != self.writer && self.shared.wait_for_writer();
        let lock = self.take_lock();
        if !ended {
            // A write may still be on its way, so the lock stays until the process ends.
            std::mem::forget(lock);
        }
        self.shared.state().failed.map_or(Ok(()), Err)
    }

    fn take_lock(&self) -> Option<durable::Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A failure was logged when it happened.
        let _ = self.close();
    }
}

fn spawn(name: &str, dir: &Path, run: impl FnOnce() + Send + 'static) -> Result<ThreadId, LogFault> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    Ok(thread.map_err(durable::Fault::of("start a thread for", dir))?.thread().id())
}
