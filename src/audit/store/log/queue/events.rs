//! Events that wait in the queue, and their callbacks.

use std::collections::VecDeque;

use crate::audit::format::event::Event;
use crate::audit::store::log::{Appended, LogFault};

/// The callback that gets the result of an event.
pub type Then = Box<dyn FnOnce(Result<Appended, LogFault>) + Send>;

/// An event that waits for a batch, and the operator who caused it.
pub(in crate::audit::store::log) struct QueuedEvent {
    pub(in crate::audit::store::log) event: Event,
    pub(in crate::audit::store::log) by: Option<String>,
    pub(in crate::audit::store::log) then: Then,
}

impl QueuedEvent {
    /// Whether the event waits for the end of a shortage. An outcome does; a command does if
    /// `commands_wait`; new work does not.
    pub(in crate::audit::store::log) fn waits(&self, commands_wait: bool) -> bool {
        self.event.is_reserved() || (commands_wait && !self.event.is_new_work())
    }
}

/// An event that the queue does not accept.
pub(in crate::audit::store::log) struct Rejected {
    pub(in crate::audit::store::log) waiting: QueuedEvent,
    pub(in crate::audit::store::log) fault: LogFault,
}

impl Rejected {
    /// Fails the event with the reason of the rejection.
    pub(in crate::audit::store::log) fn tell(self) {
        (self.waiting.then)(Err(self.fault));
    }
}

/// Fails the events of a batch, and then those that wait for one, in the log's order.
pub(super) fn tell_all(
    batch: Vec<(Then, Appended)>,
    queue: VecDeque<QueuedEvent>,
    fault: &LogFault,
) {
    for (then, _) in batch {
        then(Err(fault.clone()));
    }
    for waiting in queue {
        (waiting.then)(Err(fault.clone()));
    }
}
