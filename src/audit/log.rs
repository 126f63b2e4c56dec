//! The pen: one writer, group commit, and nothing acknowledged that is not on the disk.
//!
//! ```text
//! queue → batch encoded → written to the journal → fdatasync → head written → acknowledged, in the log's order
//! ```
//!
//! What a crash at each arrow leaves stands beside the arrow in `log/writer.rs`, how a start mends it in `log/recover.rs`.

mod queue;
mod recover;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::audit::event::Event;
use crate::audit::head::HeadFault;
use crate::audit::journal::SegmentFault;
use crate::audit::record::Record;
use crate::audit::record::RecordFault;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::durable;

use queue::{Shared, Waiting};
pub use recover::{Recovered, Seen, Torn};

/// Records that wait at the most; one more is refused with [`LogFault::Busy`].
const QUEUE_MAX: usize = 4096;
/// A sync that takes longer than this has failed.
const SYNC_MAX: Duration = Duration::from_secs(30);

/// Where a log lies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of its epochs: `DATA/audit`.
    pub dir: PathBuf,
    /// The file of its head: `DATA/secret/head`.
    pub head: PathBuf,
    /// The gateway's name, of which the log's origin is made.
    pub name: String,
}

/// Why a record is not, or may not be, in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogFault {
    /// Another process writes this log.
    #[error("{} is locked: another token-shield is running on this data folder; stop it, or talk to it", .0.display())]
    Locked(PathBuf),
    /// The gateway's name cannot be an origin's.
    #[error("name {0:?} cannot name a log: write 1 to 200 visible ASCII characters, no '+'")]
    Name(String),
    /// The log was begun under another name.
    #[error("this log belongs to {found}, not to {expected}: set the old name again, or begin with another data folder")]
    Origin {
        /// What the head says.
        found: String,
        /// What the config says.
        expected: String,
    },
    /// There are segments and no head: nobody can tell whether the log has lost its end.
    #[error("{} is missing, and the log is not empty: restore it from where it was last seen", .0.display())]
    HeadMissing(PathBuf),
    /// There is a head that cannot be read.
    #[error("{} is damaged: {fault}", path.display())]
    HeadDamaged {
        /// The head's file.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeadFault,
    },
    /// The log holds less than it has acknowledged.
    #[error("the log ends behind record {size}, but {acknowledged} were acknowledged: records have been lost or taken away")]
    Behind {
        /// How many records there are.
        size: u64,
        /// How many there were.
        acknowledged: u64,
    },
    /// A file that is no part of a journal, or a segment with a hole before it.
    #[error("{} does not belong there: the folder holds the journal alone, whose segments are named after their first record, without a gap", .0.display())]
    Stray(PathBuf),
    /// A segment is not as it was written.
    #[error("{}: {fault}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        fault: SegmentFault<RecordFault>,
    },
    /// The event has a name that does not fit into a record. Nothing was written.
    #[error("the event cannot be recorded: {0}")]
    Event(#[from] RecordFault),
    /// Too much waits already. Nothing was written; trying later helps.
    #[error("the log has {QUEUE_MAX} records waiting")]
    Busy,
    /// There is no room for another segment. Nothing was written; the log goes on when there is room.
    #[error("no room for more records: {0}")]
    NoSpace(durable::Fault),
    /// Fatal: the disk refused a write or a sync. The record may or may not be found at the next start.
    #[error(transparent)]
    Disk(#[from] durable::Fault),
    /// Fatal: a file of the log is not the one that was opened.
    #[error("the log's files are not what they were: {0}")]
    Changed(#[from] durable::Changed),
    /// Fatal: a sync did not come back.
    #[error("a sync has been running for more than {} s", SYNC_MAX.as_secs())]
    Hung,
    /// Fatal: the writer has ended where it should not.
    #[error("the log's writer has stopped")]
    Stopped,
    /// The log was closed. Nothing was written.
    #[error("the log is closed")]
    Closed,
}

/// Proof that a record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
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
    /// How long the last sync took.
    pub sync_last: Duration,
    /// Why it writes no more, if so.
    pub failed: Option<LogFault>,
}

/// A handle on the log. The last one that is dropped closes it.
#[derive(Clone)]
pub struct Log(Arc<Open>);

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
        let (files, lock, recovered) = recover::open(&settings, disk)?;
        let at = recovered.records.last().map_or(Timestamp(0), |record| record.at);
        let mut watched = files.watched();
        watched.push(lock.identity().clone());
        let shared = Arc::new(Shared::new(clock, watched, files.size(), at));
        let writing = Arc::clone(&shared);
        let writer = spawn("audit-writer", &settings.dir, move || writer::run(&writing, files))?;
        let watching = Arc::clone(&shared);
        let open = Open { shared, writer, lock: Mutex::new(Some(lock)) };
        spawn("audit-watch", &settings.dir, move || watching.watch())?;
        Ok((Self(Arc::new(open)), recovered))
    }

    /// Verifies the log in the folder `dir` from outside: nothing is locked, mended or written. Every record must be whole, in
    /// canonical form, no earlier than the one before, and under the roots that the journal and the head name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(dir: &Path, head: Option<&Path>) -> Result<Seen, LogFault> {
        recover::look(dir, head)
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
            Ok(()) => self.0.shared.enqueue(Waiting { event, by, then: Box::new(then) }),
            Err(fault) => then(Err(fault.into())),
        }
    }

    /// Whether records can be made durable. False within a second of anything that ends the log.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.0.shared.healthy()
    }

    /// How the log is.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.shared.state()
    }

    /// Lets `observe` hear of each sync: how long it took and how many records shared it. The first observer stays.
    pub fn observe_syncs(&self, observe: impl Fn(Duration, usize) + Send + Sync + 'static) {
        self.0.shared.observe(Box::new(observe));
    }

    /// Lets `tell` hear when the log fails. The first that asks for it stays.
    pub fn on_failure(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.0.shared.on_failure(Box::new(tell));
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

/// What the handles share: dropped with the last of them, while the threads keep only `Shared`.
struct Open {
    shared: Arc<Shared>,
    writer: ThreadId,
    /// Held beyond a failure: a gateway that cannot record must not be overtaken by a second writer that can.
    lock: Mutex<Option<durable::Lock>>,
}

impl Open {
    fn close(&self) -> Result<(), LogFault> {
        self.shared.begin_closing();
        // The last handle may have been held by what the writer just called: it cannot wait for itself.
        let ended = thread::current().id() != self.writer && self.shared.wait_for_writer();
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !ended {
            // A write may still be on its way, so the lock stays until the process ends.
            std::mem::forget(lock);
        }
        self.shared.state().failed.map_or(Ok(()), Err)
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
