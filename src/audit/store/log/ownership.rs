//! The owner of the log: this process, another process, or, for a moment, none.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::current::{Begun, Current};
use super::listeners::{FailureListener, LogListeners, RecordListener, SyncObserver};
pub use super::queue::Then;
use super::queue::{QueuedEvent, SharedQueue};
use super::recover::Carried;
use super::shortage::{COMMANDS_WAIT, until_enough};
use super::{LogFault, LogSettings, LogState, QUEUE_MAX, Recovered, opening};
use crate::audit::format::{event::Event, record::Record};
use crate::audit::store::locked::locked;
use crate::audit::store::vault::Vault;
use crate::clock::Clock;
use crate::durable::{self, Disk};

/// Another process that writes the log, and records the events of this one.
pub trait Remote: Send + Sync {
    /// Has `event` recorded, and calls `then` when it is durable or known to have failed.
    fn append(&self, event: Event, then: Then);

    /// Whether the process can be reached.
    fn healthy(&self) -> bool;

    /// Its process id.
    fn process(&self) -> u32;
}

/// The process that writes the log.
enum LogOwner {
    Own,
    /// None for now: the next epoch is being opened, or another process takes over. Events wait.
    Between(VecDeque<QueuedEvent>),
    Away(Arc<dyn Remote>),
    /// No process: the log cannot be opened again.
    Gone(LogFault),
}

struct Ownership {
    who: LogOwner,
    current: Current,
    /// The resource that is short, where the log cannot be opened again without it.
    short: Option<durable::DiskFault>,
}

/// The state that all handles share. It is dropped with the last handle. The threads own only
/// `SharedQueue`, so that they do not keep the log open.
pub(super) struct SharedLog {
    place: Mutex<Ownership>,
    /// Held during a change of the epoch, a pause, a new opening, and a close.
    pub(super) turn: Mutex<()>,
    vault: Arc<Mutex<Vault>>,
    /// Kept after a failure, so that no second writer takes a log that this one cannot write.
    lock: Mutex<Option<durable::Lock>>,
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    ears: Mutex<LogListeners>,
    /// Whether the process is about to end: then shortages are waited for only briefly.
    closes: AtomicBool,
}

