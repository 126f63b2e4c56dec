//! Answers with a body, whole or streamed, and what must live until they are delivered.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};

use crate::audit::entry::Committed;
use crate::guard::admit::{Call, Notes};
use crate::guard::authenticate::Authenticated;
use crate::guard::egress::answer::{Filter, Findings};
use crate::guard::egress::judge::Use;
use crate::guard::egress::request::narrowing;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::Permit;
use crate::guard::route::Routed;
use crate::guard::table::Served;
use crate::guard::understand::{may_use, not_found};
use crate::model::answer::StreamFilter;
use crate::model::usage::{self, Sent};
use crate::model::{Dialect, Operation, convert, models, prose, tools};
use crate::proxy::body::Body;
use crate::proxy::buffer::Room;
use crate::proxy::forward::{Heard, collect, judge};
use crate::proxy::respond::{self, Head};
use crate::proxy::stream::{Carried, Relay, Source, Times};
use crate::proxy::watch::Watch;
use crate::proxy::{EVENTS, Gateway, JSON, Way};
use crate::refusal::{Code, Refusal};
use crate::token::Names;

/// Bytes of an answer from which on it is looked through beside the threads that serve others.
const BESIDE_MIN: usize = 64 << 10;

/// What every answer to a sealed request goes with.
pub(super) struct Pass {
    /// What is left of the agent's rate.
    pub(super) headroom: Option<Headroom>,
    /// What was changed.
    pub(super) notes: Notes,
    /// The caller's places.
    pub(super) caller: Permit,
}

/// What of an upstream's head is passed on.
pub(super) struct Passed {
    pub(super) status: u16,
    pub(super) content_type: HeaderValue,
    pub(super) retry_after: Option<HeaderValue>,
}

impl Passed {
    /// A good answer of our own.
    pub(super) const fn own(content_type: &'static str) -> Self {
        Self { status: 200, content_type: HeaderValue::from_static(content_type), retry_after: None }
    }
}

/// An answer that is ready but for the request's own name and measure.
pub(super) enum Answer {
    /// All bytes at once, and the room that they take.
    Whole(Pass, Passed, Bytes, Option<Room>),
    /// What is no decision about anybody and has no entry: public keys, receipts. Its media type.
    Public(Bytes, &'static str),
    /// A stream, and the places at the model and its server.
    Stream(Pass, Passed, Box<Streamed>),
}

/// A stream before it has begun.
pub(super) struct Streamed {
    pub(super) source: Source,
    pub(super) server: Permit,
    pub(super) watch: Watch,
    pub(super) times: Times,
    /// The room that it takes already.
    pub(super) room: Option<Room>,
}

/// Bytes of an answer until the connection has written them: only then are the caller's place and the room given back.
struct Delivered {
    bytes: Bytes,
    _caller: Permit,
    _room: Option<Room>,
}

impl AsRef<[u8]> for Delivered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn head<'h>(
    (request, record): (&'h str, Option<&'h str>),
    passed: Passed,
    headroom: Option<Headroom>,
    notes: &'h Notes,
) -> Head<'h> {
    let Passed { status, content_type, retry_after } = passed;
    Head { status, content_type, request, headroom, notes, retry_after, record, outcome: None }
}

