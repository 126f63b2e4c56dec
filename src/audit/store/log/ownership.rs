//! Who writes the log: this process, nobody for a moment, or the process that has taken it over.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::listeners::{FailureListener, LogListeners, RecordListener, SyncObserver};
pub use super::queue::Then;
use super::queue::{QueuedEvent, SharedQueue};
use super::recover::Carried;
use super::shortage::{COMMANDS_WAIT, until_enough};
use super::{
    LogFault, LogSettings, LogState, QUEUE_MAX, Recovered, integrate, opening, recover, writer,
};
use crate::audit::format::event::Event;
use crate::audit::format::record::Record;
use crate::audit::store::vault::Vault;
use crate::clock::Clock;
use crate::durable::{self, Disk};

/// Another process that writes the log, and records what this one gives it.
pub trait Remote: Send + Sync {
    /// Has `event` recorded, and calls `then` when it is durable, or known not to be.
    fn append(&self, event: Event, then: Then);

    /// Whether it can be reached.
    fn healthy(&self) -> bool;

    /// Its process id.
    fn process(&self) -> u32;
}

/// Records that an epoch begins with, each with who asked for it.
type First = Vec<(Event, Option<String>)>;

/// Who writes.
enum LogOwner {
    /// This process.
    Own,
    /// Nobody for now, while the next epoch is being opened or another process goes on: what comes waits.
    Between(VecDeque<QueuedEvent>),
    /// Another process.
    Away(Arc<dyn Remote>),
    /// Nobody ever again.
    Gone(LogFault),
}

/// The epoch that this process writes, or wrote last.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) shared: Arc<SharedQueue>,
    writer: ThreadId,
    /// `<gateway name>/<epoch>`.
    pub(super) origin: Arc<str>,
    epoch: PathBuf,
}

/// Who writes, and the epoch.
struct Ownership {
    who: LogOwner,
    current: Current,
    /// What is short, where the log cannot be opened again for it.
    short: Option<durable::DiskFault>,
}

/// What the handles share: dropped with the last of them, while the threads keep only `SharedQueue`.
pub(super) struct SharedLog {
    place: Mutex<Ownership>,
    /// Held while one epoch follows another, while the log is paused or opened again, and while it is closed.
    pub(super) turn: Mutex<()>,
    vault: Arc<Mutex<Vault>>,
    /// Held beyond a failure: a gateway that cannot record must not be overtaken by a second writer that can.
    lock: Mutex<Option<durable::Lock>>,
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    ears: Mutex<LogListeners>,
    /// Whether the process is about to end: what is short is not waited for for long.
    closes: AtomicBool,
}

