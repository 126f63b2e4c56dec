//! An inference request: from its route to its answer.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Incoming;

use crate::audit::store::entry::{Committed, DurableAdmission};
use crate::guard::admit::{Action, Admitted, BodyStamp, Call, Local, Rest, admit};
use crate::guard::cap::cap;
use crate::guard::egress::answer::{ResponseFilters, UrlFilter};
use crate::guard::egress::request::clear;
use crate::guard::govern::govern;
use crate::guard::reserve::reserve;
use crate::guard::route::Routed;
use crate::guard::screen::screen;
use crate::guard::understand::understand;
use crate::model::Operation;
use crate::proxy::answer::{Answer, list, me};
use crate::proxy::exchange::{Exchange, ResponseParts};
use crate::proxy::refused::Refused;
use crate::proxy::times::Times;
use crate::proxy::watch::{Fresh, RevocationWatcher};
use crate::proxy::{Gateway, JSON, buffer};
use crate::refusal::{Code, Refusal};

impl Gateway {
    /// Answers a request that has a route.
    pub(super) async fn infer(
        &self,
        routed: Routed,
        mut watch: RevocationWatcher,
        headers: HeaderMap,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refused> {
        exchange.wants_receipt = headers.get("want-receipt").is_some_and(|value| value == "1");
        exchange.operation = routed.operation().as_str();
        let held = if reads_body(routed.operation()) {
            let (max, timeouts) = (exchange.config.tables.body_max, &exchange.config.timeouts);
            let times = Times {
                clock: Arc::clone(&self.clock),
                idle_max: timeouts.body_idle,
                ends: exchange.deadline(),
                reader: None,
            };
            buffer::read(headers, body, &self.buffers, (max, times)).await?
        } else {
            buffer::BufferedBody::default()
        };
        let understood =
            understand(routed, held.bytes(), (&exchange.config.health, &self.weights))?;
        let capped = cap(govern(screen(clear(understood, &self.metrics, &self.marks)?)))?;
        let stamp = BodyStamp { request: exchange.id, cache_salts: &self.cache_salts };
        let turn = self.turn(&capped, exchange).await?;
        // A caller that waited for its turn may have been suspended, or its token may have expired.
        let fresh = watch.check()?;
        let admitted = admit(reserve(capped, turn, &self.limiter)?, &stamp);
        // What follows the body is boxed: a caller that does not send its body holds none of it.
        let open = Box::pin(self.commit(fresh, admitted, held.bytes(), exchange)).await?;
        // What goes on is about as long as what came: the room stays taken until the server has it.
        let room = held.into_room();
        exchange.admitted(open.entry);
        // Before anything is answered. An upstream is sent nothing without a check of its own.
        watch.check()?;
        let answer = Box::pin(self.work(open.committed, watch, exchange)).await;
        drop(room);
        Ok(answer?)
    }

    /// Records what was admitted, before its server sees a byte. Not an `async fn`: the proof is used up before the first wait.
    fn commit<'s>(
        &'s self,
        fresh: Fresh,
        admitted: Admitted,
        received: &'s [u8],
        exchange: &'s mut Exchange,
    ) -> impl Future<Output = Result<DurableAdmission<Admitted>, Refusal>> + Send + use<'s> {
        fresh.spend();
        self.record(admitted, received, exchange)
    }

    async fn record(
        &self,
        admitted: Admitted,
        received: &[u8],
        exchange: &mut Exchange,
    ) -> Result<DurableAdmission<Admitted>, Refusal> {
        exchange.model = admitted.model().cloned();
        exchange.upstream = admitted.server().cloned();
        if let (Some(model), Some(server)) = (&exchange.model, &exchange.upstream) {
            exchange.model_digest = Some(self.weights.digest(model, &server.name));
        }
        let admission = exchange
            .admission(&admitted, received, self.recorder.digest_key())
            .ok_or(Code::Internal)?;
        self.recorder.commit(admitted, admission).await
    }

    /// Does the work whose admission is durable.
    async fn work(
        &self,
        committed: Committed<Admitted>,
        watch: RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let (work, rest) = committed.split(Admitted::into_action);
        let Rest { routed, adjustments, permit } = rest;
        exchange.headroom = routed.paced().headroom();
        exchange.adjustments = adjustments;
        exchange.occupied.server = permit;
        match work.try_map(Action::into_call) {
            Ok(call) => self.forward(call, routed, watch, exchange).await,
            Err(local) => local_answer(&local, routed, exchange),
        }
    }

    /// Forwards a call, with the content that the gateway fetches for it.
    async fn forward(
        &self,
        call: Committed<Call>,
        routed: Routed,
        mut watch: RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let filter = self.response_filters(&routed, call.get().continues);
        let (call, _room) = match call.get().fetches {
            None => (call, None),
            // Boxed, as it is rare: every request would keep room for it.
            Some(_) => Box::pin(self.fetched(call, &routed, &mut watch, exchange)).await?,
        };
        exchange.occupied.caller = routed.into_permit();
        self.call(call, filter, watch, exchange).await
    }

    /// The response filters for this caller.
    fn response_filters(&self, routed: &Routed, continues: bool) -> ResponseFilters {
        let caller = routed.paced().caller();
        let metrics = Arc::clone(&self.metrics);
        let urls = UrlFilter::new(
            (caller.token(), caller.class().answers),
            Arc::clone(caller.tables()),
            metrics,
            !continues,
        );
        ResponseFilters::new(urls, ())
    }
}

/// Answers what needs no upstream.
fn local_answer(work: &Local, routed: Routed, exchange: &mut Exchange) -> Result<Answer, Refusal> {
    let bytes = match work {
        Local::Models(one) => list(&routed, one.as_deref(), exchange.dialect)?,
        Local::Me => me(&routed, exchange.headroom),
    };
    exchange.occupied.caller = routed.into_permit();
    Ok(Answer::Whole(ResponseParts::own(JSON), Bytes::from(bytes)))
}

const fn reads_body(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Messages => true,
        Operation::ListModels | Operation::ShowModel | Operation::Me => false,
    }
}