impl Answer {
    /// The response; what is whole is given once its outcome is durable.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(super) async fn respond(self, mut way: Box<Way>) -> Result<Response<Body>, (Refusal, Box<Way>)> {
        let record = way.meter.record();
        Ok(match self {
            Self::Whole(Pass { headroom, notes, caller }, passed, bytes, room) => {
                let mut meter = match way.meter.open() {
                    Ok(meter) => meter,
                    Err(meter) => {
                        way.meter = meter;
                        return Err((no_entry(), way));
                    }
                };
                meter.done();
                meter.deliver(&bytes);
                let (closing, meter) = meter.close();
                way.meter = meter;
                let sealed = match closing.await {
                    Ok(sealed) => sealed,
                    Err(refusal) => return Err((refusal, way)),
                };
                let bytes = Bytes::from_owner(Delivered { bytes, _caller: caller, _room: room });
                let origin = record.as_deref().and_then(|record| record.rsplit_once('#')).map(|(origin, _)| origin);
                let about = head((&way.id_text, record.as_deref()), passed, headroom, &notes);
                respond::whole(sealed, Head { outcome: origin.filter(|_| way.wants_receipt), ..about }, bytes)
            }
            Self::Public(bytes, content_type) => {
                way.meter.done();
                respond::public(&way.id_text, bytes, content_type)
            }
            Self::Stream(Pass { headroom, notes, caller }, passed, streamed) => {
                let Streamed { source, server, watch, times, room } = *streamed;
                way.meter.begun(passed.status);
                let meter = match way.meter.open() {
                    Ok(meter) => meter,
                    Err(meter) => {
                        way.meter = meter;
                        return Err((no_entry(), way));
                    }
                };
                let (id, dialect) = (way.id_text.clone(), way.dialect);
                let carried = Carried { meter, dialect, request: way.id_text, places: [caller, server], room };
                let relay = Relay::new(source, carried, watch, times);
                respond::stream(head((&id, record.as_deref()), passed, headroom, &notes), relay)
            }
        })
    }
}

fn no_entry() -> Refusal {
    Refusal::new(Code::Internal).because("an answer without an entry")
}

impl Gateway {
    /// Asks the upstream and hands its answer on.
    pub(super) async fn call(
        &self,
        committed: Committed<Call>,
        filter: Filter,
        (pass, mut server, mut watch): (Pass, Permit, Watch),
        way: &mut Way,
    ) -> Result<Answer, Refusal> {
        let call = committed.get();
        let operation = call.operation;
        let sent = Sent { bytes: call.body.len() as u64, output_tokens: call.output_tokens };
        way.meter.sends(sent);
        let extent = way.wiring.answers.of(sent);
        let response = self.ask(&committed, &mut server, &mut watch, way).await?;
        let head = judge(response.status().as_u16(), response.headers())?;
        way.meter.head(head.status);
        let passed = Passed { retry_after: head.retry_after, status: head.status, content_type: head.content_type };
        let body = response.into_body();
        if call.stream && matches!(head.heard, Heard::Events) {
            let filter = StreamFilter::new(operation, call.usage_asked, filter);
            let filter = Box::new(filter.redacting(Arc::clone(&way.wiring.redactor)).within(extent));
            let source = Source::Upstream(body, filter, None);
            let streamed = Streamed { source, server, watch, times: self.times(way), room: None };
            return Ok(Answer::Stream(pass, passed, Box::new(streamed)));
        }
        let bytes_max = extent.bytes.min(way.wiring.answers.bytes);
        let collected = collect(body, Room::of(&self.buffers), (bytes_max, self.times(way)));
        let (bytes, room) = tokio::select! {
            whole = collected => whole?,
            refusal = watch.revoked() => return Err(refusal),
        };
        drop(server);
        way.meter.first_byte();
        let length = bytes.len();
        // Some servers stream whatever is asked.
        let joins = matches!(head.heard, Heard::Events);
        let content_type = if joins { HeaderValue::from_static(JSON) } else { passed.content_type };
        let passed = Passed { content_type, ..passed };
        let work = move || {
            let whole = if joins { convert::joined(operation, &bytes).map(Bytes::from) } else { Ok(bytes) };
            (whole.map(|bytes| (usage::heard(operation, &bytes), bytes)), pass, room)
        };
        let (whole, pass, room) = beside(length, work).await?;
        let (heard, bytes) = whole.map_err(unlike)?;
        way.meter.heard(heard);
        if heard.text > extent.text {
            return Err(Refusal::new(Code::UpstreamEndless).because(format_args!("{} bytes of text", heard.text)));
        }
        if call.stream && passed.status < 300 {
            let filter = StreamFilter::new(operation, call.usage_asked, filter).redacting(Arc::clone(&way.wiring.redactor));
            return self.as_events((operation, bytes, room), filter, (pass, passed, watch), way).await;
        }
        let (bytes, pass) = filtered((bytes, passed.status), filter, pass, way).await?;
        Ok(Answer::Whole(pass, passed, bytes, Some(room)))
    }

