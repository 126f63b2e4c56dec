//! Which of a route's servers is asked, and which next where one surely did not run the request.

use std::collections::VecDeque;
use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::{Gateway, Way};
use crate::audit::format::request::ModelDigest;
use crate::guard::admit::{Call, enter_server};
use crate::guard::limiter::Permit;
use crate::guard::places::full;
use crate::guard::table::Upstream;
use crate::guard::understand::model_changed;
use crate::model::Operation;
use crate::proxy::forward::{Remote, Unanswered};
use crate::proxy::pool::Arriving;
use crate::proxy::turn::candidates;
use crate::refusal::{Code, Refusal};

/// What came of asking one server.
enum Asked {
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
struct Kept {
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
    /// # Errors
    /// Why the last of them has not answered.
    pub(super) async fn ask(
        &self,
        call: &Call,
        operation: Operation,
        server: &mut Permit,
        way: &mut Way,
    ) -> Result<Response<Arriving>, Refusal> {
        let health = Arc::clone(&way.wiring.health);
        let mut next: VecDeque<(&Arc<Upstream>, bool)> =
            candidates(&call.served, &call.upstream).map(|upstream| (upstream, false)).collect();
        let mut last = Refusal::new(Code::UpstreamUnavailable);
        let mut kept: Option<Kept> = None;
        let mut moved = false;
        way.meter.forwarded();
        while let Some((upstream, resort)) = next.pop_front() {
            if !resort && !next.is_empty() && !health.begin(&upstream.name) {
                next.push_back((upstream, true));
                continue;
            }
            let Some(remote) = way.wiring.remotes.get(&upstream.name).cloned() else { continue };
            // Asked for again: the record was written in between, and another server has weights of its own.
            let Some(digest) = self.weights.passing(&call.served.name, &upstream.name) else {
                last = model_changed(&call.served.name);
                continue;
            };
            way.meter.tried(last.detail.take());
            let mut place = None;
            if !Arc::ptr_eq(upstream, &call.upstream) {
                // Whoever waits there goes first.
                let taken = self.places.take(upstream, &call.holder).ok_or_else(|| full(upstream, "requests wait there"));
                match taken.and_then(|place| enter_server(&self.limiter, upstream, place)) {
                    Ok(permit) => place = Some(permit),
                    Err(refusal) => {
                        last = refusal;
                        continue;
                    }
                }
            }
            way.meter.facts().upstream = Some(upstream.server.clone());
            way.meter.facts().model_digest = Some(Arc::clone(&digest));
            last = match self.ask_one(&remote, call, operation, way).await? {
                Asked::Declined(response) if kept.is_none() && !moved && !next.is_empty() => {
                    kept = Some(Kept { response, upstream: Arc::clone(upstream), digest, place });
                    moved = true;
                    Refusal::new(Code::UpstreamUnavailable).because(format_args!("upstream {}: it declined, 503", upstream.name))
                }
                Asked::Answered(response) | Asked::Declined(response) => {
                    if let Some(place) = place {
                        *server = place.with(std::mem::take(server));
                    }
                    return Ok(response);
                }
                Asked::Unsent(refusal) if moved => return kept.map_or(Err(refusal), |kept| Ok(give(kept, server, way))),
                Asked::Unsent(refusal) => {
                    moved = true;
                    refusal
                }
                Asked::Unreached(refusal) => refusal,
            };
        }
        kept.map_or(Err(last), |kept| Ok(give(kept, server, way)))
    }

    /// Asks one server, and notes how it stands.
    async fn ask_one(&self, remote: &Remote, call: &Call, operation: Operation, way: &Way) -> Result<Asked, Refusal> {
        let id = HeaderValue::from_str(&way.id_text).map_err(|error| Refusal::new(Code::Internal).because(error))?;
        let (health, upstream) = (&way.wiring.health, &*remote.name);
        let asked = match tokio::time::timeout(way.wiring.timeouts.first_byte, remote.send(operation, call, &id)).await {
            Err(_) => Err(Refusal::new(Code::UpstreamSlow).because(format_args!("upstream {upstream}: timeout first_byte"))),
            Ok(Ok(response)) => {
                let declined = response.headers().contains_key(RETRY_AFTER);
                match response.status() {
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                        let status = response.status().as_u16();
                        self.changed(upstream, health.failed(upstream), format_args!("it answers {status}"));
                        let declined = status == 503 && declined;
                        return Ok(if declined { Asked::Declined(response) } else { Asked::Answered(response) });
                    }
                    _ => self.changed(upstream, health.served(upstream), "a request was served"),
                }
                return Ok(Asked::Answered(response));
            }
            Ok(Err(Unanswered::Unreached(refusal))) => {
                let why = refusal.detail.as_deref().unwrap_or_default();
                self.changed(upstream, health.dialled(upstream, false), why);
                return Ok(Asked::Unreached(refusal));
            }
            Ok(Err(Unanswered::Unsent(refusal))) => Ok(refusal),
            Ok(Err(Unanswered::Broke(refusal))) => Err(refusal),
        };
        let refusal = asked.as_ref().unwrap_or_else(|refusal| refusal);
        self.changed(upstream, health.failed(upstream), refusal.detail.as_deref().unwrap_or_default());
        asked.map(Asked::Unsent)
    }

    /// Says that an upstream has come up or gone down, where `news` says so, and why.
    pub fn changed(&self, upstream: &str, news: Option<bool>, cause: impl std::fmt::Display) {
        if let Some(up) = news {
            let cause = cause.to_string();
            // A certificate's fault, for example, lists names that the server has chosen.
            let cause = self.wiring.load().redactor.text(&cause).unwrap_or(cause);
            self.metrics.upstream_up(upstream, up);
            tracing::warn!(upstream, up, %cause, "upstream changed");
        }
    }
}

/// The answer that was kept, its server named again.
fn give(kept: Kept, server: &mut Permit, way: &mut Way) -> Response<Arriving> {
    way.meter.facts().upstream = Some(kept.upstream.server.clone());
    way.meter.facts().model_digest = Some(kept.digest);
    if let Some(place) = kept.place {
        *server = place.with(std::mem::take(server));
    }
    kept.response
}
