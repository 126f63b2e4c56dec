//! The life of a request, on one screen: [`Gateway::serve`].

pub mod body;
pub mod buffer;
pub mod connect;
pub mod forward;
pub mod listen;
pub mod meter;
pub mod peer;
pub mod request_id;
pub mod respond;
pub mod settings;
pub mod stream;
pub mod tap;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::audit::entry::{Entry, Pen};
use crate::clock::Clock;
use crate::guard::admit::{Admitted, Call, Notes, Stamp, Work, admit};
use crate::guard::authenticate::{Authenticated, Authenticator, Credential, Found};
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::request::clear;
use crate::guard::gcra::{Headroom, Limit};
use crate::guard::govern::govern;
use crate::guard::limiter::{Limiter, Permit};
use crate::guard::pace::pace;
use crate::guard::route::{Routed, Target, route};
use crate::guard::screen::screen;
use crate::guard::table::Tables;
use crate::guard::understand::{may_use, not_found, understand};
use crate::health::Health;
use crate::id::RequestId;
use crate::metrics::Metrics;
use crate::model::answer::StreamFilter;
use crate::model::echo::Echo;
use crate::model::{Dialect, Operation, models, usage};
use crate::proxy::body::{Body, Pieces};
use crate::proxy::buffer::Buffers;
use crate::proxy::forward::{Heard, Remote, collect, judge};
use crate::proxy::meter::Meter;
use crate::proxy::request_id::RequestIds;
use crate::proxy::respond::{Anonymous, Head, No};
use crate::proxy::settings::Timeouts;
use crate::proxy::stream::{Carried, Relay, Watch};
use crate::proxy::tap::Unexplained;
use crate::refusal::{Code, Refusal};
use crate::registry::Registry;

/// What changes when the config is read again.
pub struct Wiring {
    /// Classes, principals, models.
    pub tables: Arc<Tables>,
    /// Upstreams by name.
    pub remotes: HashMap<Arc<str>, Arc<Remote>>,
    /// Which of them answer.
    pub health: Arc<Health>,
    /// Time limits.
    pub timeouts: Timeouts,
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
    no: No,
    limit: Option<Limit>,
}

/// One request while it is at work.
struct Way {
    id: RequestId,
    id_text: String,
    dialect: Dialect,
    meter: Meter,
    wiring: Arc<Wiring>,
}

impl Gateway {
    /// Answers one request.
    pub async fn serve(self: Arc<Self>, request: Request<Incoming>, origin: Origin) -> Response<Body> {
        let id = self.request_ids.next(self.clock.now());
        let anthropic = request.uri().path().starts_with("/v1/messages") || request.headers().contains_key("anthropic-version");
        let dialect = if anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
        let meter = Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id);
        let mut way = Way { id, id_text: id.to_string(), dialect, meter, wiring: self.wiring.load_full() };
        let chunked = request.headers().contains_key(http::header::TRANSFER_ENCODING);
        let mut response = match self.answer(request, &origin, &mut way).await {
            Ok(answer) => answer(way),
            Err(refused) => {
                way.meter.refused(refused.no.refusal());
                respond::refuse(&refused.no, way.dialect, &way.id_text, refused.limit)
            }
        };
        if chunked {
            // RFC 9112 section 6.1: close after a message whose framing could have been understood in two ways.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The whole HTTP/1.1 answer to a request whose headers did not end in time.
    #[must_use]
    pub fn too_slow(&self) -> Vec<u8> {
        let id = self.request_ids.next(self.clock.now());
        let no = self.anonymous(Code::HeadersSlow.into()).no;
        Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id).refused(no.refusal());
        respond::written(respond::refuse(&no, Dialect::OpenAi, &id.to_string(), None))
    }

