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
pub mod fetch;
pub mod forward;
pub mod frames;
mod framing;
pub mod heads;
pub mod listen;
pub mod meter;
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
pub mod tree;
mod turn;
pub mod watch;
pub mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};

use crate::audit::format::request::Stripped;
use crate::audit::store::entry::{Draft, Pen, Sealed};
use crate::clock::Clock;
use crate::crypto::Draws;
use crate::guard::admit::{Admitted, Stamp, Work, admit};
use crate::guard::authenticate::{Authenticated, Authenticator, Credential, Found};
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::allowance::Allowance;
use crate::guard::egress::answer::Filter;
use crate::guard::egress::request::clear;
use crate::guard::govern::govern;
use crate::guard::limiter::Limiter;
use crate::guard::pace::pace;
use crate::guard::places::Places;
use crate::guard::route::{Routed, Target, reads, route};
use crate::guard::screen::screen;
use crate::guard::table::Tables;
use crate::guard::understand::understand;
use crate::health::Health;
use crate::id::RequestId;
use crate::metrics::Metrics;
use crate::model::answer::StreamFilter;
use crate::model::echo::Echo;
use crate::model::redact::Redactor;
use crate::model::usage::{self, AnswerLimits};
use crate::model::{Dialect, Operation, Reach};
use crate::proxy::activity::Written;
use crate::proxy::answer::{Answer, Pass, Passed, Streamed, filtered, filtered_pieces, list, me};
use crate::proxy::body::Body;
use crate::proxy::buffer::Buffers;
use crate::proxy::fetch::Fetcher;
use crate::proxy::forward::Remote;
use crate::proxy::framing::framing;
use crate::proxy::heads::Framing;
use crate::proxy::meter::Meter;
use crate::proxy::refused::{Refused, readable};
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::Timeouts;
use crate::proxy::stream::{Source, Times};
use crate::proxy::tree::Tree;
use crate::proxy::watch::Watch;
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

/// One request while it is at work.
struct Way {
    id: RequestId,
    id_text: String,
    dialect: Dialect,
    meter: Meter,
    wiring: Arc<Wiring>,
    /// Whether the caller wants its outcome named too.
    wants_receipt: bool,
    /// What the caller took, where that is known.
    reader: Option<Arc<Written>>,
}

/// Where the public keys are, for those who look for them.
const KEYS_PATH: &str = "/.well-known/jwks.json";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

impl Way {
    /// When the request has had its time, on the monotonic clock.
    fn ends(&self) -> std::time::Duration {
        self.meter.began() + self.wiring.timeouts.whole
    }
}

