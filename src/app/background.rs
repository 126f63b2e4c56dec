//! What goes on beside the requests of a process: some of it until the end, some of it only while the process serves.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::notify::Notifier;
use crate::proxy::entrance::Entrance;

/// The tasks beside the requests.
#[derive(Default)]
pub(super) struct Background {
    until_the_end: Vec<AbortHandle>,
    while_it_serves: Vec<AbortHandle>,
}

impl Background {
    /// A task that goes on until the process ends.
    pub(super) fn until_the_end(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.until_the_end.push(tokio::spawn(task).abort_handle());
    }

    /// A task that ends also when another process takes over.
    pub(super) fn while_it_serves(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.while_it_serves.push(tokio::spawn(task).abort_handle());
    }

    /// Ends what is for a process that serves once this one does not any more, and tells the service manager of a stop.
    pub(super) fn watch(&mut self, entrance: &Arc<Entrance>, notifier: &Arc<Notifier>, mut stop: watch::Receiver<bool>) {
        let (entrance, notifier) = (Arc::clone(entrance), Arc::clone(notifier));
        let serving = self.while_it_serves.clone();
        self.until_the_end(async move {
            tokio::select! {
                () = entrance.left() => serving.iter().for_each(AbortHandle::abort),
                stopped = stop.wait_for(|stop| *stop) => if stopped.is_ok() {
                    notifier.stopping();
                },
            }
        });
    }

    /// Ends all of them.
    pub(super) fn end(self) {
        self.until_the_end.iter().chain(&self.while_it_serves).for_each(AbortHandle::abort);
    }
}