    /// The way of a request. Each step takes what the one before proved.
    async fn answer(&self, request: Request<Incoming>, origin: &Origin, way: &mut Way) -> Result<Answer, Refused> {
        framing(&request, origin).map_err(|no| self.anonymous(no))?;
        let (parts, body) = request.into_parts();
        let target = Target::read(&parts.uri).map_err(|no| self.anonymous(no))?;
        let credential = Credential::read(&parts.headers).map_err(|no| self.stranger(no, origin.peer))?;
        let caller = self.authenticate(&credential, origin.peer, way)?;
        let token = Arc::clone(caller.token());
        let paced = pace(caller, &self.limiter).map_err(|over| {
            let limit = Some(over.limit);
            Refused { no: self.sealed(over.refusal), limit }
        })?;
        let routed = route(paced, &parts.method, &target).map_err(|no| self.known(no))?;
        way.meter.facts().operation = routed.operation().as_str();
        let wanted = reads_body(routed.operation());
        let held = if wanted {
            let limits = (way.wiring.tables.body_max, way.wiring.timeouts.body_idle);
            buffer::read(&parts.headers, body, &self.buffers, limits).await.map_err(|no| self.known(no))?
        } else {
            drop(body);
            buffer::Held::default()
        };
        let understood = understand(routed, held.bytes(), &way.wiring.health).map_err(|no| self.known(no))?;
        let governed = govern(screen(clear(understood).map_err(|no| self.known(no))?));
        let (created, cache_salts) = (self.clock.now().seconds(), &self.cache_salts);
        let stamp = Stamp { request: way.id, created, cache_salts };
        let admitted = admit(governed, &self.limiter, &stamp).map_err(|no| self.known(no))?;
        drop(held);
        let sealed = self.pen.seal(admitted).map_err(|no| self.known(no))?;
        let (admitted, entry) = sealed.into_parts();
        let watch = Watch::new(Arc::clone(&self.authenticator), token, self.registry.changes());
        self.work(admitted, entry, watch, way).await.map_err(|no| self.known(no))
    }

    fn authenticate(&self, credential: &Credential<'_>, peer: IpAddr, way: &mut Way) -> Result<Authenticated, Refused> {
        let tables = Arc::clone(&way.wiring.tables);
        let (caller, found) = self.authenticator.authenticate(credential, peer, tables).map_err(|no| {
            self.metrics.token_cache("refused");
            self.known(no)
        })?;
        self.metrics.token_cache(match found {
            Found::Cached => "hit",
            Found::Verified => "miss",
        });
        way.meter.facts().caller = Some(Arc::clone(caller.token()));
        Ok(caller)
    }

    /// Does the work that was sealed.
    async fn work(&self, admitted: Admitted, entry: Entry, watch: Watch, way: &mut Way) -> Result<Answer, Refusal> {
        let headroom = admitted.headroom();
        let (routed, work, notes, permit) = admitted.into_parts();
        let about = About { headroom, notes };
        match work {
            Work::Models(one) => {
                let bytes = list(&routed, one.as_deref(), way.dialect)?;
                Ok(whole(entry, about, (200, json()), Bytes::from(bytes)))
            }
            Work::Echo { answer, served } => {
                way.meter.facts().model = Some(Arc::clone(&served.name));
                way.meter.facts().upstream = served.route.first().map(|upstream| Arc::clone(&upstream.name));
                Ok(echo(answer, (entry, permit, watch), about, routed.operation()))
            }
            Work::Call(call) => self.call(call, routed.operation(), (entry, permit, watch), about, way).await,
        }
    }

