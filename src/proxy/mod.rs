//! The life of a request, on one screen: [`Gateway::serve`].

pub mod activity;
mod answer;
mod ask;
pub mod body;
pub mod buffer;
pub mod connect;
mod connection;
pub mod descriptors;
pub mod entrance;
pub mod exchange;
pub mod fetch;
pub mod forward;
pub mod frames;
mod framing;
pub mod heads;
pub mod listen;
pub mod peer;
pub mod pool;
mod receipts;
mod refused;
pub mod request_id;
pub mod resolve;
pub mod respond;
pub mod settings;
pub mod stream;
pub mod tap;
pub mod times;
pub mod tree;
mod turn;
pub mod watch;
pub mod wire;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};

use crate::audit::entry::{Committed, Open, Pen};
use crate::clock::Clock;
use crate::crypto::Draws;
use crate::guard::admit::{Admitted, Call, Local, Rest, Stamp, Work, admit};
use crate::guard::authenticate::{Authenticated, Authenticator, Credential, Found};
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::allowance::Allowance;
use crate::guard::egress::answer::Filter;
use crate::guard::egress::request::clear;
use crate::guard::govern::govern;
use crate::guard::limiter::{Limiter, Permit};
use crate::guard::pace::pace;
use crate::guard::places::Places;
use crate::guard::route::{Routed, Target, reads, route};
use crate::guard::screen::screen;
use crate::guard::table::Tables;
use crate::guard::understand::understand;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::answer::StreamFilter;
use crate::model::echo::Echo;
use crate::model::redact::Redactor;
use crate::model::usage::{self, AnswerLimits};
use crate::model::{Dialect, Operation};
use crate::proxy::activity::Written;
use crate::proxy::answer::{Answer, Failed, Stream, filtered, filtered_pieces, list, me};
use crate::proxy::body::Body;
use crate::proxy::buffer::Buffers;
use crate::proxy::exchange::{Exchange, ResponseParts};
use crate::proxy::fetch::Fetcher;
use crate::proxy::forward::Remote;
use crate::proxy::framing::framing;
use crate::proxy::heads::Framing;
use crate::proxy::refused::{Refused, readable};
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::Timeouts;
use crate::proxy::stream::Source;
use crate::proxy::times::Times;
use crate::proxy::tree::Tree;
use crate::proxy::watch::{Fresh, Watch};
use crate::refusal::{Code, Refusal};
use crate::registry::Registry;
use crate::weights::Weights;

/// What changes when the config is read again.
pub struct Wiring {
    /// Classes, principals, models.
    pub tables: Arc<Tables>,
    /// Upstreams by name.
    pub remotes: HashMap<Arc<str>, Arc<Remote>>,
    /// Whether the model echo is served besides.
    pub echo: bool,
    /// Which of them answer.
    pub health: Arc<Health>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Whether anybody may have the public keys.
    pub publish_keys: bool,
    /// The log's tree, where anybody gets something of it.
    pub tree: Option<Arc<Tree>>,
    /// The hash of the rules and config in force.
    pub policy: Arc<str>,
    /// Who fetches content, where a class has it put into requests.
    pub fetcher: Option<Fetcher>,
    /// How long answers may be.
    pub answers: AnswerLimits,
    /// Takes the gateway's own secrets out of answers.
    pub redactor: Arc<Redactor>,
}

/// The data plane: small handles on the books, and the way through them.
pub struct Gateway {
    /// The config in force.
    pub wiring: ArcSwap<Wiring>,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Rates and places.
    pub limiter: Arc<Limiter>,
    /// Places at upstreams, and those who wait for one.
    pub places: Arc<Places>,
    /// Agents and tokens, for their changes.
    pub registry: Arc<Registry>,
    /// Which weights answer.
    pub weights: Arc<Weights>,
    /// The seal.
    pub pen: Pen,
    /// Bytes of bodies held at once.
    pub buffers: Arc<Buffers>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of requests.
    pub request_ids: RequestIds,
    /// Salts of prompt caches.
    pub cache_salts: CacheSalts,
    /// What stands in bodies for content that is still to come.
    pub marks: Draws,
    /// What was fetched for whom.
    pub allowance: Arc<Allowance>,
}

/// What the connection knows of a request.
pub struct Origin {
    /// The peer's address, or that of the client behind a trusted proxy.
    pub peer: IpAddr,
    /// What the head of an HTTP/1 request showed of its framing; none over HTTP/2.
    pub framing: Option<Framing>,
    /// What the caller took: the progress of an HTTP/1 connection, or of an HTTP/2 stream. None where that is not known.
    pub reader: Option<Arc<Written>>,
}

/// Where the public keys are, for those who look for them.
const KEYS_PATH: &str = "/.well-known/jwks.json";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

