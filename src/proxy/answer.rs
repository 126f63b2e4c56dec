//! Answers with a body, whole or streamed, and what must live until they are delivered.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};

use crate::audit::store::entry::Committed;
use crate::guard::admit::Call;
use crate::guard::authenticate::Authenticated;
use crate::guard::egress::answer::{Findings, ResponseFilters};
use crate::guard::egress::policy::Use;
use crate::guard::egress::request::token_restrictions;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::Permit;
use crate::guard::route::Routed;
use crate::guard::table::ModelRoute;
use crate::guard::understand::{may_use, not_found};
use crate::model::answer::StreamFilter;
use crate::model::usage::{self, Sent};
use crate::model::{Dialect, Operation, convert, models, response_text, tools};
use crate::proxy::body::Body;
use crate::proxy::buffer::Room;
use crate::proxy::exchange::{Exchange, Occupied, ResponseParts};
use crate::proxy::forward::{AnswerForm, check_response_head, collect};
use crate::proxy::respond;
use crate::proxy::stream::StreamSource;
use crate::proxy::watch::RevocationWatcher;
use crate::proxy::{EVENTS, Gateway, JSON};
use crate::refusal::{Code, Refusal};
use crate::token::Names;

/// Bytes of an answer from which on it is looked through beside the threads that serve others.
const BESIDE_MIN: usize = 64 << 10;

/// An answer that is ready but for the names of its request and its records.
pub(super) enum Answer {
    /// All bytes at once.
    Whole(ResponseParts, Bytes),
    /// What is no decision about anyone and has no entry: public keys, receipts. Its media type.
    Public(Bytes, &'static str),
    /// A stream.
    Stream(ResponseParts, Box<Stream>),
}

/// A stream before it has begun.
pub(super) struct Stream {
    pub(super) source: StreamSource,
    pub(super) watch: RevocationWatcher,
}

/// Bytes of an answer until the connection has written them. Only then the caller's slots and the room are given back.
struct Delivered {
    bytes: Bytes,
    _occupied: Occupied,
}

impl AsRef<[u8]> for Delivered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request that is refused after all, and the reason.
pub(super) struct Failed {
    pub(super) refusal: Refusal,
    pub(super) exchange: Box<Exchange>,
}

impl Answer {
    /// The response. A whole answer is given once its outcome is durable.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(super) async fn respond(
        self,
        mut exchange: Box<Exchange>,
    ) -> Result<Response<Body>, Failed> {
        match self {
            Self::Whole(parts, bytes) => {
                let mut open = exchange.open().map_err(no_entry)?;
                open.done();
                open.deliver(&bytes);
                let record = open.record().to_owned();
                let (closing, mut exchange) = open.close();
                let recorded = match closing.await {
                    Ok(recorded) => recorded,
                    Err(refusal) => return Err(Failed { refusal, exchange }),
                };
                let bytes = Bytes::from_owner(Delivered {
                    bytes,
                    _occupied: std::mem::take(&mut exchange.occupied),
                });
                Ok(respond::whole(&recorded, &exchange, parts, &record, bytes))
            }
            Self::Public(bytes, content_type) => {
                exchange.done();
                Ok(respond::public(&exchange.id_text, bytes, content_type))
            }
            Self::Stream(parts, stream) => {
                exchange.begun(parts.status);
                let open = exchange.open().map_err(no_entry)?;
                let Stream { source, watch } = *stream;
                Ok(respond::stream(open, parts, source, watch))
            }
        }
    }
}

fn no_entry(exchange: Box<Exchange>) -> Failed {
    Failed { refusal: Refusal::new(Code::Internal).because("an answer without an entry"), exchange }
}

