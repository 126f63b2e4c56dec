//! The next epoch of a log that is being written: the gateway goes on serving, and nothing that it records is lost.
//!
//! ```text
//! what comes is held → the epoch's queue written, all of it under a checkpoint → the next epoch opened, its first record durable
//!                    → what was held goes into that one, in its order
//! ```
//!
//! A crash leaves what a crash of a start leaves that begins an epoch: `log/succeed.rs` says how it is mended.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::queue::{Shared, Waiting};
use super::recover::{self, Carried};
use super::{Current, Log, LogFault, NewEpoch, Open, QUEUE_MAX, Settings, Shelf};

impl Log {
    /// Closes the epoch that is being written and begins the next, with new keys; gives its origin. Blocks for several syncs.
    ///
    /// # Errors
    /// When the next epoch cannot be begun. The log then goes on in the one that is open; if that is impossible too, it has
    /// failed.
    pub fn begin_epoch(&self, reason: String, by: Option<String>) -> Result<Arc<str>, LogFault> {
        let shelf = &self.0;
        let _turn = shelf.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut current = shelf.current();
            if !current.open.shared.healthy() {
                return Err(current.open.shared.state().failed.unwrap_or(LogFault::Closed));
            }
            current.held = Some(VecDeque::new());
            Arc::clone(&current.open)
        };
        old.shared.begin_turning();
        let begun = shelf.next(&old, NewEpoch { reason, by, after_loss: false });
        match begun {
            Ok((open, fault)) => {
                let origin = Arc::clone(&open.origin);
                shelf.release(Some(open));
                fault.map_or(Ok(origin), Err)
            }
            Err(fault) => {
                old.shared.turned_in_vain(fault.clone());
                shelf.release(None);
                Err(fault)
            }
        }
    }
}

impl Shelf {
    pub(super) fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing that can panic runs under the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.current().open.shared)
    }

    /// Lets those who asked for it hear of the syncs and of the failure of that epoch.
    pub(super) fn attend(&self, shared: &Shared) {
        if let Some(observer) = self.observer.get().map(Arc::clone) {
            shared.observe(Box::new(move |took, records| observer(took, records)));
        }
        if let Some(mourner) = self.mourner.get().map(Arc::clone) {
            shared.on_failure(Box::new(move || mourner()));
        }
    }

    /// Lets `waiting` wait for the epoch that is open, or for the next where that is being opened.
    pub(super) fn put(&self, mut waiting: Waiting) {
        loop {
            let shared = {
                let mut current = self.current();
                match &mut current.held {
                    Some(held) if held.len() < QUEUE_MAX || waiting.event.is_promised() => return held.push_back(waiting),
                    Some(_) => {
                        drop(current);
                        return (waiting.then)(Err(LogFault::Busy));
                    }
                    None => Arc::clone(&current.open.shared),
                }
            };
            match shared.enqueue(waiting) {
                None => return,
                // It began to close in between.
                Some(back) => waiting = back,
            }
        }
    }

    /// Waits until all of `old` is durable and under a checkpoint, and opens the epoch behind it; where that cannot be done,
    /// `old` again, and says why.
    fn next(&self, old: &Open, asked: NewEpoch) -> Result<(Arc<Open>, Option<LogFault>), LogFault> {
        if !old.shared.wait_for_writer() {
            return Err(LogFault::Hung);
        }
        if let Some(fault) = old.shared.state().failed {
            return Err(fault);
        }
        let asked = Settings { begin: Some(asked), ..self.settings.clone() };
        match self.open(&asked, Carried { lock: old.take_lock(), vault: Some(Arc::clone(&self.vault)) }) {
            Ok(open) => Ok((open, None)),
            Err(fault) => {
                tracing::error!(%fault, "the next epoch of the audit log could not be begun");
                let carried = Carried { lock: None, vault: Some(Arc::clone(&self.vault)) };
                Ok((self.open(&self.settings, carried)?, Some(fault)))
            }
        }
    }

    fn open(&self, settings: &Settings, carried: Carried) -> Result<Arc<Open>, LogFault> {
        let mut opened = recover::open(settings, &self.disk, self.clock.now(), carried)?;
        let first = std::mem::take(&mut opened.first);
        let open = Open::new(settings, &self.clock, opened)?;
        self.attend(&open.shared);
        open.seal_first(first)?;
        Ok(Arc::new(open))
    }

    /// Lets what was held go to `open`, or to the failed epoch, which says why.
    fn release(&self, open: Option<Arc<Open>>) {
        let shared = open.as_ref().map_or_else(|| self.shared(), |open| Arc::clone(&open.shared));
        loop {
            let mut current = self.current();
            let held = current.held.as_mut().map(std::mem::take).unwrap_or_default();
            if held.is_empty() {
                current.held = None;
                if let Some(open) = open {
                    let old = std::mem::replace(&mut current.open, open);
                    drop(current);
                    drop(old);
                }
                return;
            }
            drop(current);
            for waiting in held {
                // It does not close: who closes it waits for this turn.
                let back = shared.enqueue(waiting);
                debug_assert!(back.is_none(), "an epoch that has just begun does not turn");
            }
        }
    }
}