impl Gateway {
    /// Answers one request.
    pub async fn serve(self: Arc<Self>, request: Request<Incoming>, origin: Origin) -> Response<Body> {
        let mut exchange = Exchange::start(&self, dialect(&request), Some(origin.peer));
        exchange.reader.clone_from(&origin.reader);
        let (parts, mut body) = request.into_parts();
        let alone = parts.method == Method::HEAD;
        let over_http1 = parts.version <= http::Version::HTTP_11;
        // A caller that waits for 100 Continue has sent nothing yet, and is not asked to for nothing (RFC 9110 section 10.1.1).
        let expects = parts.headers.contains_key(EXPECT);
        let answer = self.answer(Request::from_parts(parts, ()), &mut body, &origin, &mut exchange).await;
        let answered = match answer {
            Ok(answer) => match Box::pin(answer.respond(exchange)).await {
                Ok(response) => Ok(response),
                Err(Failed { refusal, exchange }) => Err((refusal.into(), exchange)),
            },
            Err(refused) => Err((refused, exchange)),
        };
        let mut close = false;
        let mut response = match answered {
            Ok(response) => response,
            Err((refused, exchange)) => {
                // RFC 9112 section 6.1: close after a message whose framing could have been understood in two ways.
                close = over_http1 && refused.refusal.code == Code::FramingInvalid;
                Box::pin(self.refuse(refused, exchange, origin.peer)).await
            }
        };
        // Section 9.6: what is not read of a request ends its connection, and its caller is told.
        close |= over_http1 && !(body.is_end_stream() || !expects && buffer::spent(&mut body).await);
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if alone { respond::headers_alone(response) } else { response }
    }

    /// The steps of a request. Each step takes what the one before proved.
    async fn answer(
        &self,
        request: Request<()>,
        body: &mut Incoming,
        origin: &Origin,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refused> {
        framing(&request, origin.framing)?;
        let (parts, ()) = request.into_parts();
        let target = Target::read(&parts.uri)?;
        if exchange.config.publish_keys && reads(&parts.method) && target.path() == KEYS_PATH {
            exchange.operation = "keys";
            let keys = self.authenticator.published_keys(origin.peer)?;
            return Ok(Answer::Public(Bytes::from(keys), respond::JWK_SET));
        }
        if let Some(tree) = &exchange.config.tree
            && let Some(path) = target.path().strip_prefix(tree::PATH).filter(|_| reads(&parts.method))
        {
            exchange.operation = "audit";
            return Box::pin(self.tree(tree, path, (&parts.headers, origin.peer))).await;
        }
        let credential = Credential::read(&parts.headers).map_err(|no| self.stranger(no, origin.peer))?;
        // From before the first question on: what changes while the body is read is asked again before the seal.
        let changes = self.registry.changes();
        let caller = self.authenticate(&credential, origin.peer, exchange)?;
        let books = (Arc::clone(&self.authenticator), self.pen.clone(), Arc::clone(&self.clock));
        let mut watch = Watch::new(books, Arc::clone(caller.token()), changes);
        let paced = pace(caller, &self.limiter).map_err(|over| Refused { refusal: over.refusal, limit: over.limit })?;
        readable(&parts.method, target.path(), &exchange.config)?;
        if let Some(name) = target.path().strip_prefix(receipts::PATH) {
            exchange.operation = "receipt";
            let agent = paced.caller().token().verified.agent();
            return Ok(Answer::Public(Box::pin(receipts::receipt(&self.pen, agent, name)).await?, respond::TEXT));
        }
        exchange.wants_receipt = parts.headers.get("want-receipt").is_some_and(|value| value == "1");
        let routed = route(paced, &parts.method, &target)?;
        exchange.operation = routed.operation().as_str();
        let held = if reads_body(routed.operation()) {
            let (max, timeouts) = (exchange.config.tables.body_max, &exchange.config.timeouts);
            let times =
                Times { clock: Arc::clone(&self.clock), idle_max: timeouts.body_idle, ends: exchange.deadline(), reader: None };
            buffer::read(parts.headers, body, &self.buffers, (max, times)).await?
        } else {
            buffer::Held::default()
        };
        let understood = understand(routed, held.bytes(), (&exchange.config.health, &self.weights))?;
        let governed = govern(screen(clear(understood, &self.metrics, &self.marks)?));
        let (created, cache_salts) = (self.clock.now().seconds(), &self.cache_salts);
        let stamp = Stamp { request: exchange.id, created, cache_salts };
        let turn = self.turn(&governed, exchange).await?;
        // A caller that waited for its turn may have been suspended, or its token may have expired.
        let fresh = watch.check()?;
        let admitted = admit(governed, turn, &self.limiter, &stamp)?;
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
    ) -> impl Future<Output = Result<Open<Admitted>, Refusal>> + Send + use<'s> {
        fresh.spend();
        self.record(admitted, received, exchange)
    }

