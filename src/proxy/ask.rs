//! Chooses which upstream of a route gets a call, and which is next if one certainly did not run
//! it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::Gateway;
use crate::audit::format::request::ModelDigest;
use crate::audit::store::entry::Committed;
use crate::guard::admit::Call;
use crate::guard::limiter::Permit;
use crate::guard::reserve::enter_server;
use crate::guard::slots::full;
use crate::guard::table::Upstream;
use crate::guard::understand::model_changed;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{UpstreamClient, UpstreamFailure};
use crate::proxy::pool::Arriving;
use crate::proxy::watch::{Fresh, RevocationWatcher};
use crate::refusal::{Code, Refusal};

/// The result of one upstream's attempt.
enum Attempt {
    /// The upstream answered.
    Answered(Response<Arriving>),
    /// It certainly did not run the request, and reports that with this answer: 503 with
    /// Retry-After (RFC 9110 section 15.6.4).
    Declined(Response<Arriving>),
    /// It certainly did not run the request: the gateway did not write all of it.
    Unsent(Refusal),
    /// No connection to it was possible.
    Unreached(Refusal),
}

/// An answer that the caller gets only if no other upstream takes the request, with the upstream
/// that gave it.
struct KeptAnswer {
    response: Response<Arriving>,
    upstream: Arc<Upstream>,
    digest: Arc<ModelDigest>,
    place: Option<Permit>,
}

