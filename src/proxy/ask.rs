//! Which of a route's servers is asked, and which next where one surely did not run the request.

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

/// What came of asking one server.
enum Attempt {
    /// It answered.
    Answered(Response<Arriving>),
    /// It surely did not run the request, and says so with this answer: 503 with Retry-After (RFC 9110 section 15.6.4).
    Declined(Response<Arriving>),
    /// It surely did not run the request: not all of it was written.
    Unsent(Refusal),
    /// It could not be asked at all.
    Unreached(Refusal),
}

/// An answer that goes to the caller only if no other server takes the request, and whose it is.
struct KeptAnswer {
    response: Response<Arriving>,
    upstream: Arc<Upstream>,
    digest: Arc<ModelDigest>,
    place: Option<Permit>,
}

impl Gateway {
    /// Sends the call to the upstream that it was written for or, where that surely did not run it, to the next of the route with
    /// the same profile: past those that cannot be reached, and once past one that took a part of it or declined it. Upstreams
    /// that are down come last.
    ///
    /// Before each of them the caller's standing is checked, and while one is asked it is watched.
    ///
    /// # Errors
    /// Why the last of them has not answered, or why the caller may not act any more.
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
        while let Some((upstream, resort)) = next.pop_front() {
            if !resort && !next.is_empty() && !health.begin(&upstream.name) {
                next.push_back((upstream, true));
                continue;
            }
            let Some(remote) = exchange.config.upstreams.get(&upstream.name).cloned() else {
                continue;
            };
            // Asked for again: the record was written in between, and another server has weights of its own.
            let Some(digest) = self.weights.passing(&call.candidates.model().name, &upstream.name)
            else {
                last = model_changed(&call.candidates.model().name);
                continue;
            };
            exchange.tried(last.detail.take());
            // The request has a place at the upstream that it was written for.
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

    /// A place at another upstream of the route, and at its server.
    ///
    /// # Errors
    /// If other requests wait for a place there, or the server has none.
    fn place_elsewhere(&self, upstream: &Arc<Upstream>, call: &Call) -> Result<Permit, Refusal> {
        // Requests that wait there go first.
        let Some(taken) = self.slots.take(upstream, &call.holder) else {
            return Err(full(upstream, "requests wait there"));
        };
        enter_server(&self.limiter, upstream, taken)
    }

    /// Asks one server, and notes how it stands. Not an `async fn`: the proof is used up before the first wait.
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
                let why = refusal.detail.as_deref().unwrap_or_default();
                self.changed(upstream, health.dialled(upstream, false), why);
                return Ok(Attempt::Unreached(refusal));
            }
            Ok(Err(UpstreamFailure::Unsent(refusal))) => Ok(refusal),
            Ok(Err(UpstreamFailure::Broke(refusal))) => Err(refusal),
        };
        let refusal = asked.as_ref().unwrap_or_else(|refusal| refusal);
        self.changed(
            upstream,
            health.failed(upstream),
            refusal.detail.as_deref().unwrap_or_default(),
        );
        asked.map(Attempt::Unsent)
    }

    /// Says that an upstream has come up or gone down, where `news` says so, and why.
    pub fn changed(&self, upstream: &str, news: Option<bool>, cause: impl std::fmt::Display) {
        if let Some(up) = news {
            let cause = cause.to_string();
            // A certificate's fault, for example, lists names that the server has chosen.
            let cause = self.config.load().redactor.text(&cause).unwrap_or(cause);
            self.metrics.upstream_up(upstream, up);
            tracing::warn!(upstream, up, %cause, "upstream changed");
        }
    }
}

/// The answer that was kept, its server named again.
fn give(kept: KeptAnswer, exchange: &mut Exchange) -> Response<Arriving> {
    name_server(exchange, &kept.upstream, &kept.digest);
    if let Some(place) = kept.place {
        add(&mut exchange.occupied.server, place);
    }
    kept.response
}

fn add(server: &mut Permit, place: Permit) {
    *server = place.with(std::mem::take(server));
}

/// Notes which server is asked, and with which weights, for the record.
fn name_server(exchange: &mut Exchange, upstream: &Upstream, digest: &Arc<ModelDigest>) {
    exchange.upstream = Some(upstream.server.clone());
    exchange.model_digest = Some(Arc::clone(digest));
}