impl SharedLog {
    /// Opens the log and starts its threads.
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
        // The requested epoch is begun. A later epoch needs a new request.
        let settings = LogSettings { begin: None, ..settings };
        let place =
            Mutex::new(Ownership { who: LogOwner::Own, current: current.clone(), short: None });
        let (turn, lock, ears) = (Mutex::default(), Mutex::new(Some(lock)), Mutex::default());
        let closes = AtomicBool::new(false);
        let open = Self { place, turn, vault, lock, settings, clock, disk, ears, closes };
        // If this fails, `open` is dropped, which closes the log again.
        current.append_first(first)?;
        Ok((open, recovered))
    }

    /// Opens the log again, and starts its threads.
    pub(super) fn open(&self, settings: &LogSettings, carried: Carried) -> Result<Begun, LogFault> {
        let is_new = carried.vault.is_none();
        let mut opened = opening::open(settings, &self.disk, self.clock.now(), carried)?;
        if is_new {
            // All handles use the keys that were just read: the other process may have added some.
            std::mem::swap(&mut *locked(&self.vault), &mut *locked(&opened.encryptor.vault));
            opened.encryptor.vault = Arc::clone(&self.vault);
        }
        let (begun, first) = Current::start(opened, &settings.dir, &self.clock)?;
        locked(&self.ears).attend(&begun.current.shared);
        if let Err(fault) = begun.current.append_first(first) {
            if !begun.current.end() {
                // A write may be in progress: no other process may write before this one ends.
                std::mem::forget(begun.lock);
            }
            return Err(fault);
        }
        Ok(begun)
    }

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

    /// The queue of the threads, where this process writes.
    pub(super) fn own(&self) -> Option<Arc<SharedQueue>> {
        let place = locked(&self.place);
        match &place.who {
            LogOwner::Own => Some(Arc::clone(&place.current.shared)),
            LogOwner::Between(_) | LogOwner::Away(_) | LogOwner::Gone(_) => None,
        }
    }

    /// Whether this process writes, with that queue.
    fn is_own(&self, shared: &Arc<SharedQueue>) -> bool {
        match self.own() {
            Some(own) => Arc::ptr_eq(&own, shared),
            None => false,
        }
    }

    /// Whether records can be made durable, here or in the other process.
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

    /// The status of the log, or its status when this process wrote it last.
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

    /// Registers a listener, and attaches it to the current epoch.
    fn hear<T>(&self, add: impl FnOnce(&mut LogListeners) -> &mut T) {
        let mut ears = locked(&self.ears);
        let _ = add(&mut ears);
        if let Some(shared) = self.own() {
            // An existing listener stays, because each is set once.
            ears.attend(&shared);
        }
    }

    /// Passes an event to the process that writes the log.
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
                    // An outcome is accepted above the limit: its admission was counted already.
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
            // No callback runs under the lock: it may append another event and would then deadlock.
            drop(place);
            let Err(rejected) = shared.enqueue(waiting) else { return };
            if !matches!(rejected.fault, LogFault::Closed) || self.is_own(&shared) {
                return rejected.tell();
            }
            // The epoch was closed in between. The event is passed to the new owner.
            waiting = rejected.waiting;
        }
    }

    /// Ends the epoch: earlier events get a checkpoint, later ones wait. The caller holds `turn`.
    /// An error leaves the state as before; a fault during this call fails the log.
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
                let Some(fault) = place.current.shared.failed() else {
                    return Err(LogFault::Closed);
                };
                return Err(fault);
            }
            place.who = LogOwner::Between(VecDeque::new());
            place.current.clone()
        };
        let ended = current.end();
        let fault = match current.shared.failed() {
            Some(fault) => fault,
            None if ended => return Ok(current),
            None => LogFault::Hung,
        };
        // The owner is restored, and the log counts as failed. Waiting events get the fault.
        current.shared.fail(fault.clone());
        let left = std::mem::replace(&mut locked(&self.place).who, LogOwner::Own);
        tell(left, &fault);
        Err(fault)
    }

    /// Continues with an epoch that was opened after [`SharedLog::stop`]: waiting events first.
    pub(super) fn go_on(&self, begun: Begun) {
        *locked(&self.lock) = Some(begun.lock);
        let shared = Arc::clone(&begun.current.shared);
        self.release(Some(begun.current), LogOwner::Own, |waiting| {
            // This epoch cannot close here, because a close needs `turn`, which the caller holds.
            if let Err(rejected) = shared.enqueue(waiting) {
                rejected.tell();
            }
        });
    }

    /// Makes `who` the owner, after all waiting events were passed to it in order.
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
            // No callback runs under the lock.
            drop(place);
            held.into_iter().for_each(&give);
        }
    }

    /// Opens the log again, and retries while a resource is short. Meanwhile new work is refused,
    /// and all other events wait; commands wait at most [`COMMANDS_WAIT`].
    pub(super) fn open_again(
        &self,
        settings: &LogSettings,
        carried: impl Fn() -> Result<Carried, LogFault>,
    ) -> Result<Begun, LogFault> {
        until_enough(
            &*self.clock,
            || self.open(settings, carried()?),
            |fault, since| self.falls_short(fault, since),
            || self.closes.load(Ordering::SeqCst),
        )
    }

    /// Stores a shortage that has lasted for `since`, and fails the held events that may not wait
    /// for its end.
    fn falls_short(&self, fault: &durable::DiskFault, since: Duration) {
        let left = {
            let mut place = locked(&self.place);
            place.short = Some(fault.clone());
            let LogOwner::Between(queue) = &mut place.who else { return };
            let (stay, go) = std::mem::take(queue)
                .into_iter()
                .partition(|waiting| waiting.waits(since < COMMANDS_WAIT));
            *queue = stay;
            go
        };
        tell(LogOwner::Between(left), &LogFault::of_step(fault.clone()));
    }

    /// The log cannot be opened again. No process writes it any more, and all waiting events fail.
    pub(super) fn gone(&self, fault: &LogFault) {
        tracing::error!(%fault, "the audit log could not be opened again: no event can be recorded \
            any more");
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

    /// Ends the epoch, so that another process can continue the log.
    pub(super) fn pause(&self) -> Result<(), LogFault> {
        let _turn = locked(&self.turn);
        self.stop()?;
        Ok(())
    }

    /// A copy of the lock's descriptor.
    pub(super) fn lock(&self) -> Result<durable::Lock, LogFault> {
        let held = locked(&self.lock);
        let Some(lock) = held.as_ref() else { return Err(LogFault::Closed) };
        Ok(lock.duplicate()?)
    }

    fn take_lock(&self) -> Option<durable::Lock> {
        locked(&self.lock).take()
    }

    /// Continues after [`SharedLog::pause`]. Returns the records that may be the other process's.
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
        let opened =
            self.open_again(&settings, || Ok(Carried { lock: Some(self.lock()?), vault: None }));
        let mut begun = match opened {
            Ok(begun) => begun,
            Err(fault) => {
                self.gone(&fault);
                return Err(fault);
            }
        };
        let mut records = std::mem::take(&mut begun.recovered.records);
        self.go_on(begun);
        // Inclusive: a record of the other process can have the same millisecond.
        records.retain(|record| record.at >= since);
        Ok(records)
    }

    pub(super) fn leave(&self, remote: Arc<dyn Remote>) {
        let _turn = locked(&self.turn);
        // The other process has its own copy of the lock's descriptor, so the lock stays taken.
        drop(self.take_lock());
        let to = Arc::clone(&remote);
        self.release(None, LogOwner::Away(remote), move |waiting| {
            to.append(waiting.event, waiting.then)
        });
    }

    /// Ends the epoch where this process writes it, and releases the lock.
    pub(super) fn close(&self) -> Result<(), LogFault> {
        let _turn = locked(&self.turn);
        let current = {
            let place = locked(&self.place);
            match &place.who {
                LogOwner::Own => place.current.clone(),
                // Another process has the lock, or it is kept after a failure.
                LogOwner::Between(_) | LogOwner::Away(_) => return Ok(()),
                LogOwner::Gone(fault) => return Err(fault.clone()),
            }
        };
        let ended = current.end();
        let lock = self.take_lock();
        if !ended {
            // A write may still be in progress, so the lock stays until the process ends.
            std::mem::forget(lock);
        }
        match current.shared.failed() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        // A failure was logged when it happened.
        let _ = self.close();
    }
}

/// Fails all waiting events with `fault`.
fn tell(left: LogOwner, fault: &LogFault) {
    if let LogOwner::Between(queue) = left {
        queue.into_iter().for_each(|waiting| (waiting.then)(Err(fault.clone())));
    }
}
