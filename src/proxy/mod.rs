//! The life of a request, on one screen: [`Gateway::serve`].

mod answer;
pub mod body;
pub mod buffer;
pub mod connect;
pub mod fetch;
pub mod forward;
mod framing;
pub mod listen;
pub mod meter;
pub mod peer;
pub mod pool;
mod receipts;
pub mod request_id;
pub mod resolve;
pub mod respond;
pub mod settings;
pub mod stream;
pub mod tap;
pub mod tree;
pub mod watch;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use crate::audit::entry::{Draft, Pen, Sealed};
use crate::audit::request::Stripped;
use crate::clock::Clock;
use crate::crypto::Draws;
use crate::guard::admit::{Admitted, Call, Stamp, Work, admit, enter_server};
use crate::guard::authenticate::{Authenticated, Authenticator, Credential, Found};
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::allowance::Allowance;
use crate::guard::egress::answer::Filter;
use crate::guard::egress::request::clear;
use crate::guard::gcra::Limit;
use crate::guard::govern::govern;
use crate::guard::limiter::{Limiter, Permit};
use crate::guard::pace::pace;
use crate::guard::route::{Routed, Target, route};
use crate::guard::screen::screen;
use crate::guard::table::Tables;
use crate::guard::understand::{model_changed, understand};
use crate::health::Health;
use crate::id::RequestId;
use crate::metrics::Metrics;
use crate::model::answer::StreamFilter;
use crate::model::echo::Echo;
use crate::model::{Dialect, Operation, Reach, usage};
use crate::proxy::answer::{Answer, Pass, Passed, Streamed, filtered, filtered_pieces, list, me};
use crate::proxy::body::Body;
use crate::proxy::buffer::{Buffers, Room};
use crate::proxy::fetch::Fetcher;
use crate::proxy::forward::{Heard, Remote, collect, judge};
use crate::proxy::framing::framing;
use crate::proxy::meter::Meter;
use crate::proxy::pool::Arriving;
use crate::proxy::request_id::RequestIds;
use crate::proxy::respond::{Anonymous, No};
use crate::proxy::settings::Timeouts;
use crate::proxy::stream::{Source, Times};
use crate::proxy::tap::Unexplained;
use crate::proxy::tree::Tree;
use crate::proxy::watch::Watch;
use crate::refusal::{Code, Refusal, Stage};
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
}

/// The data plane: small handles on the books, and the way through them.
pub struct Gateway {
    /// The config in force.
    pub wiring: ArcSwap<Wiring>,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Rates and places.
    pub limiter: Arc<Limiter>,
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
    /// `Content-Length` lines of an HTTP/1 connection.
    pub unexplained: Unexplained,
}