    /// A whole answer as the stream that was asked for: some servers never stream.
    async fn as_events(
        &self,
        (operation, answer, room): (Operation, Bytes, Room),
        filter: StreamFilter<Filter>,
        (pass, passed, watch): (Pass, Passed, Watch),
        way: &mut Way,
    ) -> Result<Answer, Refusal> {
        let length = answer.len();
        let work = move || {
            let events = convert::events(operation, &answer).map_err(unlike);
            (events.and_then(|events| through(events, filter)), pass, room)
        };
        let (pieces, pass, room) = beside(length, work).await?;
        let mut pieces = noted(pieces?, way)?;
        pieces.reverse();
        let (source, server) = (Source::Pieces(pieces), Permit::default());
        let streamed = Streamed { source, server, watch, times: self.times(way), room: Some(room) };
        let passed = Passed { content_type: HeaderValue::from_static(EVENTS), ..passed };
        Ok(Answer::Stream(pass, passed, Box::new(streamed)))
    }
}

/// An answer that cannot be had in the form that was asked for.
fn unlike(why: convert::Unlike) -> Refusal {
    let code = if why == convert::Unlike::Cut { Code::Truncated } else { Code::UpstreamInvalid };
    Refusal::new(code).because(why)
}

/// Does work on so many bytes: on many, beside the threads that serve others. What must stay taken until the work is done
/// belongs to it, such as the caller's place: it goes on whether the caller waits or not.
async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    if bytes <= BESIDE_MIN {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|why| Refusal::new(Code::Internal).because(why))
}

/// A whole answer, its texts filtered.
pub(super) async fn filtered(
    (bytes, status): (Bytes, u16),
    filter: Filter,
    pass: Pass,
    way: &mut Way,
) -> Result<(Bytes, Pass), Refusal> {
    let (length, redactor, error) = (bytes.len(), Arc::clone(&way.wiring.redactor), status >= 400);
    let work = move || {
        let (looked, findings) = looked_through(bytes, filter);
        let looked = looked.map(|bytes| redactor.whole(&bytes, error).map_or(bytes, Bytes::from));
        ((looked, findings), pass)
    };
    let ((looked, findings), mut pass) = beside(length, work).await?;
    way.meter.found(&findings);
    pass.notes.removed = findings.removed;
    looked.map(|bytes| (bytes, pass))
}

fn looked_through(bytes: Bytes, mut filter: Filter) -> (Result<Bytes, Refusal>, Findings) {
    let called = tools::whole(&bytes, &mut filter);
    let changed = prose::whole(&bytes, &mut filter);
    let findings = filter.into_findings();
    let invalid = |fault| Refusal::new(Code::UpstreamInvalid).because(fault);
    let looked = findings.passes().and_then(|()| {
        called.map_err(invalid)?;
        Ok(changed.map_err(invalid)?.map_or(bytes, Bytes::from))
    });
    (looked, findings)
}

/// The events of a stream that is there already, their texts filtered.
pub(super) fn filtered_pieces(
    pieces: Vec<Vec<u8>>,
    filter: StreamFilter<Filter>,
    way: &mut Way,
) -> Result<Vec<Vec<u8>>, Refusal> {
    noted(through(pieces, filter)?, way)
}

/// The pieces of a stream behind its filter, and what that has found.
type Through = (Vec<Vec<u8>>, StreamFilter<Filter>);

fn through(pieces: Vec<Vec<u8>>, mut filter: StreamFilter<Filter>) -> Result<Through, Refusal> {
    let mut passed = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut out = Vec::with_capacity(piece.len());
        filter.push(&piece, &mut out).map_err(|fault| Refusal::new(Code::UpstreamInvalid).because(fault))?;
        passed.push(out);
    }
    Ok((passed, filter))
}

