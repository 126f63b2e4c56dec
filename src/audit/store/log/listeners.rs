//! Who hears of what a log does, in every epoch that this process opens.

use std::sync::Arc;
use std::time::Duration;

use super::queue::SharedQueue;
use crate::audit::format::record::Record;

/// Who hears how long a sync took, and how many records shared it.
pub(super) type SyncObserver = Arc<dyn Fn(Duration, usize) + Send + Sync>;
/// Who hears that the log has failed.
pub(super) type FailureListener = Arc<dyn Fn() + Send + Sync>;
/// Who hears of records that change the books.
pub(super) type RecordListener = Arc<dyn Fn(&Record) + Send + Sync>;

/// Who hears what.
#[derive(Clone, Default)]
pub(super) struct LogListeners {
    pub(super) observer: Option<SyncObserver>,
    pub(super) failure: Option<FailureListener>,
    pub(super) listener: Option<RecordListener>,
}

impl LogListeners {
    /// Lets them hear of an epoch that was just opened.
    pub(super) fn attend(&self, shared: &SharedQueue) {
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
