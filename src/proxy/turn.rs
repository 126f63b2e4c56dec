//! The wait for a place at an upstream. It lies between the rules and the record: who waits holds its agent's place in flight and
//! its body, and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::Gateway;
use crate::guard::admit::Turn;
use crate::guard::govern::Governed;
use crate::guard::queue::Holder;
use crate::guard::table::{Served, Upstream};
use crate::guard::understand::Asked;
use crate::proxy::exchange::Exchange;
use crate::refusal::Refusal;

/// The servers that a body written for `first` may go to: that one, then the others of the route with the same profile.
pub(super) fn candidates<'s>(served: &'s Served, first: &'s Arc<Upstream>) -> impl Iterator<Item = &'s Arc<Upstream>> {
    let others = served
        .route
        .iter()
        .filter(|other| other.name != first.name && !other.echo && Arc::ptr_eq(&other.profile, &first.profile));
    std::iter::once(first).chain(others)
}

impl Gateway {
    /// Takes a place at the first server of the route that is up and has one free; where none has, waits for one at all that are
    /// up, each in its order: nobody who comes later goes first. Nothing where no server is asked.
    ///
    /// # Errors
    /// `upstream-full`, or `rate-is-zero` where the server has no places at all.
    pub(super) async fn turn(&self, governed: &Governed<'_>, exchange: &Exchange) -> Result<Option<Turn>, Refusal> {
        let understood = governed.understood();
        let Asked::Call { served, upstream: first, .. } = understood.asked() else { return Ok(None) };
        let holder = Holder::of(understood.routed().paced().caller());
        let up = |upstream: &&Arc<Upstream>| {
            exchange.config.health.is_up(&upstream.name) && self.weights.passes(&served.name, &upstream.name)
        };
        let free = |upstream: &Arc<Upstream>| {
            let place = self.places.take(upstream, &holder)?;
            Some(Turn { upstream: Arc::clone(upstream), place })
        };
        if let Some(turn) = candidates(served, first).filter(up).find_map(free) {
            return Ok(Some(turn));
        }
        let mut waited_at: Vec<&Arc<Upstream>> = candidates(served, first).filter(up).collect();
        if waited_at.is_empty() {
            waited_at.push(first);
        }
        let waits = waited_at.into_iter().map(|upstream| {
            let holder = &holder;
            Box::pin(async move { (upstream, self.places.wait(upstream, holder).await) })
        });
        let (upstream, place) = any_of(waits.collect()).await?;
        Ok(Some(Turn { upstream: Arc::clone(upstream), place }))
    }
}

/// The first that succeeds; the others are given up. Where none does, the first fault.
async fn any_of<T, A, E>(mut waits: Vec<Pin<Box<impl Future<Output = (A, Result<T, E>)>>>>) -> Result<(A, T), E> {
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
