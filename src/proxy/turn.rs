//! The wait for a place at an upstream. It lies between the rules and the record: who waits holds its agent's place in flight and
//! its body, and nothing else.

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
    /// Takes a place at the first server of the route that is up and has one free; where none has, waits for one at all that are
    /// up, each in its order: nobody who comes later goes first. Nothing where no server is asked.
    ///
    /// # Errors
    /// `upstream-full`, or `rate-is-zero` where the server has no places at all.
    pub(super) async fn turn(
        &self,
        capped: &Capped<'_>,
        exchange: &Exchange,
    ) -> Result<Option<Turn>, Refusal> {
        let understood = capped.understood();
        let RequestKind::Call { candidates, .. } = understood.asked() else { return Ok(None) };
        let holder = Holder::of(understood.routed().paced().caller());
        let up = |upstream: &&Arc<Upstream>| {
            exchange.config.health.is_up(&upstream.name)
                && self.weights.passes(&candidates.model().name, &upstream.name)
        };
        let mut waited_at: Vec<&Arc<Upstream>> = candidates.iter().filter(up).collect();
        for upstream in &waited_at {
            if let Some(slot) = self.slots.take(upstream, &holder) {
                return Ok(candidates.turn(upstream, slot));
            }
        }
        if waited_at.is_empty() {
            waited_at.push(candidates.first());
        }
        let waits = waited_at.into_iter().map(|upstream| {
            let holder = &holder;
            Box::pin(async move { (upstream, self.slots.wait(upstream, holder).await) })
        });
        let (upstream, slot) = any_of(waits.collect()).await?;
        Ok(candidates.turn(upstream, slot))
    }
}

/// The first that succeeds; the others are given up. Where none does, the first fault.
async fn any_of<T, A, E>(
    mut waits: Vec<Pin<Box<impl Future<Output = (A, Result<T, E>)>>>>,
) -> Result<(A, T), E> {
    let mut first_fault = None;
    std::future::poll_fn(|cx| {
        let mut at = 0;
        while let Some(wait) = waits.get_mut(at) {
            match wait.as_mut().poll(cx) {
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
