//! Tasks that run in parallel with the requests. Some run until the process ends, others only while
//! it serves.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::notify::Notifier;
use crate::proxy::entrance::Entrance;

/// The abort handles of the running background tasks.
#[derive(Default)]
pub(super) struct Background {
    /// Tasks that also run while the process drains.
    until_the_end: Vec<AbortHandle>,
    /// Tasks that the successor runs itself after a take-over.
    while_it_serves: Vec<AbortHandle>,
}

impl Background {
    /// Starts a task that runs until the process ends.
    pub(super) fn until_the_end(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.until_the_end.push(tokio::spawn(task).abort_handle());
    }

    /// Starts a task that also ends when another process takes over.
    pub(super) fn while_it_serves(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.while_it_serves.push(tokio::spawn(task).abort_handle());
    }

    /// Ends the tasks of a serving process after a take-over, and reports a stop to the service
    /// manager.
    pub(super) fn watch(
        &mut self,
        entrance: &Arc<Entrance>,
        notifier: &Arc<Notifier>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (entrance, notifier) = (Arc::clone(entrance), Arc::clone(notifier));
        let serving = self.while_it_serves.clone();
        self.until_the_end(async move {
            tokio::select! {
                // Both processes would otherwise reload on SIGHUP and send signs of life.
                () = entrance.left() => serving.iter().for_each(AbortHandle::abort),
                stopped = stop.wait_for(|stop| *stop) => if stopped.is_ok() {
                    notifier.stopping();
                },
            }
        });
    }

    /// Ends all tasks.
    pub(super) fn end(self) {
        self.until_the_end.iter().chain(&self.while_it_serves).for_each(AbortHandle::abort);
    }
}