/// A refusal on its way out, with the rate limit to show in its headers.
struct Refused {
    refusal: Refusal,
    limit: Option<Limit>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, limit: None }
    }
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
        let anthropic = request.uri().path().starts_with("/v1/messages") || request.headers().contains_key("anthropic-version");
        let dialect = if anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
        let meter = Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id);
        let mut way = Way { id, id_text: id.to_string(), dialect, meter, wiring: self.wiring.load_full(), wants_receipt: false };
        way.meter.facts().peer = Some(origin.peer);
        let (parts, mut body) = request.into_parts();
        // RFC 9112 section 6.1: close after a message whose framing could have been understood in two ways.
        let mut close = parts.headers.contains_key(http::header::TRANSFER_ENCODING);
        let over_http1 = parts.version <= http::Version::HTTP_11;
        let answer = self.answer(Request::from_parts(parts, ()), &mut body, &origin, &mut way).await;
        let answered = match answer {
            Ok(answer) => answer.respond(way).await.map_err(|(refusal, way)| (refusal.into(), way)),
            Err(refused) => Err((refused, way)),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err((refused, way)) => self.refuse(refused, way, origin.peer).await,
        };
        // Section 9.6: what is not read of a request ends its connection, and its caller is told.
        close |= over_http1 && !buffer::spent(&mut body).await;
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The whole HTTP/1.1 answer to a request whose head could not be read, for the reason `code`.
    #[must_use]
    pub fn unread(&self, code: Code) -> Vec<u8> {
        let id = self.request_ids.next(self.clock.now());
        let refusal = Refusal::new(code);
        Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id).refused(&refusal);
        self.pen.stranger(&id, &refusal, None);
        let no = No::Anonymous(Anonymous::new(refusal));
        respond::written(respond::refuse(&no, Dialect::OpenAi, &id.to_string(), None))
    }

    /// The answer to a refused request: sealed where the caller is known, counted where not.
    async fn refuse(&self, refused: Refused, mut way: Way, peer: IpAddr) -> Response<Body> {
        let Refused { refusal, limit } = refused;
        let refusal = respond::clock_named(refusal, &*self.clock);
        way.meter.judged(&refusal);
        let about = way.meter.about(&way.wiring.policy).filter(|_| refusal.code.stage() >= Stage::Authenticated);
        let no = if let Some((entry, ending)) = way.meter.take_entry() {
            No::Sealed(self.pen.close_refused(entry, ending, refusal).await)
        } else if let Some(about) = about {
            No::Sealed(self.pen.seal_refusal(refusal, about, way.meter.ms()).await)
        } else {
            self.pen.stranger(&way.id, &refusal, Some(peer));
            No::Anonymous(Anonymous::new(refusal))
        };
        // What is told is what counts, once: where it cannot be recorded, that has become the refusal.
        way.meter.refused(no.refusal());
        respond::refuse(&no, way.dialect, &way.id_text, limit)
    }

    /// The way of a request. Each step takes what the one before proved.
    async fn answer(&self, request: Request<()>, body: &mut Incoming, origin: &Origin, way: &mut Way) -> Result<Answer, Refused> {
        framing(&request, &origin.unexplained)?;
        let (parts, ()) = request.into_parts();
        let target = Target::read(&parts.uri)?;
        if way.wiring.publish_keys && parts.method == Method::GET && target.path() == KEYS_PATH {
            way.meter.facts().operation = "keys";
            let keys = self.authenticator.published_keys(origin.peer)?;
            return Ok(Answer::Public(Bytes::from(keys), respond::JWK_SET));
        }
        if let Some(tree) = &way.wiring.tree
            && let Some(path) = target.path().strip_prefix(tree::PATH).filter(|_| parts.method == Method::GET)
        {
            way.meter.facts().operation = "audit";
            return self.tree(tree, path, (&parts.headers, origin.peer)).await;
        }
        let credential = Credential::read(&parts.headers).map_err(|no| self.stranger(no, origin.peer))?;
        // From before the first question on: what changes while the body is read is asked again before the seal.
        let changes = self.registry.changes();
        let caller = self.authenticate(&credential, origin.peer, way)?;
        let books = (Arc::clone(&self.authenticator), self.pen.clone(), Arc::clone(&self.clock));
        let mut watch = Watch::new(books, Arc::clone(caller.token()), changes);
        let paced = pace(caller, &self.limiter).map_err(|over| Refused { refusal: over.refusal, limit: over.limit })?;
        if let Some(name) = target.path().strip_prefix(receipts::PATH).filter(|_| parts.method == Method::GET) {
            way.meter.facts().operation = "receipt";
            let agent = paced.caller().token().verified.agent();
            return Ok(Answer::Public(receipts::receipt(&self.pen, agent, name).await?, respond::TEXT));
        }
        way.wants_receipt = parts.headers.get("want-receipt").is_some_and(|value| value == "1");
        let routed = route(paced, &parts.method, &target)?;
        way.meter.facts().operation = routed.operation().as_str();
        let held = if reads_body(routed.operation()) {
            let (max, timeouts) = (way.wiring.tables.body_max, &way.wiring.timeouts);
            let times = Times { clock: Arc::clone(&self.clock), idle_max: timeouts.body_idle, ends: way.ends() };
            buffer::read(&parts.headers, body, &self.buffers, (max, times)).await?
        } else {
            buffer::Held::default()
        };
        let understood = understand(routed, held.bytes(), (&way.wiring.health, &self.weights))?;
        let governed = govern(screen(clear(understood, &self.metrics, &self.marks)?));
        let (created, cache_salts) = (self.clock.now().seconds(), &self.cache_salts);
        let stamp = Stamp { request: way.id, created, cache_salts };
        let admitted = admit(governed, &self.limiter, &stamp)?;
        watch.check()?;
        let sealed = self.seal(admitted, held.bytes(), way).await?;
        // What goes on is about as long as what came: the room stays taken until the server has it.
        let room = held.into_room();
        let (admitted, entry) = sealed.into_parts();
        way.meter.admitted(entry);
        // What came up while the record was written is asked now: not a byte has gone on yet.
        watch.check()?;
        let answer = self.work(admitted, watch, way).await;
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
                        way.meter.usage(usage::of(operation, &bytes));
                        let (bytes, pass) = filtered(Bytes::from(bytes), filter, pass, way).await?;
                        Answer::Whole(pass, Passed::own(JSON), bytes, None)
                    }
                    Echo::Stream(pieces) => {
                        let mut pieces = filtered_pieces(pieces, StreamFilter::new(operation, true, filter), way)?;
                        pieces.reverse();
                        let streamed = Streamed { source: Source::Pieces(pieces), server, watch, times: self.times(way) };
                        Answer::Stream(pass, Passed::own(EVENTS), Box::new(streamed))
                    }
                })
            }
            Work::Call(call) => {
                let filter = self.door(&routed, call.continues);
                let (call, _room) = self.fetched(call, &routed, &mut watch, way).await?;
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
        Times { clock: Arc::clone(&self.clock), idle_max: way.wiring.timeouts.stream_idle, ends: way.ends() }
    }

    /// Asks the upstream and hands its answer on.
    async fn call(
        &self,
        call: Call,
        (operation, filter): (Operation, Filter),
        (pass, mut server, mut watch): (Pass, Permit, Watch),
        way: &mut Way,
    ) -> Result<Answer, Refusal> {
        let response = tokio::select! {
            answered = self.ask(&call, operation, &mut server, way) => answered?,
            refusal = watch.revoked() => return Err(refusal),
        };
        let head = judge(response.status().as_u16(), response.headers())?;
        way.meter.head(head.status);
        let passed = Passed { retry_after: head.retry_after, status: head.status, content_type: head.content_type };
        match head.heard {
            Heard::Json => {
                let collected = collect(response.into_body(), Room::of(&self.buffers), self.times(way));
                let (bytes, room) = tokio::select! {
                    whole = collected => whole?,
                    refusal = watch.revoked() => return Err(refusal),
                };
                way.meter.first_byte();
                way.meter.usage(usage::of(operation, &bytes));
                drop(server);
                let (bytes, pass) = filtered(bytes, filter, pass, way).await?;
                Ok(Answer::Whole(pass, passed, bytes, Some(room)))
            }
            Heard::Events => {
                let filter = Box::new(StreamFilter::new(operation, call.usage_asked, filter));
                let source = Source::Upstream(response.into_body(), filter, None);
                let streamed = Streamed { source, server, watch, times: self.times(way) };
                Ok(Answer::Stream(pass, passed, Box::new(streamed)))
            }
        }
    }

    /// Sends the call to the upstream that it was written for or, where that cannot be reached, to the next of the route
    /// with the same profile.
    async fn ask(
        &self,
        call: &Call,
        operation: Operation,
        server: &mut Permit,
        way: &mut Way,
    ) -> Result<Response<Arriving>, Refusal> {
        let id = HeaderValue::from_str(&way.id_text).map_err(|error| Refusal::new(Code::Internal).because(error))?;
        let first_byte = way.wiring.timeouts.first_byte;
        let others = call.served.route.iter().filter(|other| {
            other.name != call.upstream.name && !other.echo && Arc::ptr_eq(&other.profile, &call.upstream.profile)
        });
        let mut last = Refusal::new(Code::UpstreamUnavailable);
        way.meter.forwarded();
        for upstream in std::iter::once(&call.upstream).chain(others) {
            let Some(remote) = way.wiring.remotes.get(&upstream.name) else { continue };
            // Asked for again: the record was written in between, and another server has weights of its own.
            let Some(digest) = self.weights.passing(&call.served.name, &upstream.name) else {
                last = model_changed(&call.served.name);
                continue;
            };
            if !Arc::ptr_eq(upstream, &call.upstream) {
                match enter_server(&self.limiter, upstream) {
                    Ok(permit) => *server = permit.with(std::mem::take(server)),
                    Err(refusal) => {
                        last = refusal;
                        continue;
                    }
                }
            }
            way.meter.facts().upstream = Some(upstream.server.clone());
            way.meter.facts().model_digest = Some(digest);
            let sent = remote.send(operation, call.body.clone(), call.stream, &id);
            match tokio::time::timeout(first_byte, sent).await {
                Err(_) => return Err(Refusal::new(Code::UpstreamSlow).because("timeout first_byte")),
                Ok(Ok(response)) => {
                    self.note(&way.wiring.health, &upstream.name, true);
                    return Ok(response);
                }
                Ok(Err(refusal)) if refusal.code == Code::UpstreamUnavailable => {
                    self.note(&way.wiring.health, &upstream.name, false);
                    last = refusal;
                }
                Ok(Err(refusal)) => return Err(refusal),
            }
        }
        Err(last)
    }

    fn note(&self, health: &Health, upstream: &str, up: bool) {
        if health.note(upstream, up) {
            self.metrics.upstream_up(upstream, up);
            tracing::warn!(upstream, up, "upstream changed");
        }
    }

    /// A refusal of somebody without a credential, counted against the peer's network.
    fn stranger(&self, refusal: Refusal, peer: IpAddr) -> Refused {
        self.authenticator.count_stranger(peer).err().unwrap_or(refusal).into()
    }
}

const fn reads_body(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Messages => true,
        Operation::ListModels | Operation::ShowModel | Operation::Me => false,
    }
}