impl Gateway {
    /// Asks the upstream and hands its answer on.
    pub(super) async fn call(
        &self,
        committed: Committed<Call>,
        filter: ResponseFilters,
        mut watch: RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let call = committed.get();
        let operation = call.operation;
        let sent = Sent { bytes: call.body.len() as u64, output_tokens: call.output_tokens };
        exchange.sends(sent);
        let extent = exchange.config.answers.of(sent);
        let response = self.ask(&committed, &mut watch, exchange).await?;
        let head = check_response_head(response.status().as_u16(), response.headers())?;
        exchange.head(head.status);
        let parts = ResponseParts {
            retry_after: head.retry_after,
            status: head.status,
            content_type: head.content_type,
        };
        let body = response.into_body();
        let redactor = Arc::clone(&exchange.config.redactor);
        if call.stream && matches!(head.heard, AnswerForm::Events) {
            let filter = StreamFilter::new(operation, call.usage_asked, filter);
            let source = StreamSource::Upstream(
                body,
                Box::new(filter.redacting(redactor).within(extent)),
                None,
            );
            return Ok(Answer::Stream(parts, Box::new(Stream { source, watch })));
        }
        let bytes_max = extent.bytes.min(exchange.config.answers.bytes);
        let collected = collect(body, Room::of(&self.buffers), (bytes_max, exchange.times()));
        let (bytes, room) = tokio::select! {
            whole = collected => whole?,
            refusal = watch.revoked() => return Err(refusal),
        };
        exchange.occupied.server = Permit::default();
        exchange.occupied.room = Some(room);
        exchange.first_byte();
        let length = bytes.len();
        // Some servers stream whatever is asked.
        let joins = matches!(head.heard, AnswerForm::Events);
        let content_type = if joins { HeaderValue::from_static(JSON) } else { parts.content_type };
        let parts = ResponseParts { content_type, ..parts };
        let work = move || {
            let whole =
                if joins { convert::joined(operation, &bytes).map(Bytes::from) } else { Ok(bytes) };
            whole.map(|bytes| (usage::heard(operation, &bytes), bytes))
        };
        let (heard, bytes) = beside(length, exchange, work).await?.map_err(unlike)?;
        exchange.heard(heard);
        if heard.text > extent.text {
            return Err(Refusal::new(Code::UpstreamEndless)
                .because(format_args!("{} bytes of text", heard.text)));
        }
        if call.stream && parts.status < 300 {
            let filter = StreamFilter::new(operation, call.usage_asked, filter).redacting(redactor);
            let pieces = as_events(operation, bytes, filter, exchange).await?;
            let parts = ResponseParts { content_type: HeaderValue::from_static(EVENTS), ..parts };
            return Ok(Answer::Stream(
                parts,
                Box::new(Stream { source: StreamSource::Pieces(pieces), watch }),
            ));
        }
        let bytes = filtered(bytes, parts.status, filter, exchange).await?;
        Ok(Answer::Whole(parts, bytes))
    }
}

/// A whole answer as the stream that was asked for, the last event first: some servers never stream.
async fn as_events(
    operation: Operation,
    answer: Bytes,
    filter: StreamFilter<ResponseFilters>,
    exchange: &mut Exchange,
) -> Result<Vec<Vec<u8>>, Refusal> {
    let length = answer.len();
    let work = move || {
        let events = convert::events(operation, &answer).map_err(unlike)?;
        through(events, filter)
    };
    let passed = beside(length, exchange, work).await??;
    let mut pieces = noted(passed, exchange)?;
    pieces.reverse();
    Ok(pieces)
}

/// An answer that cannot be had in the form that was asked for.
fn unlike(why: convert::Unlike) -> Refusal {
    let code = if why == convert::Unlike::Cut { Code::Truncated } else { Code::UpstreamInvalid };
    Refusal::new(code).because(why)
}

