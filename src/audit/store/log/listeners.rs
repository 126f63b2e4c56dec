//! The listeners of a log, which are attached to every epoch that this process opens.

use std::sync::Arc;
use std::time::Duration;

use super::queue::SharedQueue;
use crate::audit::format::record::Record;

/// Gets the duration of a sync, and the number of its records.
pub(super) type SyncObserver = Arc<dyn Fn(Duration, usize) + Send + Sync>;
/// Is called when the log has failed.
pub(super) type FailureListener = Arc<dyn Fn() + Send + Sync>;
/// Gets the records that change the state.
pub(super) type RecordListener = Arc<dyn Fn(&Record) + Send + Sync>;

/// All listeners of a log; each is optional.
#[derive(Clone, Default)]
pub(super) struct LogListeners {
    pub(super) observer: Option<SyncObserver>,
    pub(super) failure: Option<FailureListener>,
    pub(super) listener: Option<RecordListener>,
}

impl LogListeners {
    /// Attaches the listeners to an epoch that was just opened.
    pub(super) fn attend(&self, shared: &SharedQueue) {
        // Each queue keeps its first listener, so a second call changes only what is still empty.
        if let Some(observe) = self.observer.clone() {
            shared.observe(Box::new(move |took, count| observe(took, count)));
        }
        if let Some(tell) = self.failure.clone() {
            shared.on_failure(Box::new(move || tell()));
        }
        if let Some(tell) = self.listener.clone() {
            shared.on_control(Box::new(move |record| tell(record)));
        }
    }
}