    async fn record(&self, admitted: Admitted, received: &[u8], exchange: &mut Exchange) -> Result<Open<Admitted>, Refusal> {
        exchange.model = admitted.model().cloned();
        exchange.upstream = admitted.server().cloned();
        if let (Some(model), Some(server)) = (&exchange.model, &exchange.upstream) {
            exchange.model_digest = Some(self.weights.digest(model, &server.name));
        }
        let admission = exchange.admission(&admitted, received, self.pen.digest_key()).ok_or(Code::Internal)?;
        self.pen.commit(admitted, admission).await
    }

    fn authenticate(&self, credential: &Credential<'_>, peer: IpAddr, exchange: &mut Exchange) -> Result<Authenticated, Refused> {
        let tables = Arc::clone(&exchange.config.tables);
        let (caller, found) = self.authenticator.authenticate(credential, peer, tables).map_err(|denied| {
            self.metrics.token_cache("refused");
            exchange.caller = denied.token;
            exchange.handle = denied.handle;
            denied.refusal
        })?;
        self.metrics.token_cache(match found {
            Found::Cached => "hit",
            Found::Verified => "miss",
        });
        exchange.caller = Some(Arc::clone(caller.token()));
        exchange.handle = caller.handle().copied();
        Ok(caller)
    }

    /// Does the work whose admission is durable.
    async fn work(&self, committed: Committed<Admitted>, watch: Watch, exchange: &mut Exchange) -> Result<Answer, Refusal> {
        let (work, rest) = committed.split(Admitted::into_work);
        let Rest { routed, notes, permit } = rest;
        exchange.headroom = routed.paced().headroom();
        exchange.notes = notes;
        exchange.occupied.server = permit;
        match work.try_map(Work::into_call) {
            Ok(call) => self.forward(call, routed, watch, exchange).await,
            Err(local) => self.local(local, routed, watch, exchange).await,
        }
    }

    /// Does work that needs no upstream.
    async fn local(&self, work: Local, routed: Routed, watch: Watch, exchange: &mut Exchange) -> Result<Answer, Refusal> {
        let operation = routed.operation();
        let (answer, continues) = match work {
            Local::Models(one) => {
                let bytes = list(&routed, one.as_deref(), exchange.dialect)?;
                exchange.occupied.caller = routed.into_permit();
                return Ok(Answer::Whole(ResponseParts::own(JSON), Bytes::from(bytes)));
            }
            Local::Me => {
                let bytes = me(&routed, exchange.headroom);
                exchange.occupied.caller = routed.into_permit();
                return Ok(Answer::Whole(ResponseParts::own(JSON), Bytes::from(bytes)));
            }
            Local::Echo { answer, continues, .. } => (answer, continues),
        };
        let filter = self.response_filter(&routed, continues);
        exchange.occupied.caller = routed.into_permit();
        match answer {
            Echo::Whole(bytes) => {
                exchange.heard(usage::heard(operation, &bytes));
                let bytes = filtered(Bytes::from(bytes), 200, filter, exchange).await?;
                exchange.occupied.server = Permit::default();
                Ok(Answer::Whole(ResponseParts::own(JSON), bytes))
            }
            Echo::Stream(pieces) => {
                let mut pieces = filtered_pieces(pieces, StreamFilter::new(operation, true, filter), exchange)?;
                pieces.reverse();
                let stream = Stream { source: Source::Pieces(pieces), watch };
                Ok(Answer::Stream(ResponseParts::own(EVENTS), Box::new(stream)))
            }
        }
    }

    /// Forwards a call, with the content that the gateway fetches for it.
    async fn forward(
        &self,
        call: Committed<Call>,
        routed: Routed,
        mut watch: Watch,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let filter = self.response_filter(&routed, call.get().continues);
        let (call, _room) = match call.get().fetches {
            None => (call, None),
            // Boxed, as it is rare: every request would keep room for it.
            Some(_) => Box::pin(self.fetched(call, &routed, &mut watch, exchange)).await?,
        };
        exchange.occupied.caller = routed.into_permit();
        self.call(call, filter, watch, exchange).await
    }

    /// The response filter for this caller.
    fn response_filter(&self, routed: &Routed, continues: bool) -> Filter {
        let caller = routed.paced().caller();
        let metrics = Arc::clone(&self.metrics);
        Filter::new((caller.token(), caller.class().answers), Arc::clone(caller.tables()), metrics, !continues)
    }
}

/// How errors are shaped for whoever sent `request`.
fn dialect<B>(request: &Request<B>) -> Dialect {
    let anthropic = request.uri().path().starts_with("/v1/messages") || request.headers().contains_key("anthropic-version");
    if anthropic { Dialect::Anthropic } else { Dialect::OpenAi }
}

const fn reads_body(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Messages => true,
        Operation::ListModels | Operation::ShowModel | Operation::Me => false,
    }
}
