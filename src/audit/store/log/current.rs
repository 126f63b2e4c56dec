//! The epoch that this process writes, and its threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};

use super::LogFault;
use super::queue::{QueuedEvent, SharedQueue, Then};
use super::recover::{Opened, Recovered};
use super::{integrate, writer};
use crate::audit::format::event::Event;
use crate::clock::Clock;
use crate::durable;

/// The first records of an epoch, each with the operator who requested it.
pub(super) type First = Vec<(Event, Option<String>)>;

/// The epoch that this process writes, or wrote last.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) shared: Arc<SharedQueue>,
    writer: ThreadId,
    pub(super) origin: Arc<str>,
    pub(super) epoch: PathBuf,
}

/// An epoch that was opened and is being written.
pub(super) struct Begun {
    pub(super) current: Current,
    pub(super) lock: durable::Lock,
    pub(super) recovered: Recovered,
}

impl Current {
    /// Starts the threads of a recovered log.
    pub(super) fn start(
        opened: Opened,
        dir: &Path,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Begun, First), LogFault> {
        let Opened { files, encryptor, mut checkpointer, begin, lock, recovered, first } = opened;
        let (origin, epoch) = (Arc::clone(&encryptor.origin), checkpointer.epoch.clone());
        let shared = Arc::new(SharedQueue::new(Arc::clone(clock), begin));
        checkpointer.shared = Some(Arc::clone(&shared));
        let writing = Arc::clone(&shared);
        let writer = spawn("audit-writer", dir, move || writer::run(&writing, files, &encryptor))?;
        let checkpointing = Arc::clone(&shared);
        spawn("audit-signer", dir, move || integrate::run(&checkpointing, checkpointer))?;
        let watching = Arc::clone(&shared);
        spawn("audit-watch", dir, move || watching.watch())?;
        Ok((Begun { current: Self { shared, writer, origin, epoch }, lock, recovered }, first))
    }

    /// Records the first records of an epoch. In one batch, so that a crash leaves all or none.
    pub(super) fn append_first(&self, first: First) -> Result<(), LogFault> {
        let (answer, answered) = mpsc::channel();
        let mut waiting = Vec::with_capacity(first.len());
        for (event, by) in first {
            event.fits()?;
            let answer = answer.clone();
            let then: Then = Box::new(move |sealed| drop(answer.send(sealed)));
            waiting.push(QueuedEvent { event, by, then });
        }
        let count = waiting.len();
        self.shared.enqueue_all(waiting);
        for _ in 0..count {
            let Ok(sealed) = answered.recv() else { return Err(LogFault::Stopped) };
            sealed?;
        }
        Ok(())
    }

    /// Ends the threads. False where one hangs, or where the caller is the writer's own thread.
    pub(super) fn end(&self) -> bool {
        self.shared.begin_closing();
        // The callback of a record may drop the last handle. The writer cannot wait for itself.
        thread::current().id() != self.writer && self.shared.wait_for_writer()
    }
}

/// Starts a thread of the log. A limit of threads is reported as a fault of the folder.
fn spawn(
    name: &str,
    dir: &Path,
    run: impl FnOnce() + Send + 'static,
) -> Result<ThreadId, LogFault> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    Ok(thread.map_err(durable::DiskFault::of("start a thread for", dir))?.thread().id())
}