    /// Asks the upstream and hands its answer on.
    async fn call(
        &self,
        call: Call,
        operation: Operation,
        (entry, permit, mut watch): (Entry, Permit, Watch),
        about: About,
        way: &mut Way,
    ) -> Result<Answer, Refusal> {
        way.meter.facts().model = Some(Arc::clone(&call.served.name));
        let ends = way.meter.began() + way.wiring.timeouts.whole;
        let response = tokio::select! {
            answered = self.ask(&call, operation, way) => answered?,
            refusal = watch.lost() => return Err(refusal),
        };
        let head = judge(response.status().as_u16(), response.headers())?;
        way.meter.head(head.status);
        let (idle_max, clock) = (way.wiring.timeouts.stream_idle, Arc::clone(&self.clock));
        match head.heard {
            Heard::Json => {
                let left = ends.saturating_sub(self.clock.monotonic());
                let bytes = tokio::select! {
                    whole = tokio::time::timeout(left, collect(response.into_body(), idle_max)) => {
                        whole.map_err(|_| Refusal::new(Code::UpstreamSlow).because("timeout whole"))??
                    }
                    refusal = watch.lost() => return Err(refusal),
                };
                way.meter.first_byte();
                way.meter.usage(usage::of(operation, &bytes));
                drop(permit);
                let answer = Passed { retry_after: head.retry_after, status: head.status, content_type: head.content_type };
                Ok(passed(entry, about, answer, bytes))
            }
            Heard::Events => {
                let filter = StreamFilter::new(operation, call.usage_asked);
                let body = response.into_body();
                Ok(Box::new(move |way: Way| {
                    let (id, dialect) = (way.id_text.clone(), way.dialect);
                    let carried = Carried { watch, meter: way.meter, dialect, request: way.id_text, permit, entry };
                    let relay = Relay::new((body, filter), carried, clock, idle_max, ends);
                    let head = about.head(&id, (head.status, head.content_type), head.retry_after);
                    respond::stream(head, Body::Relay(Box::new(relay)))
                }))
            }
        }
    }

    /// Sends the call to the upstream that it was written for or, where that cannot be reached, to the next of the route
    /// with the same profile.
    async fn ask(&self, call: &Call, operation: Operation, way: &mut Way) -> Result<Response<Incoming>, Refusal> {
        let id = HeaderValue::from_str(&way.id_text).map_err(|error| Refusal::new(Code::Internal).because(error))?;
        let first_byte = way.wiring.timeouts.first_byte;
        let others = call.served.route.iter().filter(|other| {
            other.name != call.upstream.name && !other.echo && Arc::ptr_eq(&other.profile, &call.upstream.profile)
        });
        let body = Bytes::from(call.body.clone());
        let mut last = Refusal::new(Code::UpstreamUnavailable);
        way.meter.forwarded();
        for upstream in std::iter::once(&call.upstream).chain(others) {
            let Some(remote) = way.wiring.remotes.get(&upstream.name) else { continue };
            way.meter.facts().upstream = Some(Arc::clone(&upstream.name));
            let sent = remote.send(operation, body.clone(), call.stream, &id);
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

    fn sealed(&self, refusal: Refusal) -> No {
        No::Sealed(self.pen.seal_refusal(refusal))
    }

    /// A refusal at any stage: anonymous if nobody was known at it, else sealed.
    fn known(&self, refusal: Refusal) -> Refused {
        let no = match Anonymous::new(refusal) {
            Ok(anonymous) => No::Anonymous(anonymous),
            Err(refusal) => self.sealed(refusal),
        };
        Refused { no, limit: None }
    }

    fn anonymous(&self, refusal: Refusal) -> Refused {
        self.known(refusal)
    }

    /// A refusal of somebody without a credential, counted against the peer's network.
    fn stranger(&self, refusal: Refusal, peer: IpAddr) -> Refused {
        self.known(self.authenticator.count_stranger(peer).err().unwrap_or(refusal))
    }
}

/// An answer that is ready but for what rides in its body.
type Answer = Box<dyn FnOnce(Way) -> Response<Body> + Send>;

/// What an answer's headers say of the request.
struct About {
    headroom: Option<Headroom>,
    notes: Notes,
}

impl About {
    fn head<'h>(
        &'h self,
        request: &'h str,
        (status, content_type): (u16, HeaderValue),
        retry_after: Option<HeaderValue>,
    ) -> Head<'h> {
        Head { status, content_type, request, headroom: self.headroom, notes: &self.notes, retry_after }
    }
}

