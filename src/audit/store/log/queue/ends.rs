//! Guards that record the end of a log's threads.

use std::thread;

use super::SharedQueue;
use crate::audit::store::log::LogFault;

/// Records the end of the checkpointer's thread, including a panic.
pub(in crate::audit::store::log) struct CheckpointerEnd<'a>(
    pub(in crate::audit::store::log) &'a SharedQueue,
);

impl Drop for CheckpointerEnd<'_> {
    fn drop(&mut self) {
        // A panic counts as a failure of the log: the thread would never cover the rest.
        if thread::panicking() {
            self.0.fail(LogFault::Stopped);
        }
        self.0.lock().checkpointer_ended = true;
        self.0.over.notify_all();
    }
}

/// Records the end of the writer's thread, including a panic.
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
        // The checkpointer waits on `checkpoint_due`. It must notice the end, to cover the last
        // records.
        self.0.over.notify_all();
        self.0.checkpoint_due.notify_all();
    }
}