/// Does work on so many bytes. On many it is done on a thread of its own. What the exchange occupies belongs to the work until
/// it is done: the work goes on where the caller leaves.
async fn beside<T: Send + 'static>(
    bytes: usize,
    exchange: &mut Exchange,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if bytes <= BESIDE_MIN {
        return Ok(work());
    }
    let occupied = std::mem::take(&mut exchange.occupied);
    let done = tokio::task::spawn_blocking(move || (work(), occupied)).await;
    let (done, occupied) = done.map_err(|why| Refusal::new(Code::Internal).because(why))?;
    exchange.occupied = occupied;
    Ok(done)
}

/// A whole answer, its texts filtered.
async fn filtered(
    bytes: Bytes,
    status: u16,
    filter: ResponseFilters,
    exchange: &mut Exchange,
) -> Result<Bytes, Refusal> {
    let (length, redactor, error) =
        (bytes.len(), Arc::clone(&exchange.config.redactor), status >= 400);
    let work = move || {
        let (looked, findings) = looked_through(bytes, filter);
        let looked = looked.map(|bytes| redactor.whole(&bytes, error).map_or(bytes, Bytes::from));
        (looked, findings)
    };
    let (looked, findings) = beside(length, exchange, work).await?;
    exchange.found(&findings);
    exchange.adjustments.removed = findings.removed;
    looked
}

fn looked_through(bytes: Bytes, mut filter: ResponseFilters) -> (Result<Bytes, Refusal>, Findings) {
    let called = tools::whole(&bytes, &mut filter);
    let changed = response_text::whole(&bytes, &mut filter);
    let findings = filter.into_parts().0.into_findings();
    let invalid = |fault| Refusal::new(Code::UpstreamInvalid).because(fault);
    let looked = findings.passes().and_then(|()| {
        called.map_err(invalid)?;
        Ok(changed.map_err(invalid)?.map_or(bytes, Bytes::from))
    });
    (looked, findings)
}

/// The pieces of a stream behind its filter, and what that has found.
type Through = (Vec<Vec<u8>>, StreamFilter<ResponseFilters>);

fn through(
    pieces: Vec<Vec<u8>>,
    mut filter: StreamFilter<ResponseFilters>,
) -> Result<Through, Refusal> {
    let mut passed = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut out = Vec::with_capacity(piece.len());
        filter
            .push(&piece, &mut out)
            .map_err(|fault| Refusal::new(Code::UpstreamInvalid).because(fault))?;
        passed.push(out);
    }
    Ok((passed, filter))
}

fn noted((passed, filter): Through, exchange: &mut Exchange) -> Result<Vec<Vec<u8>>, Refusal> {
    exchange.heard(filter.heard());
    exchange.found(filter.filters().first().findings());
    filter.filters().first().findings().passes().map(|()| passed)
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
                "tool_calls": class.answers.tool_calls.as_str(),
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
    let token_restrictions = token_restrictions(&caller.token().verified);
    let policy = &caller.tables().policy;
    let left = |wanted: &Use| {
        let entries =
            policy.left(*wanted, &token_restrictions).into_iter().map(serde_json::Value::String);
        (wanted.as_str().to_owned(), serde_json::Value::Array(entries.collect()))
    };
    serde_json::Value::Object(Use::ALL.iter().map(left).collect())
}

/// The models that the token may use, or one of them.
pub(super) fn list(
    routed: &Routed,
    one: Option<&str>,
    dialect: Dialect,
) -> Result<Vec<u8>, Refusal> {
    let caller = routed.paced().caller();
    let usable = caller.tables().models().filter(|(name, served)| may_use(caller, name, served));
    let entry = |(name, served): (&str, &Arc<ModelRoute>)| models::ModelEntry {
        id: name.to_owned(),
        created: 0,
        owner: served.route.first().map_or_else(String::new, |upstream| upstream.name.to_string()),
    };
    match one {
        None => Ok(models::list(dialect, &usable.map(entry).collect::<Vec<_>>())),
        Some(asked) => {
            let found = usable
                .map(entry)
                .find(|model| model.id == asked)
                .ok_or_else(|| not_found(asked))?;
            Ok(models::one(dialect, &found))
        }
    }
}
