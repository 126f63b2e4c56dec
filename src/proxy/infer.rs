//! An inference request, from its route to its answer.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Incoming;

use crate::audit::store::entry::{Committed, DurableAdmission};
use crate::guard::admit::{Action, Admitted, BodyStamp, Call, Local, Rest, admit};
use crate::guard::betas::Betas;
use crate::guard::cap::cap;
use crate::guard::egress::answer::{ResponseFilters, UrlFilter};
use crate::guard::egress::request::clear;
use crate::guard::govern::govern;
use crate::guard::reserve::reserve;
use crate::guard::route::Routed;
use crate::guard::screen::screen;
use crate::guard::understand::understand;
use crate::model::Operation;
use crate::model::declared::RequestBody;
use crate::proxy::answer::{Answer, list, me};
use crate::proxy::buffer::ExpectedBody;
use crate::proxy::exchange::{Exchange, ResponseParts};
use crate::proxy::refused::Refused;
use crate::proxy::times::{ReadLimits, Times};
use crate::proxy::watch::{Fresh, RevocationWatcher};
use crate::proxy::{Gateway, JSON, buffer};
use crate::refusal::{Code, Refusal};

impl Gateway {
    /// Answers a request that has a route.
    ///
    /// # Errors
    /// The refusal of any step: body, policy, slots, admission, upstream.
    pub(super) async fn infer(
        &self,
        routed: Routed,
        mut watch: RevocationWatcher,
        headers: HeaderMap,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refused> {
        exchange.wants_receipt = matches!(headers.get("want-receipt"), Some(value) if value == "1");
        exchange.operation = routed.name();
        let betas = Betas::read(&headers);
        // Authentication and rates come before the body: an unauthenticated caller cannot fill the
        // buffers.
        let held = if let Some(wanted) = wanted_body(&routed) {
            let WantedBody { expected, bytes_max } = wanted;
            let bytes_max = bytes_max.unwrap_or(exchange.config.tables.body_max);
            let timeouts = &exchange.config.timeouts;
            let times = Times {
                clock: Arc::clone(&self.clock),
                idle_max: timeouts.body_idle,
                ends: exchange.deadline(),
                reader: None,
            };
            let limits = ReadLimits { bytes_max, times };
            buffer::read(headers, body, expected, &self.buffers, limits).await?
        } else {
            buffer::BufferedBody::default()
        };
        let understood =
            understand(routed, held.received(), &exchange.config.health, &self.weights)?;
        let screened = screen(clear(understood, &self.metrics, &self.marks)?);
        let capped = cap(govern(screened), &self.weights)?;
        let stamp =
            BodyStamp { request: exchange.id, cache_salts: &self.cache_salts, betas: &betas };
        let turn = self.turn(&capped, exchange).await?;
        // While a caller waited for its slot, it may have been suspended, or its token may have
        // expired.
        let fresh = watch.check()?;
        let admitted = admit(reserve(capped, turn, &self.limiter)?, &stamp);
        // The steps after the body are boxed: a caller that never sends its body holds none of that
        // memory.
        let open = Box::pin(self.commit(fresh, admitted, held.bytes(), exchange)).await?;
        // The forwarded body is about as long as the received one. Its room stays taken until the
        // server has it.
        let room = held.into_room();
        exchange.admitted(open.entry);
        // Checked before any answer, because the commit took time. Each upstream attempt has its
        // own check too.
        watch.check()?;
        let answer = Box::pin(self.work(open.committed, watch, exchange)).await;
        drop(room);
        Ok(answer?)
    }

    /// Records the admission before the server receives a byte. Not an `async fn`: the proof
    /// `fresh` is consumed before the first await.
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

    /// Builds the admission and waits until it is durable.
    ///
    /// # Errors
    /// If the log cannot record it.
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
        let digest_key = self.recorder.digest_key();
        let Some(admission) = exchange.admission(&admitted, received, digest_key) else {
            return Err(Code::Internal.into());
        };
        self.recorder.commit(admitted, admission).await
    }

    /// Does the work of a request whose admission is durable.
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
        // Filters are built before the call consumes `routed`.
        let filter = self.response_filters(&routed, call.get());
        let (call, _room) = match call.get().fetches {
            None => (call, None),
            // Boxed because it is rare: otherwise every request would reserve room for it.
            Some(_) => Box::pin(self.fetched(call, &routed, &mut watch, exchange)).await?,
        };
        // The caller's slots now belong to the exchange, which holds them until the answer is
        // delivered.
        exchange.occupied.caller = routed.into_permit();
        self.call(call, filter, watch, exchange).await
    }

    /// The response filters for the answer to a call.
    fn response_filters(&self, routed: &Routed, call: &Call) -> ResponseFilters {
        let caller = routed.paced().caller();
        let metrics = Arc::clone(&self.metrics);
        let urls = UrlFilter::new(
            caller.token(),
            call.answers,
            Arc::clone(caller.tables()),
            metrics,
            call.continuing.as_deref().cloned(),
        );
        ResponseFilters::new(urls, ())
    }
}

/// The answer to a request that needs no upstream.
fn local_answer(work: &Local, routed: Routed, exchange: &mut Exchange) -> Result<Answer, Refusal> {
    let bytes = match work {
        Local::Models(one) => list(&routed, one.as_deref(), exchange.dialect)?,
        Local::Constant(answer) => answer.as_bytes().to_vec(),
        Local::Me => me(&routed, exchange.headroom),
    };
    exchange.occupied.caller = routed.into_permit();
    Ok(Answer::Whole(ResponseParts::own(JSON), Bytes::from(bytes)))
}

/// The body that a request has.
struct WantedBody {
    expected: ExpectedBody,
    /// The largest size in bytes, if the route has a limit of its own.
    bytes_max: Option<u64>,
}

/// The body of a request; `None` if it has none.
fn wanted_body(routed: &Routed) -> Option<WantedBody> {
    if let Some(declared) = routed.declared() {
        let route = &declared.offered.route;
        if route.body == RequestBody::None {
            return None;
        }
        let bytes_max = Some(route.body_max);
        return Some(WantedBody { expected: ExpectedBody::Declared, bytes_max });
    }
    let json = WantedBody { expected: ExpectedBody::Json, bytes_max: None };
    reads_body(routed.operation()).then_some(json)
}

/// Whether requests of an operation have a body.
const fn reads_body(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Rerank
        | Operation::Messages
        | Operation::CountTokens
        | Operation::Responses
        | Operation::OllamaChat
        | Operation::OllamaGenerate
        | Operation::OllamaEmbed
        | Operation::OllamaEmbeddings
        | Operation::OllamaShow => true,
        Operation::OllamaTags
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel
        | Operation::Me
        | Operation::Declared => false,
    }
}
