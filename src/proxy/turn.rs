//! The wait for a slot at an upstream. It comes after the rules and before the record. A waiting
//! request holds only its agent's slot and its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::Gateway;
use crate::guard::candidates::Turn;
use crate::guard::cap::Capped;
use crate::guard::queue::Holder;
use crate::guard::table::Upstream;
use crate::guard::understand::RequestKind;
use crate::proxy::exchange::Exchange;
use crate::refusal::Refusal;

impl Gateway {
    /// Takes a slot at the first upstream of the route that is up and has a free one. If none has,
    /// the request waits at every upstream that is up, in the order of arrival at each. None if the
    /// request needs no upstream.
    ///
    /// # Errors
    /// `upstream-full`, or `rate-is-zero` if the server permits no slots.
    pub(super) async fn turn(
        &self,
        capped: &Capped<'_>,
        exchange: &Exchange,
    ) -> Result<Option<Turn>, Refusal> {
        let understood = capped.understood();
        let RequestKind::Call { candidates, .. } = understood.asked() else { return Ok(None) };
        let holder = Holder::of(understood.routed().paced().caller());
        let mut waited_at: Vec<&Arc<Upstream>> = Vec::new();
        for upstream in candidates.iter() {
            if exchange.config.health.is_up(&upstream.name)
                && self.weights.passes(&candidates.model().name, &upstream.name)
            {
                waited_at.push(upstream);
            }
        }
        for upstream in &waited_at {
            // `take` fails if other requests wait there: a new request must not overtake them.
            if let Some(slot) = self.slots.take(upstream, &holder) {
                return Ok(candidates.turn(upstream, slot));
            }
        }
        // All are down: the request waits at the first, because it may be up again by then.
        if waited_at.is_empty() {
            waited_at.push(candidates.first());
        }
        let holder = &holder;
        let mut waits = Vec::with_capacity(waited_at.len());
        for upstream in waited_at {
            let wait = async move { (upstream, self.slots.wait(upstream, holder).await) };
            waits.push(Box::pin(wait));
        }
        let (upstream, slot) = any_of(waits).await?;
        Ok(candidates.turn(upstream, slot))
    }
}

/// The first wait that succeeds. The others are dropped. If none succeeds, the first fault.
async fn any_of<T, A, E>(
    mut waits: Vec<Pin<Box<impl Future<Output = (A, Result<T, E>)>>>>,
) -> Result<(A, T), E> {
    let mut first_fault = None;
    std::future::poll_fn(|cx| {
        let mut at = 0;
        while let Some(wait) = waits.get_mut(at) {
            match wait.as_mut().poll(cx) {
                // Returning drops the other waits, which leave their queues then.
                Poll::Ready((about, Ok(done))) => return Poll::Ready(Ok((about, done))),
                Poll::Ready((_, Err(fault))) => {
                    first_fault.get_or_insert(fault);
                    drop(waits.remove(at));
                }
                Poll::Pending => at += 1,
            }
        }
        match first_fault.take() {
            Some(fault) if waits.is_empty() => Poll::Ready(Err(fault)),
            kept => {
                first_fault = kept;
                Poll::Pending
            }
        }
    })
    .await
}