/// What of an upstream's head is passed on.
struct Passed {
    status: u16,
    content_type: HeaderValue,
    retry_after: Option<HeaderValue>,
}

fn json() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

fn whole(entry: Entry, about: About, (status, content_type): (u16, HeaderValue), bytes: Bytes) -> Answer {
    passed(entry, about, Passed { status, content_type, retry_after: None }, bytes)
}

fn passed(entry: Entry, about: About, answer: Passed, bytes: Bytes) -> Answer {
    Box::new(move |way: Way| {
        let head = about.head(&way.id_text, (answer.status, answer.content_type), answer.retry_after);
        respond::whole(entry.close(), head, bytes)
    })
}

/// What the built-in model answers.
fn echo(answer: Echo, (entry, permit, watch): (Entry, Permit, Watch), about: About, operation: Operation) -> Answer {
    match answer {
        Echo::Whole(bytes) => Box::new(move |mut way: Way| {
            way.meter.usage(usage::of(operation, &bytes));
            drop((permit, watch));
            let head = about.head(&way.id_text, (200, json()), None);
            respond::whole(entry.close(), head, Bytes::from(bytes))
        }),
        Echo::Stream(mut pieces) => Box::new(move |way: Way| {
            pieces.reverse();
            let (id, dialect) = (way.id_text.clone(), way.dialect);
            let guard = Carried { watch, meter: way.meter, dialect, request: way.id_text, permit, entry };
            let head = about.head(&id, (200, HeaderValue::from_static("text/event-stream")), None);
            respond::stream(head, Body::Pieces(Box::new(Pieces { rest: pieces, guard })))
        }),
    }
}

/// The models that the token may use, or one of them.
fn list(routed: &Routed, one: Option<&str>, dialect: Dialect) -> Result<Vec<u8>, Refusal> {
    let caller = routed.paced().caller();
    let usable = caller.tables().models().filter(|(name, served)| may_use(caller, name, served));
    let entry = |(name, served): (&str, &Arc<crate::guard::table::Served>)| models::ModelEntry {
        id: name.to_owned(),
        created: 0,
        owner: served.route.first().map_or_else(String::new, |upstream| upstream.name.to_string()),
    };
    match one {
        None => Ok(models::list(dialect, &usable.map(entry).collect::<Vec<_>>())),
        Some(asked) => {
            let found = usable.map(entry).find(|model| model.id == asked).ok_or_else(|| not_found(asked))?;
            Ok(models::one(dialect, &found))
        }
    }
}

const fn reads_body(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Messages => true,
        Operation::ListModels | Operation::ShowModel => false,
    }
}

/// Refuses requests whose framing or host two readers could understand differently.
fn framing(request: &Request<Incoming>, origin: &Origin) -> Result<(), Refusal> {
    let headers = request.headers();
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    if headers.contains_key(http::header::CONTENT_LENGTH) {
        origin.unexplained.explain();
    } else if chunked && origin.unexplained.any() {
        return Err(Refusal::new(Code::FramingInvalid).because("Transfer-Encoding beside Content-Length"));
    }
    let upgrade = headers.contains_key(http::header::UPGRADE) || headers.contains_key("http2-settings");
    let expects = headers.get(http::header::EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if upgrade || expects {
        return Err(Refusal::new(Code::FramingInvalid).because("Upgrade or an unknown Expect"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(Code::HostNotServed).because("two Host headers"));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let named = match (host.map(HeaderValue::as_bytes), authority) {
        (Some(host), Some(authority)) if host != authority.as_bytes() => None,
        (Some(host), _) => Some(host),
        (None, Some(authority)) => Some(authority.as_bytes()),
        (None, None) => None,
    };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    match named {
        Some(host) if !host.is_empty() && host.len() <= 255 && host.iter().all(plain) => Ok(()),
        _ => Err(Code::HostNotServed.into()),
    }
}
