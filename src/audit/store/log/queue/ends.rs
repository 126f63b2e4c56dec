//! The last words of a log's threads.

use std::thread;

use super::SharedQueue;
use crate::audit::store::log::LogFault;

/// The sealer's last word, however it ends.
pub(in crate::audit::store::log) struct CheckpointerEnd<'a>(
    pub(in crate::audit::store::log) &'a SharedQueue,
);

impl Drop for CheckpointerEnd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(LogFault::Stopped);
        }
        self.0.lock().checkpointer_ended = true;
        self.0.over.notify_all();
    }
}

/// The writer's last word, however it ends.
pub(in crate::audit::store::log) struct WriterEnd<'a>(
    pub(in crate::audit::store::log) &'a SharedQueue,
);

impl Drop for WriterEnd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(LogFault::Stopped);
        }
        let mut inner = self.0.lock();
        inner.ended = true;
        inner.writing_since = None;
        drop(inner);
        self.0.over.notify_all();
        self.0.checkpoint_due.notify_all();
    }
}