fn noted((passed, filter): Through, way: &mut Way) -> Result<Vec<Vec<u8>>, Refusal> {
    way.meter.heard(filter.heard());
    way.meter.found(filter.prose().findings());
    filter.prose().findings().passes().map(|()| passed)
}

/// The names of a list, where there is one.
fn names(list: Option<&Names>) -> Option<Vec<&str>> {
    list.map(|list| list.iter().collect())
}

/// What the presented token allows: who acts for whom, until when, with which scopes, models and limits, and what is left of
/// the tightest rate. Limits that are not set are null.
pub(super) fn me(routed: &Routed, headroom: Option<Headroom>) -> Vec<u8> {
    let caller = routed.paced().caller();
    let (verified, class) = (&caller.token().verified, caller.class());
    let tokens = verified.ids().zip(verified.agent().lineage()).zip(verified.grants());
    let mut tokens: Vec<serde_json::Value> = tokens
        .map(|((id, agent), grants)| {
            serde_json::json!({
                "id": id.to_string(),
                "agent": agent,
                "limits": {
                    "requests_per_second": grants.rps,
                    "requests_per_minute": grants.rpm,
                    "requests_in_flight": grants.in_flight,
                    "output_tokens": grants.output_tokens,
                    "egress": grants.no_egress.then_some("none"),
                    "egress_hosts": names(grants.egress_hosts.as_ref()),
                    "tool_types": names(grants.tool_types.as_ref()),
                },
            })
        })
        .collect();
    tokens.reverse();
    let usable = caller.tables().models().filter(|(name, served)| may_use(caller, name, served));
    let left = headroom.map(|left| {
        serde_json::json!({
            "requests": left.limit.rate,
            "seconds": left.limit.period.seconds(),
            "remaining": left.remaining,
            "reset_s": left.reset_ns.div_ceil(1_000_000_000),
        })
    });
    let about = serde_json::json!({
        "object": "token-shield.me",
        "agent": verified.agent().as_str(),
        "principal": verified.principal().as_str(),
        "issuer": verified.issuer(),
        "expires": verified.expires().to_string(),
        "scopes": verified.scopes().names().collect::<Vec<_>>(),
        "models": usable.map(|(name, _)| name).collect::<Vec<_>>(),
        "handle": caller.handle().map(ToString::to_string),
        "tokens": tokens,
        "class": {
            "name": class.name,
            "requests_per_second": class.caps.rps,
            "requests_per_minute": class.caps.rpm,
            "requests_in_flight": class.caps.in_flight,
            "output_tokens": class.output_tokens,
            "requests": {
                "media": class.requests.media.as_str(),
                "hosted_tools": class.requests.hosted_tools.as_str(),
                "mcp": class.requests.mcp.as_str(),
            },
            "answers": {
                "fetched": class.answers.fetched.as_str(),
                "clicked": class.answers.clicked.as_str(),
                "called": class.answers.called.as_str(),
            },
            "fetch_per_hour": class.fetch_per_hour,
        },
        "egress": egress(caller),
        "left": left,
    });
    about.to_string().into_bytes()
}

/// What the token leaves of the operator's lists, by use.
fn egress(caller: &Authenticated) -> serde_json::Value {
    let narrowing = narrowing(&caller.token().verified);
    let judge = &caller.tables().judge;
    let left = |wanted: &Use| {
        let entries = judge.left(*wanted, &narrowing).into_iter().map(serde_json::Value::String);
        (wanted.as_str().to_owned(), serde_json::Value::Array(entries.collect()))
    };
    serde_json::Value::Object(Use::ALL.iter().map(left).collect())
}

/// The models that the token may use, or one of them.
pub(super) fn list(routed: &Routed, one: Option<&str>, dialect: Dialect) -> Result<Vec<u8>, Refusal> {
    let caller = routed.paced().caller();
    let usable = caller.tables().models().filter(|(name, served)| may_use(caller, name, served));
    let entry = |(name, served): (&str, &Arc<Served>)| models::ModelEntry {
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
