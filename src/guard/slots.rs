//! The places at upstreams: taken at once, or waited for in turn (see [`queue`](crate::guard::queue)).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::guard::queue::{Holder, Joined, Queue, Ticket};
use crate::guard::table::Upstream;
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};

/// When a caller who found an upstream full may come back.
const LATER: Duration = Duration::from_secs(1);

/// The places at all upstreams, by name. They outlive a reload.
pub struct Slots {
    upstreams: DashMap<Arc<str>, Arc<SharedSlots>>,
    metrics: Arc<Metrics>,
}

struct SharedSlots {
    name: Arc<str>,
    state: Mutex<SlotsState>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct SlotsState {
    queue: Queue,
    /// As many as the config said last.
    places: u64,
    tickets: Ticket,
    waiting: HashMap<Ticket, Waiter>,
}

struct Waiter {
    holder: Holder,
    /// Is told of its place; dropped where it has to give way.
    tell: oneshot::Sender<Slot>,
}

/// A place at an upstream; given back when dropped.
pub struct Slot {
    taken: Option<(Arc<SharedSlots>, Holder)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((shared, holder)) = self.taken.take() {
            let mut state = shared.lock();
            state.queue.release(&holder);
            shared.serve(&mut state);
        }
    }
}

/// A request in the queue; it leaves when dropped.
struct Waiting {
    shared: Arc<SharedSlots>,
    ticket: Ticket,
    place: oneshot::Receiver<Slot>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.waiting.remove(&self.ticket).is_some() {
            state.queue.leave(self.ticket);
            self.shared.report(&state);
        }
    }
}

impl SharedSlots {
    fn lock(&self) -> MutexGuard<'_, SlotsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(self: &Arc<Self>, holder: Holder) -> Slot {
        Slot { taken: Some((Arc::clone(self), holder)) }
    }

    /// Gives free places to those who are next.
    fn serve(self: &Arc<Self>, state: &mut SlotsState) {
        while let Some(ticket) = state.queue.next(state.places) {
            let Some(Waiter { holder, tell }) = state.waiting.remove(&ticket) else { continue };
            if let Err(mut refused) = tell.send(self.place(holder)) {
                // Its caller has left. Not by `drop`, which would lock what is locked.
                if let Some((_, holder)) = refused.taken.take() {
                    state.queue.release(&holder);
                }
            }
        }
        self.report(state);
    }

    fn report(&self, state: &SlotsState) {
        self.metrics.waits.waiting(&self.name, state.queue.waiting());
        self.metrics.waits.held(&self.name, state.queue.held());
    }
}

impl Slots {
    /// All places are free.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { upstreams: DashMap::default(), metrics }
    }

    fn shared(&self, upstream: &Arc<str>) -> Arc<SharedSlots> {
        if let Some(known) = self.upstreams.get(upstream) {
            return Arc::clone(&known);
        }
        let metrics = Arc::clone(&self.metrics);
        let fresh = || {
            Arc::new(SharedSlots { name: Arc::clone(upstream), state: Mutex::default(), metrics })
        };
        Arc::clone(&self.upstreams.entry(Arc::clone(upstream)).or_insert_with(fresh))
    }

    /// How many places each holder has at each upstream.
    #[must_use]
    pub fn held(&self) -> Vec<(Arc<str>, Holder, u64)> {
        let mut held = Vec::new();
        for upstream in &self.upstreams {
            let state = upstream.lock();
            held.extend(
                state
                    .queue
                    .holders()
                    .map(|(holder, count)| (Arc::clone(upstream.key()), holder, count)),
            );
        }
        held
    }

    /// A place that another process has taken at the upstream of that name: it counts here too.
    #[must_use]
    pub fn taken_elsewhere(&self, upstream: &Arc<str>, holder: Holder) -> Slot {
        let shared = self.shared(upstream);
        let mut state = shared.lock();
        state.queue.hold(&holder);
        shared.report(&state);
        drop(state);
        shared.place(holder)
    }

    /// Takes a place at `upstream` at once, where one is free and nobody waits for it.
    #[must_use]
    pub fn take(&self, upstream: &Upstream, holder: &Holder) -> Option<Slot> {
        let shared = self.shared(&upstream.name);
        let mut state = shared.lock();
        state.places = places(upstream);
        // Where a reload has made more places than there were, those who wait have them first.
        shared.serve(&mut state);
        let places = state.places;
        let taken = state.queue.take(holder, places);
        if taken {
            shared.report(&state);
        }
        drop(state);
        taken.then(|| shared.place(holder.clone()))
    }

    /// Waits for a place at `upstream`, in turn.
    ///
    /// # Errors
    /// `upstream-full` where the queue is full or the wait is over; `rate-is-zero` where there are no places at all.
    pub async fn wait(&self, upstream: &Upstream, holder: &Holder) -> Result<Slot, Refusal> {
        if places(upstream) == 0 {
            return Err(no_places());
        }
        if let Some(place) = self.take(upstream, holder) {
            return Ok(place);
        }
        let began = tokio::time::Instant::now();
        let mut waiting =
            self.join(upstream, holder).ok_or_else(|| full(upstream, "its queue is full"))?;
        let waited = tokio::time::timeout(upstream.wait.time, &mut waiting.place).await;
        self.metrics.waits.waited(&upstream.name, began.elapsed().as_secs_f64());
        match waited {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => {
                Err(full(upstream, "its queue is full, and agents that wait less often go first"))
            }
            Err(_) => Err(full(upstream, "no place became free in time (queue_time)")),
        }
    }

    fn join(&self, upstream: &Upstream, holder: &Holder) -> Option<Waiting> {
        let shared = self.shared(&upstream.name);
        let mut state = shared.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        match state.queue.join(ticket, holder, upstream.wait.length) {
            Joined::Full => return None,
            Joined::Waits => {}
            Joined::Instead(other) => drop(state.waiting.remove(&other)),
        }
        let (tell, place) = oneshot::channel();
        state.waiting.insert(ticket, Waiter { holder: holder.clone(), tell });
        // A place may have become free since it was asked for.
        shared.serve(&mut state);
        drop(state);
        Some(Waiting { shared, ticket, place })
    }
}

fn places(upstream: &Upstream) -> u64 {
    upstream.caps.in_flight.unwrap_or(u64::MAX)
}

/// The refusal where there are no places at all.
pub(super) fn no_places() -> Refusal {
    Refusal::new(Code::RateIsZero)
        .saying("A limit of zero requests in flight stands; no request passes.")
}

/// The refusal where an upstream is full.
#[must_use]
pub fn full(upstream: &Upstream, why: &str) -> Refusal {
    let (name, places) = (&upstream.name, places(upstream));
    let says = format!(
        "The model's server {name} is full: its {places} requests in flight are all in use, and {why}."
    );
    Refusal::new(Code::UpstreamFull)
        .saying(says)
        .because(format_args!("upstream {name}: {why}"))
        .after(LATER)
}
