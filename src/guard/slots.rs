//! The slots at upstreams: taken at once, or waited for in turn (see
//! [`queue`](crate::guard::queue)).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::guard::queue::{Holder, Joined, Queue, Ticket};
use crate::guard::table::Upstream;
use crate::lock::locked;
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};

/// The Retry-After for a caller that found an upstream full.
const LATER: Duration = Duration::from_secs(1);

/// The slots of every upstream, by name. They survive a reload of the config.
pub struct Slots {
    upstreams: DashMap<Arc<str>, Arc<SharedSlots>>,
    metrics: Arc<Metrics>,
}

/// The slots at one upstream, shared by everything that holds or waits for one.
struct SharedSlots {
    name: Arc<str>,
    state: Mutex<SlotsState>,
    metrics: Arc<Metrics>,
}

/// The state under the lock.
#[derive(Default)]
struct SlotsState {
    queue: Queue,
    /// The number of slots, as the config said at the last request.
    places: u64,
    /// The next ticket.
    tickets: Ticket,
    /// The waiting requests. Their order is in `queue`.
    waiting: HashMap<Ticket, Waiter>,
}

/// A waiting request.
struct Waiter {
    holder: Holder,
    /// Sends the request its slot. Dropped where another request replaces it in the queue.
    tell: oneshot::Sender<Slot>,
}

/// A slot at an upstream, returned when dropped.
pub struct Slot {
    /// `None` once the slot has been returned.
    taken: Option<(Arc<SharedSlots>, Holder)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((shared, holder)) = self.taken.take() {
            let mut state = shared.lock();
            state.queue.release(&holder);
            // The next waiting request gets the slot under the same lock, so that no newcomer takes
            // it first.
            shared.serve(&mut state);
        }
    }
}

/// A request in the queue. It leaves the queue when dropped.
struct Waiting {
    shared: Arc<SharedSlots>,
    ticket: Ticket,
    place: oneshot::Receiver<Slot>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        // A request that already got its slot is not in the map: the slot in `place` is then
        // dropped with this value.
        if state.waiting.remove(&self.ticket).is_some() {
            state.queue.leave(self.ticket);
            self.shared.report(&state);
        }
    }
}

impl SharedSlots {
    /// The state of these slots, locked.
    fn lock(&self) -> MutexGuard<'_, SlotsState> {
        // The state is used even after a panic under the lock. Otherwise one panic would stop every
        // later request at this upstream.
        locked(&self.state)
    }

    /// The slot of a holder, which the queue has granted before.
    fn place(self: &Arc<Self>, holder: Holder) -> Slot {
        Slot { taken: Some((Arc::clone(self), holder)) }
    }

    /// Gives free slots to the requests that are next.
    fn serve(self: &Arc<Self>, state: &mut SlotsState) {
        while let Some(ticket) = state.queue.next(state.places) {
            // The queue and the map may differ for a moment: a slot without a waiting request goes
            // to the next one.
            let Some(Waiter { holder, tell }) = state.waiting.remove(&ticket) else { continue };
            if let Err(mut refused) = tell.send(self.place(holder)) {
                // The waiting request has left. The slot is released here: its `drop` would lock
                // the mutex again, and deadlock.
                if let Some((_, holder)) = refused.taken.take() {
                    state.queue.release(&holder);
                }
            }
        }
        self.report(state);
    }

    /// Updates the metrics of waiting requests and slots in use.
    fn report(&self, state: &SlotsState) {
        self.metrics.waits.waiting(&self.name, state.queue.waiting());
        self.metrics.waits.held(&self.name, state.queue.held());
    }
}