/// An epoch that was opened and is being written.
pub(super) struct Begun {
    pub(super) current: Current,
    lock: durable::Lock,
    recovered: Recovered,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Current {
    /// Sets the threads of a recovered log to work.
    fn start(
        opened: recover::Opened,
        dir: &Path,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Begun, First), LogFault> {
        let recover::Opened { files, encryptor, mut checkpointer, begin, lock, recovered, first } =
            opened;
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

    /// Records what an epoch begins with: all of it at once, so that a crash leaves all or nothing, as far as a batch reaches.
    fn append_first(&self, first: First) -> Result<(), LogFault> {
        let (answer, answered) = mpsc::channel();
        let waiting = |(event, by): (Event, _)| {
            let answer = answer.clone();
            event.fits()?;
            Ok(QueuedEvent { event, by, then: Box::new(move |sealed| drop(answer.send(sealed))) })
        };
        let first = first.into_iter().map(waiting).collect::<Result<Vec<_>, LogFault>>()?;
        let count = first.len();
        self.shared.enqueue_all(first);
        (0..count).try_for_each(|_| answered.recv().unwrap_or(Err(LogFault::Stopped)).map(|_| ()))
    }

    /// Lets the threads end. False where one hangs, or where the writer's own thread asks.
    fn end(&self) -> bool {
        self.shared.begin_closing();
        // The last handle may have been held by what the writer just called: it cannot wait for itself.
        thread::current().id() != self.writer && self.shared.wait_for_writer()
    }
}

impl SharedLog {
    /// Opens the log and sets its threads to work.
    pub(super) fn begin(
        settings: LogSettings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        lock: Option<durable::Lock>,
    ) -> Result<(Self, Recovered), LogFault> {
        let opened = opening::open(&settings, &disk, clock.now(), Carried { lock, vault: None })?;
        let vault = Arc::clone(&opened.encryptor.vault);
        let (Begun { current, lock, recovered }, first) =
            Current::start(opened, &settings.dir, &clock)?;
        // What was asked for is done; a later epoch is asked for anew.
        let settings = LogSettings { begin: None, ..settings };
        let place =
            Mutex::new(Ownership { who: LogOwner::Own, current: current.clone(), short: None });
        let (turn, lock, ears) = (Mutex::default(), Mutex::new(Some(lock)), Mutex::default());
        let closes = AtomicBool::new(false);
        let open = Self { place, turn, vault, lock, settings, clock, disk, ears, closes };
        // Where this fails, `open` is dropped, and closes what it has opened.
        current.append_first(first)?;
        Ok((open, recovered))
    }

    /// Opens the log again, and sets its threads to work.
    pub(super) fn open(&self, settings: &LogSettings, carried: Carried) -> Result<Begun, LogFault> {
        let is_new = carried.vault.is_none();
        let mut opened = opening::open(settings, &self.disk, self.clock.now(), carried)?;
        if is_new {
            // All handles use the keys that were read just now: the other process may have added some.
            std::mem::swap(&mut *locked(&self.vault), &mut *locked(&opened.encryptor.vault));
            opened.encryptor.vault = Arc::clone(&self.vault);
        }
        let (begun, first) = Current::start(opened, &settings.dir, &self.clock)?;
        locked(&self.ears).attend(&begun.current.shared);
        if let Err(fault) = begun.current.append_first(first) {
            if !begun.current.end() {
                // A write may still be on its way, so the lock stays until the process ends.
                std::mem::forget(begun.lock);
            }
            return Err(fault);
        }
        Ok(begun)
    }

    /// What an epoch is opened with from now on.
    pub(super) const fn settings(&self) -> &LogSettings {
        &self.settings
    }

    pub(super) fn origin(&self) -> Arc<str> {
        Arc::clone(&locked(&self.place).current.origin)
    }

    pub(super) fn epoch(&self) -> PathBuf {
        locked(&self.place).current.epoch.clone()
    }

    pub(super) const fn vault(&self) -> &Arc<Mutex<Vault>> {
        &self.vault
    }

    /// The threads' half, where this process writes.
    pub(super) fn own(&self) -> Option<Arc<SharedQueue>> {
        let place = locked(&self.place);
        match &place.who {
            LogOwner::Own => Some(Arc::clone(&place.current.shared)),
            LogOwner::Between(_) | LogOwner::Away(_) | LogOwner::Gone(_) => None,
        }
    }

    pub(super) fn healthy(&self) -> bool {
        let place = locked(&self.place);
        match &place.who {
            LogOwner::Own => place.current.shared.healthy(),
            LogOwner::Between(_) => true,
            LogOwner::Away(remote) => remote.healthy(),
            LogOwner::Gone(_) => false,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        let place = locked(&self.place);
        match &place.who {
            LogOwner::Own => place.current.shared.waiting(),
            LogOwner::Between(queue) => place.current.shared.waiting() + queue.len(),
            LogOwner::Away(_) | LogOwner::Gone(_) => 0,
        }
    }

    /// How the log is, or was when this process wrote it last.
    pub(super) fn state(&self) -> LogState {
        let place = locked(&self.place);
        let state = place.current.shared.state();
        match &place.who {
            LogOwner::Between(_) => {
                LogState { short: place.short.clone().or(state.short.clone()), ..state }
            }
            LogOwner::Own | LogOwner::Away(_) => state,
            LogOwner::Gone(fault) => LogState { failed: Some(fault.clone()), ..state },
        }
    }

    pub(super) fn observe(&self, observer: SyncObserver) {
        self.hear(|ears| ears.observer.get_or_insert(observer));
    }

    pub(super) fn on_failure(&self, tell: FailureListener) {
        self.hear(|ears| ears.failure.get_or_insert(tell));
    }

    pub(super) fn on_control(&self, tell: RecordListener) {
        self.hear(|ears| ears.listener.get_or_insert(tell));
    }

    fn hear<T>(&self, add: impl FnOnce(&mut LogListeners) -> &mut T) {
        let mut ears = locked(&self.ears);
        let _ = add(&mut ears);
        if let Some(shared) = self.own() {
            // Who hears already stays.
            ears.attend(&shared);
        }
    }

    /// Gives an event to the process that writes the log.
    pub(super) fn give(&self, mut waiting: QueuedEvent) {
        loop {
            let mut place = locked(&self.place);
            if let Some(fault) = place.short.clone()
                && waiting.event.is_new_work()
            {
                drop(place);
                return (waiting.then)(Err(LogFault::of_step(fault)));
            }
            let shared = match &mut place.who {
                LogOwner::Own => Arc::clone(&place.current.shared),
                LogOwner::Between(queue)
                    if queue.len() < QUEUE_MAX || waiting.event.is_reserved() =>
                {
                    return queue.push_back(waiting);
                }
                LogOwner::Between(_) => {
                    drop(place);
                    return (waiting.then)(Err(LogFault::Busy));
                }
                LogOwner::Away(remote) => {
                    let remote = Arc::clone(remote);
                    drop(place);
                    return remote.append(waiting.event, waiting.then);
                }
                LogOwner::Gone(fault) => {
                    let fault = fault.clone();
                    drop(place);
                    return (waiting.then)(Err(fault));
                }
            };
            // Nothing is called under the lock: who is told may come back with another event.
            drop(place);
            let Err(rejected) = shared.enqueue(waiting) else { return };
            let is_current = || self.own().is_some_and(|own| Arc::ptr_eq(&own, &shared));
            if !matches!(rejected.fault, LogFault::Closed) || is_current() {
                return rejected.tell();
            }
            // It was closed between the two, for the next epoch or for another process.
            waiting = rejected.waiting;
        }
    }

    /// Lets what comes wait from now on, and ends the epoch: all that came before is sealed and under a checkpoint. With an error
    /// nothing has changed, but that the log has failed where it fails now. Who calls this holds `turn`.
    pub(super) fn stop(&self) -> Result<Current, LogFault> {
        let current = {
            let mut place = locked(&self.place);
            match &place.who {
                LogOwner::Own => {}
                LogOwner::Between(_) => return Err(LogFault::Closed),
                LogOwner::Away(remote) => return Err(LogFault::Elsewhere(remote.process())),
                LogOwner::Gone(fault) => return Err(fault.clone()),
            }
            if !place.current.shared.healthy() {
                return Err(place.current.shared.state().failed.unwrap_or(LogFault::Closed));
            }
            place.who = LogOwner::Between(VecDeque::new());
            place.current.clone()
        };
        let ended = current.end();
        let fault = current.shared.state().failed.or_else(|| (!ended).then_some(LogFault::Hung));
        let Some(fault) = fault else { return Ok(current) };
        // As it was: who asks hears that it has failed.
        current.shared.fail(fault.clone());
        let left = std::mem::replace(&mut locked(&self.place).who, LogOwner::Own);
        tell(left, &fault);
        Err(fault)
    }

    /// Goes on with an epoch that was opened behind [`SharedLog::stop`], with what waits first.
    pub(super) fn go_on(&self, begun: Begun) {
        *locked(&self.lock) = Some(begun.lock);
        let shared = Arc::clone(&begun.current.shared);
        self.release(Some(begun.current), LogOwner::Own, |waiting| {
            // It does not close: who closes it waits for this turn.
            if let Err(rejected) = shared.enqueue(waiting) {
                rejected.tell();
            }
        });
    }

    /// Lets `who` write from now on, once all that has waited is given to it, in its order.
    fn release(&self, current: Option<Current>, who: LogOwner, give: impl Fn(QueuedEvent)) {
        loop {
            let mut place = locked(&self.place);
            let held = match &mut place.who {
                LogOwner::Between(queue) => std::mem::take(queue),
                LogOwner::Own | LogOwner::Away(_) | LogOwner::Gone(_) => VecDeque::new(),
            };
            if held.is_empty() {
                place.who = who;
                place.short = None;
                if let Some(current) = current {
                    place.current = current;
                }
                return;
            }
            // Nothing is called under the lock.
            drop(place);
            held.into_iter().for_each(&give);
        }
    }

    /// Opens the log again, as often as something that this needs is short. New work is refused meanwhile, everything else waits.
    pub(super) fn open_again(
        &self,
        settings: &LogSettings,
        carried: impl Fn() -> Result<Carried, LogFault>,
    ) -> Result<Begun, LogFault> {
        let fall_short = |fault: &durable::DiskFault, since: Duration| {
            let left = {
                let mut place = locked(&self.place);
                place.short = Some(fault.clone());
                let LogOwner::Between(queue) = &mut place.who else { return };
                let goes = |waiting: &QueuedEvent| {
                    waiting.event.is_new_work()
                        || (since >= COMMANDS_WAIT && !waiting.event.is_reserved())
                };
                let (go, stay) = std::mem::take(queue).into_iter().partition(goes);
                *queue = stay;
                go
            };
            let fault = LogFault::of_step(fault.clone());
            tell(LogOwner::Between(left), &fault);
        };
        let closes = || self.closes.load(Ordering::SeqCst);
        until_enough(&*self.clock, || self.open(settings, carried()?), fall_short, closes)
    }

    /// The log cannot be opened again: nobody writes it any more.
    pub(super) fn gone(&self, fault: &LogFault) {
        tracing::error!(%fault, "the audit log could not be opened again: nothing can be recorded any more");
        let left = std::mem::replace(&mut locked(&self.place).who, LogOwner::Gone(fault.clone()));
        tell(left, fault);
        let failure = locked(&self.ears).failure.clone();
        if let Some(mourn) = failure {
            mourn();
        }
    }

    pub(super) fn closes_soon(&self) {
        self.closes.store(true, Ordering::SeqCst);
    }

    pub(super) fn pause(&self) -> Result<(), LogFault> {
        let _turn = locked(&self.turn);
        self.stop().map(|_| ())
    }

    /// A copy of the lock's descriptor.
    pub(super) fn lock(&self) -> Result<durable::Lock, LogFault> {
        let lock = locked(&self.lock);
        Ok(lock.as_ref().ok_or(LogFault::Closed)?.duplicate()?)
    }

    /// The lock itself.
    fn take_lock(&self) -> Option<durable::Lock> {
        locked(&self.lock).take()
    }

    pub(super) fn resume(&self) -> Result<Vec<Record>, LogFault> {
        let _turn = locked(&self.turn);
        let since = {
            let place = locked(&self.place);
            match &place.who {
                LogOwner::Between(_) => place.current.shared.state().at,
                LogOwner::Own | LogOwner::Away(_) | LogOwner::Gone(_) => {
                    return Err(LogFault::Closed);
                }
            }
        };
        let settings = self.settings.clone().going_on();
        let carried = || Ok(Carried { lock: Some(self.lock()?), vault: None });
        let mut begun =
            self.open_again(&settings, carried).inspect_err(|fault| self.gone(fault))?;
        // That record's own millisecond included: it may be the other process's.
        let records = std::mem::take(&mut begun.recovered.records);
        self.go_on(begun);
        Ok(records.into_iter().filter(|record| record.at >= since).collect())
    }

    pub(super) fn leave(&self, remote: Arc<dyn Remote>) {
        let _turn = locked(&self.turn);
        drop(self.take_lock());
        let to = Arc::clone(&remote);
        self.release(None, LogOwner::Away(remote), move |waiting| {
            to.append(waiting.event, waiting.then)
        });
    }

    pub(super) fn close(&self) -> Result<(), LogFault> {
        let _turn = locked(&self.turn);
        let current = {
            let place = locked(&self.place);
            match &place.who {
                LogOwner::Own => place.current.clone(),
                // Its lock is another process's, or it is held beyond a failure.
                LogOwner::Between(_) | LogOwner::Away(_) => return Ok(()),
                LogOwner::Gone(fault) => return Err(fault.clone()),
            }
        };
        let ended = current.end();
        let lock = self.take_lock();
        if !ended {
            // A write may still be on its way, so the lock stays until the process ends.
            std::mem::forget(lock);
        }
        current.shared.state().failed.map_or(Ok(()), Err)
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        // A failure was logged when it happened.
        let _ = self.close();
    }
}

/// Everybody who waited hears `fault`.
fn tell(left: LogOwner, fault: &LogFault) {
    if let LogOwner::Between(queue) = left {
        queue.into_iter().for_each(|waiting| (waiting.then)(Err(fault.clone())));
    }
}

fn spawn(
    name: &str,
    dir: &Path,
    run: impl FnOnce() + Send + 'static,
) -> Result<ThreadId, LogFault> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    Ok(thread.map_err(durable::DiskFault::of("start a thread for", dir))?.thread().id())
}