impl Gateway {
    /// Sends the call to the upstream that it was written for. If that one certainly did not run
    /// it, the call goes to the next upstream of the route with the same profile.
    ///
    /// Any number of unreachable upstreams are skipped. Only one upstream that took a part of the
    /// call, or declined it, is skipped. Upstreams that are down come last. The request already has
    /// a slot at the upstream that it was written for; each other one needs a new slot.
    ///
    /// The caller's status is checked before each attempt and watched during it, so that a revoked
    /// caller reaches no further upstream.
    ///
    /// # Errors
    /// Why the last upstream has not answered, or why the caller may not act any more.
    pub(super) async fn ask(
        &self,
        committed: &Committed<Call>,
        watch: &mut RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Response<Arriving>, Refusal> {
        let call = committed.get();
        let health = Arc::clone(&exchange.config.health);
        let mut next = VecDeque::new();
        for upstream in call.candidates.from(&call.upstream) {
            next.push_back((upstream, false));
        }
        let mut last = Refusal::new(Code::UpstreamUnavailable);
        let mut kept: Option<KeptAnswer> = None;
        let mut moved = false;
        exchange.forwarded();
        // `resort` marks an upstream that is down: it is tried again after all others.
        while let Some((upstream, resort)) = next.pop_front() {
            if !resort && !next.is_empty() && !health.begin(&upstream.name) {
                next.push_back((upstream, true));
                continue;
            }
            let Some(remote) = exchange.config.upstreams.get(&upstream.name).cloned() else {
                continue;
            };
            // Checked again: time has passed, and each server has its own weights.
            let Some(digest) = self.weights.passing(&call.candidates.model().name, &upstream.name)
            else {
                last = model_changed(&call.candidates.model().name);
                continue;
            };
            exchange.tried(last.detail.take());
            let mut place = None;
            if !Arc::ptr_eq(upstream, &call.upstream) {
                match self.place_elsewhere(upstream, call) {
                    Ok(permit) => place = Some(permit),
                    Err(refusal) => {
                        last = refusal;
                        continue;
                    }
                }
            }
            name_server(exchange, upstream, &digest);
            let fresh = watch.check()?;
            let asking = self.ask_one(fresh, &remote, committed, exchange);
            let asked = tokio::select! {
                asked = asking => asked?,
                refusal = watch.revoked() => return Err(refusal),
            };
            last = match asked {
                Attempt::Declined(response) if kept.is_none() && !moved && !next.is_empty() => {
                    let kept_from = Arc::clone(upstream);
                    kept = Some(KeptAnswer { response, upstream: kept_from, digest, place });
                    moved = true;
                    Refusal::new(Code::UpstreamUnavailable)
                        .because(format_args!("upstream {}: it declined, 503", upstream.name))
                }
                Attempt::Answered(response) | Attempt::Declined(response) => {
                    if let Some(place) = place {
                        add(&mut exchange.occupied.server, place);
                    }
                    return Ok(response);
                }
                Attempt::Unsent(refusal) if moved => {
                    let Some(kept) = kept else { return Err(refusal) };
                    return Ok(give(kept, exchange));
                }
                Attempt::Unsent(refusal) => {
                    moved = true;
                    refusal
                }
                Attempt::Unreached(refusal) => refusal,
            };
        }
        let Some(kept) = kept else { return Err(last) };
        Ok(give(kept, exchange))
    }

    /// Takes a slot at another upstream of the route, and at its server.
    ///
    /// # Errors
    /// If other requests wait for a slot there, or the server has no free slot.
    fn place_elsewhere(&self, upstream: &Arc<Upstream>, call: &Call) -> Result<Permit, Refusal> {
        // The requests that wait at that upstream have priority.
        let Some(taken) = self.slots.take(upstream, &call.holder) else {
            return Err(full(upstream, "requests wait there"));
        };
        enter_server(&self.limiter, upstream, taken)
    }

    /// Sends the call to one upstream and records its health. Not an `async fn`: the proof `fresh`
    /// is consumed before the first await.
    fn ask_one<'s>(
        &'s self,
        fresh: Fresh,
        remote: &'s UpstreamClient,
        call: &'s Committed<Call>,
        exchange: &'s Exchange,
    ) -> impl Future<Output = Result<Attempt, Refusal>> + Send + use<'s> {
        let id = HeaderValue::from_str(&exchange.id_text)
            .map_err(|error| Refusal::new(Code::Internal).because(error));
        let sending = id.map(|id| remote.send(fresh, call, id));
        async move { self.asked(&remote.name, exchange, sending?).await }
    }

    /// Waits for the head of the upstream's answer, at most `timeouts.first_byte`, and updates the
    /// upstream's health.
    ///
    /// # Errors
    /// A refusal where the upstream may have run the request, so that no other upstream gets it.
    async fn asked(
        &self,
        upstream: &str,
        exchange: &Exchange,
        sending: impl Future<Output = Result<Response<Arriving>, UpstreamFailure>>,
    ) -> Result<Attempt, Refusal> {
        let health = &exchange.config.health;
        let asked = match tokio::time::timeout(exchange.config.timeouts.first_byte, sending).await {
            Err(_) => Err(Refusal::new(Code::UpstreamSlow)
                .because(format_args!("upstream {upstream}: timeout first_byte"))),
            Ok(Ok(response)) => {
                let declined = response.headers().contains_key(RETRY_AFTER);
                match response.status() {
                    StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT => {
                        let status = response.status().as_u16();
                        self.changed(
                            upstream,
                            health.failed(upstream),
                            format_args!("it answers {status}"),
                        );
                        // Without Retry-After a 503 gives no assurance that the request did not
                        // run.
                        let declined = status == 503 && declined;
                        return Ok(if declined {
                            Attempt::Declined(response)
                        } else {
                            Attempt::Answered(response)
                        });
                    }
                    _ => self.changed(upstream, health.served(upstream), "a request was served"),
                }
                return Ok(Attempt::Answered(response));
            }
            Ok(Err(UpstreamFailure::Unreached(refusal))) => {
                self.changed(upstream, health.dialled(upstream, false), why(&refusal));
                return Ok(Attempt::Unreached(refusal));
            }
            Ok(Err(UpstreamFailure::Unsent(refusal))) => Ok(refusal),
            Ok(Err(UpstreamFailure::Broke(refusal))) => Err(refusal),
        };
        let (Ok(refusal) | Err(refusal)) = &asked;
        self.changed(upstream, health.failed(upstream), why(refusal));
        asked.map(Attempt::Unsent)
    }

    /// Logs that an upstream has come up or gone down, with the cause. `news` is none if its state
    /// is the same.
    pub fn changed(&self, upstream: &str, news: Option<bool>, cause: impl std::fmt::Display) {
        if let Some(up) = news {
            let cause = cause.to_string();
            // A certificate's fault, for example, lists names that the server has chosen. They
            // could contain a credential.
            let cause = self.config.load().redactor.text(&cause).unwrap_or(cause);
            self.metrics.upstream_up(upstream, up);
            tracing::warn!(upstream, up, %cause, "upstream changed");
        }
    }
}

/// The detail of a refusal for the operator; empty if it has none.
fn why(refusal: &Refusal) -> &str {
    match &refusal.detail {
        Some(detail) => detail,
        None => "",
    }
}

/// Returns the kept answer, and names its upstream in the record again.
fn give(kept: KeptAnswer, exchange: &mut Exchange) -> Response<Arriving> {
    name_server(exchange, &kept.upstream, &kept.digest);
    if let Some(place) = kept.place {
        add(&mut exchange.occupied.server, place);
    }
    kept.response
}

/// Joins a slot to the permit that the exchange holds for the server.
fn add(server: &mut Permit, place: Permit) {
    *server = place.with(std::mem::take(server));
}

/// Sets the upstream and its weights digest for the record.
fn name_server(exchange: &mut Exchange, upstream: &Upstream, digest: &Arc<ModelDigest>) {
    exchange.upstream = Some(upstream.server.clone());
    exchange.model_digest = Some(Arc::clone(digest));
}