impl Slots {
    /// Slots at no upstream yet. Each upstream's slots are free at first.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { upstreams: DashMap::default(), metrics }
    }

    /// The shared slots of the upstream of that name; made at first use.
    fn shared(&self, upstream: &Arc<str>) -> Arc<SharedSlots> {
        // The common case takes only a read lock on the shard.
        if let Some(known) = self.upstreams.get(upstream) {
            return Arc::clone(&known);
        }
        // Two requests may come here at once: `entry` keeps the first value for both.
        let known = self.upstreams.entry(Arc::clone(upstream)).or_insert_with(|| {
            let (name, metrics) = (Arc::clone(upstream), Arc::clone(&self.metrics));
            Arc::new(SharedSlots { name, state: Mutex::default(), metrics })
        });
        Arc::clone(&known)
    }

    /// How many slots each holder has at each upstream.
    #[must_use]
    pub fn held(&self) -> Vec<(Arc<str>, Holder, u64)> {
        let mut held = Vec::new();
        for upstream in &self.upstreams {
            let state = upstream.lock();
            for (holder, count) in state.queue.holders() {
                held.push((Arc::clone(upstream.key()), holder, count));
            }
        }
        held
    }

    /// A slot that another process has taken at the upstream of that name. It counts here too.
    #[must_use]
    pub fn taken_elsewhere(&self, upstream: &Arc<str>, holder: Holder) -> Slot {
        let shared = self.shared(upstream);
        let mut state = shared.lock();
        state.queue.hold(&holder);
        shared.report(&state);
        // Unlocked before the slot is made: a slot that is dropped would lock again.
        drop(state);
        shared.place(holder)
    }

    /// Takes a slot at `upstream` at once, where one is free and no request waits for it.
    #[must_use]
    pub fn take(&self, upstream: &Upstream, holder: &Holder) -> Option<Slot> {
        let shared = self.shared(&upstream.name);
        let mut state = shared.lock();
        state.places = places(upstream);
        // A reload may have added slots. Waiting requests get them first.
        shared.serve(&mut state);
        let places = state.places;
        let taken = state.queue.take(holder, places);
        if taken {
            shared.report(&state);
        }
        drop(state);
        taken.then(|| shared.place(holder.clone()))
    }

    /// Waits for a slot at `upstream`, in turn.
    ///
    /// # Errors
    /// `upstream-full` where the queue is full or the waiting time (`queue_time`) is over;
    /// `rate-is-zero` where the upstream has zero slots.
    pub async fn wait(&self, upstream: &Upstream, holder: &Holder) -> Result<Slot, Refusal> {
        // Checked first: with zero slots, every wait would end in a timeout.
        if places(upstream) == 0 {
            return Err(no_places());
        }
        if let Some(place) = self.take(upstream, holder) {
            return Ok(place);
        }
        let began = tokio::time::Instant::now();
        let Some(mut waiting) = self.join(upstream, holder) else {
            return Err(full(upstream, "its queue is full"));
        };
        let waited = tokio::time::timeout(upstream.wait.time, &mut waiting.place).await;
        self.metrics.waits.waited(&upstream.name, began.elapsed().as_secs_f64());
        match waited {
            Ok(Ok(place)) => Ok(place),
            // The sender was dropped: another request replaced this one in the queue.
            Ok(Err(_)) => {
                Err(full(upstream, "its queue is full, and agents that wait less often go first"))
            }
            Err(_) => Err(full(upstream, "no place became free in time (queue_time)")),
        }
    }

    /// Joins the queue; `None` where it is full.
    fn join(&self, upstream: &Upstream, holder: &Holder) -> Option<Waiting> {
        let shared = self.shared(&upstream.name);
        let mut state = shared.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        match state.queue.join(ticket, holder, upstream.wait.length) {
            Joined::Full => return None,
            Joined::Waits => {}
            // Dropping the waiter drops its sender, which wakes the replaced request with an error.
            Joined::Instead(other) => drop(state.waiting.remove(&other)),
        }
        let (tell, place) = oneshot::channel();
        state.waiting.insert(ticket, Waiter { holder: holder.clone(), tell });
        // A slot may have become free since the first attempt.
        // The receiver may hold a slot already. It waits in the channel until it is read.
        shared.serve(&mut state);
        drop(state);
        Some(Waiting { shared, ticket, place })
    }
}

/// The number of slots at an upstream, as its config says.
fn places(upstream: &Upstream) -> u64 {
    upstream.caps.in_flight.unwrap_or(u64::MAX)
}

/// The refusal where the limit is zero slots.
pub(super) fn no_places() -> Refusal {
    Refusal::new(Code::RateIsZero)
        .saying("The limit is zero requests in flight; no request passes.")
}

/// The refusal where all slots of an upstream are in use. `why` completes the sentence.
#[must_use]
pub fn full(upstream: &Upstream, why: &str) -> Refusal {
    let (name, places) = (&upstream.name, places(upstream));
    let says = format!(
        "The model's server {name} is full: its {places} requests in flight are all in use, and \
            {why}."
    );
    Refusal::new(Code::UpstreamFull)
        .saying(says)
        .because(format_args!("upstream {name}: {why}"))
        .after(LATER)
}
