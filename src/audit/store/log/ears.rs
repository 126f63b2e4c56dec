//! Who hears of what a log does, in every epoch that this process opens.

use std::sync::Arc;
use std::time::Duration;

use super::queue::Shared;
use crate::audit::format::record::Record;

/// Who hears how long a sync took, and how many records shared it.
pub(super) type Observer = Arc<dyn Fn(Duration, usize) + Send + Sync>;
/// Who hears that the log has failed.
pub(super) type Mourner = Arc<dyn Fn() + Send + Sync>;
/// Who hears of records that change the books.
pub(super) type Listener = Arc<dyn Fn(&Record) + Send + Sync>;

/// Who hears what.
#[derive(Clone, Default)]
pub(super) struct Ears {
    pub(super) observer: Option<Observer>,
    pub(super) mourner: Option<Mourner>,
    pub(super) listener: Option<Listener>,
}

impl Ears {
    /// Lets them hear of an epoch that was just opened.
    pub(super) fn attend(&self, shared: &Shared) {
        if let Some(observe) = self.observer.clone() {
            shared.observe(Box::new(move |took, count| observe(took, count)));
        }
        if let Some(tell) = self.mourner.clone() {
            shared.on_failure(Box::new(move || tell()));
        }
        if let Some(tell) = self.listener.clone() {
            shared.on_control(Box::new(move |record| tell(record)));
        }
    }
}