impl Gateway {
    /// Answers one request.
    pub async fn serve(self: Arc<Self>, request: Request<Incoming>, origin: Origin) -> Response<Body> {
        let id = self.request_ids.next(self.clock.now());
        let dialect = dialect(&request);
        let (id_text, wiring) = (id.to_string(), self.wiring.load_full());
        let meter = Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id).redacting(&wiring.redactor);
        let reader = origin.reader.clone();
        // Boxed: it is handed on several times, and each of them would keep room for it.
        let mut way = Box::new(Way { id, id_text, dialect, meter, wiring, wants_receipt: false, reader });
        way.meter.facts().peer = Some(origin.peer);
        let (parts, mut body) = request.into_parts();
        let alone = parts.method == Method::HEAD;
        let over_http1 = parts.version <= http::Version::HTTP_11;
        // A caller that waits for 100 Continue has sent nothing yet, and is not asked to for nothing (RFC 9110 section 10.1.1).
        let expects = parts.headers.contains_key(EXPECT);
        let answer = self.answer(Request::from_parts(parts, ()), &mut body, &origin, &mut way).await;
        let answered = match answer {
            Ok(answer) => Box::pin(answer.respond(way)).await.map_err(|(refusal, way)| (refusal.into(), way)),
            Err(refused) => Err((refused, way)),
        };
        let mut close = false;
        let mut response = match answered {
            Ok(response) => response,
            Err((refused, way)) => {
                // RFC 9112 section 6.1: close after a message whose framing could have been understood in two ways.
                close = over_http1 && refused.refusal.code == Code::FramingInvalid;
                Box::pin(self.refuse(refused, way, origin.peer)).await
            }
        };
        // Section 9.6: what is not read of a request ends its connection, and its caller is told.
        close |= over_http1 && !(body.is_end_stream() || !expects && buffer::spent(&mut body).await);
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if alone { respond::headers_alone(response) } else { response }
    }

    /// The way of a request. Each step takes what the one before proved.
    async fn answer(&self, request: Request<()>, body: &mut Incoming, origin: &Origin, way: &mut Way) -> Result<Answer, Refused> {
        framing(&request, origin.framing)?;
        let (parts, ()) = request.into_parts();
        let target = Target::read(&parts.uri)?;
        if way.wiring.publish_keys && reads(&parts.method) && target.path() == KEYS_PATH {
            way.meter.facts().operation = "keys";
            let keys = self.authenticator.published_keys(origin.peer)?;
            return Ok(Answer::Public(Bytes::from(keys), respond::JWK_SET));
        }
        if let Some(tree) = &way.wiring.tree
            && let Some(path) = target.path().strip_prefix(tree::PATH).filter(|_| reads(&parts.method))
        {
            way.meter.facts().operation = "audit";
            return Box::pin(self.tree(tree, path, (&parts.headers, origin.peer))).await;
        }
        let credential = Credential::read(&parts.headers).map_err(|no| self.stranger(no, origin.peer))?;
        // From before the first question on: what changes while the body is read is asked again before the seal.
        let changes = self.registry.changes();
        let caller = self.authenticate(&credential, origin.peer, way)?;
        let books = (Arc::clone(&self.authenticator), self.pen.clone(), Arc::clone(&self.clock));
        let mut watch = Watch::new(books, Arc::clone(caller.token()), changes);
        let paced = pace(caller, &self.limiter).map_err(|over| Refused { refusal: over.refusal, limit: over.limit })?;
        readable(&parts.method, target.path(), &way.wiring)?;
        if let Some(name) = target.path().strip_prefix(receipts::PATH) {
            way.meter.facts().operation = "receipt";
            let agent = paced.caller().token().verified.agent();
            return Ok(Answer::Public(Box::pin(receipts::receipt(&self.pen, agent, name)).await?, respond::TEXT));
        }
        way.wants_receipt = parts.headers.get("want-receipt").is_some_and(|value| value == "1");
        let routed = route(paced, &parts.method, &target)?;
        way.meter.facts().operation = routed.operation().as_str();
        let held = if reads_body(routed.operation()) {
            let (max, timeouts) = (way.wiring.tables.body_max, &way.wiring.timeouts);
            let times = Times { clock: Arc::clone(&self.clock), idle_max: timeouts.body_idle, ends: way.ends(), reader: None };
            buffer::read(parts.headers, body, &self.buffers, (max, times)).await?
        } else {
            buffer::Held::default()
        };
        let understood = understand(routed, held.bytes(), (&way.wiring.health, &self.weights))?;
        let governed = govern(screen(clear(understood, &self.metrics, &self.marks)?));
        let (created, cache_salts) = (self.clock.now().seconds(), &self.cache_salts);
        let stamp = Stamp { request: way.id, created, cache_salts };
        let turn = self.turn(&governed, way).await?;
        // Asked again: who waited for its turn may have lost its standing, or its token its time.
        watch.check()?;
        let admitted = admit(governed, turn, &self.limiter, &stamp)?;
        // What comes behind the body is boxed: a caller that keeps its body back holds none of it.
        let sealed = Box::pin(self.seal(admitted, held.bytes(), way)).await?;
        // What goes on is about as long as what came: the room stays taken until the server has it.
        let room = held.into_room();
        let (admitted, entry) = sealed.into_parts();
        way.meter.admitted(entry);
        // What came up while the record was written is asked now: not a byte has gone on yet.
        watch.check()?;
        let answer = Box::pin(self.work(admitted, watch, way)).await;
        drop(room);
        Ok(answer?)
    }

    /// Seals what was admitted, before its server sees a byte.
    async fn seal(&self, admitted: Admitted, received: &[u8], way: &mut Way) -> Result<Sealed<Admitted>, Refusal> {
        let call = admitted.call();
        let facts = way.meter.facts();
        facts.model = admitted.model().cloned();
        facts.upstream = admitted.server().cloned();
        let asked = facts.model.as_ref().zip(facts.upstream.as_ref());
        facts.model_digest = asked.map(|(model, server)| self.weights.digest(model, &server.name));
        let (upstream, model_digest) = (facts.upstream.clone(), facts.model_digest.clone());
        let about = way.meter.about(&way.wiring.policy).ok_or(Code::Internal)?;
        // What content is still to be put into is recorded when that has come.
        let forwarded = call.filter(|call| call.fetches.is_none()).map(|call| call.body.clone());
        let output_tokens = admitted.output_tokens();
        let stripped =
            |reach: &Reach| Stripped { kind: reach.kind.as_str(), path: reach.path.clone(), target: reach.target.clone() };
        let stripped = admitted.stripped().iter().map(stripped).collect();
        let wanted = call.and_then(|call| call.fetches.as_ref()).map(|fetches| fetches.wanted.clone()).unwrap_or_default();
        let fetches = wanted.iter().map(|wanted| (&*wanted.reach.path, &*wanted.reach.target)).collect();
        let forwarded = forwarded.as_deref();
        let draft = Draft { about, upstream, model_digest, output_tokens, stripped, fetches, received, forwarded };
        self.pen.seal(admitted, draft).await
    }

    fn authenticate(&self, credential: &Credential<'_>, peer: IpAddr, way: &mut Way) -> Result<Authenticated, Refused> {
        let tables = Arc::clone(&way.wiring.tables);
        let (caller, found) = self.authenticator.authenticate(credential, peer, tables).map_err(|denied| {
            self.metrics.token_cache("refused");
            way.meter.facts().caller = denied.token;
            way.meter.facts().handle = denied.handle;
            denied.refusal
        })?;
        self.metrics.token_cache(match found {
            Found::Cached => "hit",
            Found::Verified => "miss",
        });
        way.meter.facts().caller = Some(Arc::clone(caller.token()));
        way.meter.facts().handle = caller.handle().copied();
        Ok(caller)
    }

    /// Does the work that was sealed.
    async fn work(&self, admitted: Admitted, mut watch: Watch, way: &mut Way) -> Result<Answer, Refusal> {
        let headroom = admitted.headroom();
        let (routed, work, notes, server) = admitted.into_parts();
        let operation = routed.operation();
        match work {
            Work::Models(one) => {
                let bytes = list(&routed, one.as_deref(), way.dialect)?;
                let pass = Pass { headroom, notes, caller: routed.into_permit() };
                Ok(Answer::Whole(pass, Passed::own(JSON), Bytes::from(bytes), None))
            }
            Work::Me => {
                let bytes = me(&routed, headroom);
                let pass = Pass { headroom, notes, caller: routed.into_permit() };
                Ok(Answer::Whole(pass, Passed::own(JSON), Bytes::from(bytes), None))
            }
            Work::Echo { answer, continues, .. } => {
                let filter = self.door(&routed, continues);
                let pass = Pass { headroom, notes, caller: routed.into_permit() };
                Ok(match answer {
                    Echo::Whole(bytes) => {
                        way.meter.heard(usage::heard(operation, &bytes));
                        let (bytes, pass) = filtered((Bytes::from(bytes), 200), filter, pass, way).await?;
                        Answer::Whole(pass, Passed::own(JSON), bytes, None)
                    }
                    Echo::Stream(pieces) => {
                        let mut pieces = filtered_pieces(pieces, StreamFilter::new(operation, true, filter), way)?;
                        pieces.reverse();
                        let streamed =
                            Streamed { source: Source::Pieces(pieces), server, watch, times: self.times(way), room: None };
                        Answer::Stream(pass, Passed::own(EVENTS), Box::new(streamed))
                    }
                })
            }
            Work::Call(call) => {
                let filter = self.door(&routed, call.continues);
                let (call, _room) = match call.fetches {
                    None => (call, None),
                    // Boxed, as it is rare: every request would keep room for it.
                    Some(_) => Box::pin(self.fetched(call, &routed, &mut watch, way)).await?,
                };
                let pass = Pass { headroom, notes, caller: routed.into_permit() };
                self.call(call, (operation, filter), (pass, server, watch), way).await
            }
        }
    }

    /// What the texts of an answer pass.
    fn door(&self, routed: &Routed, continues: bool) -> Filter {
        let caller = routed.paced().caller();
        let metrics = Arc::clone(&self.metrics);
        Filter::new((caller.token(), caller.class().answers), Arc::clone(caller.tables()), metrics, !continues)
    }

    /// The times of an answer.
    fn times(&self, way: &Way) -> Times {
        Times {
            clock: Arc::clone(&self.clock),
            idle_max: way.wiring.timeouts.stream_idle,
            ends: way.ends(),
            reader: way.reader.clone(),
        }
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
