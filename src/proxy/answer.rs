//! Answers with a body, complete or streamed, and the values that must live until delivery ends.

use std::iter::zip;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};

use crate::audit::store::entry::Committed;
use crate::guard::admit::Call;
use crate::guard::authenticate::Authenticated;
use crate::guard::egress::answer::ResponseFilters;
use crate::guard::egress::policy::Use;
use crate::guard::egress::request::token_restrictions;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::Permit;
use crate::guard::route::Routed;
use crate::guard::table::ModelRoute;
use crate::guard::understand::{may_use, not_found};
use crate::model::answer::StreamFilter;
use crate::model::usage::{self, Extent, Heard, Sent};
use crate::model::{Dialect, Operation, convert, error, models, repair};
use crate::proxy::answer_head::{AnswerForm, check_response_head, form_of};
use crate::proxy::beside::beside;
use crate::proxy::body::Body;
use crate::proxy::buffer::Room;
use crate::proxy::exchange::{Exchange, Occupied, ResponseParts};
use crate::proxy::filtered::{filtered, noted, through};
use crate::proxy::forward::collect;
use crate::proxy::pool::Arriving;
use crate::proxy::respond;
use crate::proxy::stream::StreamSource;
use crate::proxy::times::ReadLimits;
use crate::proxy::watch::RevocationWatcher;
use crate::proxy::{Gateway, JSON};
use crate::refusal::{Code, Refusal};
use crate::token::Names;

/// An answer that is complete except for the names of its request and its records.
pub(super) enum Answer {
    /// All bytes at once.
    Whole(ResponseParts, Bytes),
    /// An answer that has no record, because it is no decision about a caller: public keys,
    /// receipts. With its media type.
    Public(Bytes, &'static str),
    /// A stream.
    Stream(ResponseParts, Box<Stream>),
}

/// A stream that has not begun.
pub(super) struct Stream {
    pub(super) source: StreamSource,
    pub(super) watch: RevocationWatcher,
}

/// Bytes of an answer until the connection has written them. Only then are the caller's slots and
/// the buffer room released.
struct Delivered {
    bytes: Bytes,
    _occupied: Occupied,
}

impl AsRef<[u8]> for Delivered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request that is refused after its answer was ready, and the reason.
pub(super) struct Failed {
    pub(super) refusal: Refusal,
    pub(super) exchange: Box<Exchange>,
}

impl Answer {
    /// Makes the response. A complete answer is sent only after its outcome is durable.
    ///
    /// # Errors
    /// If the outcome cannot be recorded.
    pub(super) async fn respond(
        self,
        mut exchange: Box<Exchange>,
    ) -> Result<Response<Body>, Failed> {
        match self {
            Self::Whole(parts, bytes) => {
                let mut open = exchange.open().map_err(no_entry)?;
                open.done();
                open.deliver(&bytes);
                // The record's name is copied here, because closing the request consumes `open`.
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

/// The failure of an answer that needs a record while the exchange has no admission. It is a bug.
fn no_entry(exchange: Box<Exchange>) -> Failed {
    Failed { refusal: Refusal::new(Code::Internal).because("an answer without an entry"), exchange }
}

impl Gateway {
    /// Sends the call to an upstream and makes the caller's answer from the upstream's answer.
    ///
    /// # Errors
    /// Why the upstream has not answered, why its answer is invalid, or why the caller may not act
    /// any more.
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
        let framing = operation.dialect().framing();
        let head = check_response_head(response.status().as_u16(), response.headers(), framing)?;
        exchange.head(head.status);
        let mut body = response.into_body();
        if head.form == AnswerForm::Unknown
            && head.status < 300
            && let Some(target) = &call.declared
            && let Some(passed) = target.route.answer(&head.media_type)
        {
            let parts = ResponseParts {
                retry_after: head.retry_after,
                status: head.status,
                content_type: HeaderValue::from_static(passed.media_type),
            };
            let arriving = ArrivingAnswer { body, form: head.form, parts, extent };
            return self.unparsed(passed.kind, arriving, filter, watch, exchange).await;
        }
        let times = exchange.times();
        let form = match head.form {
            AnswerForm::Unknown => tokio::select! {
                form = form_of(&head, &mut body, framing, &times) => form?,
                refusal = watch.revoked() => return Err(refusal),
            },
            known @ (AnswerForm::Json | AnswerForm::Events | AnswerForm::Opaque) => known,
        };
        let parts = ResponseParts {
            retry_after: head.retry_after,
            status: head.status,
            content_type: form.content_type(framing),
        };
        if form == AnswerForm::Opaque {
            let why = format!("status {}, media type {:?}", head.status, head.media_type);
            return Ok(own_error(parts, &why, exchange));
        }
        // A declared route gets its stream in the form that the server chose.
        let streams = call.stream || call.declared.is_some();
        if streams && form == AnswerForm::Events {
            let redactor = Arc::clone(&exchange.config.redactor);
            let filter = StreamFilter::new(operation, call.usage_asked, filter)
                .redacting(redactor)
                .within(extent)
                .within_events(exchange.config.answers.event);
            let source = StreamSource::Upstream(body, Box::new(filter), None);
            return Ok(Answer::Stream(parts, Box::new(Stream { source, watch })));
        }
        let wanted = Wanted { operation, stream: call.stream, usage_asked: call.usage_asked };
        let arriving = ArrivingAnswer { body, form, parts, extent };
        self.document(wanted, arriving, filter, watch, exchange).await
    }

    /// Reads an upstream's answer to its end and makes the caller's answer from it.
    ///
    /// # Errors
    /// As [`Self::call`], after the head.
    async fn document(
        &self,
        wanted: Wanted,
        arriving: ArrivingAnswer,
        filter: ResponseFilters,
        mut watch: RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let ArrivingAnswer { body, form, parts, extent } = arriving;
        let operation = wanted.operation;
        let bytes = self.collected(body, extent, &mut watch, exchange).await?;
        let length = bytes.len();
        // Some servers stream although the request did not want it. Their events are joined to one
        // answer.
        let joins = form == AnswerForm::Events;
        let content_type = if joins { HeaderValue::from_static(JSON) } else { parts.content_type };
        let parts = ResponseParts { content_type, ..parts };
        let (heard, bytes) =
            beside(length, exchange, move || joined(operation, bytes, joins)).await??;
        exchange.heard(heard);
        // The bound is in bytes of text. The server itself reports the token count, so that count
        // is no bound.
        if heard.text > extent.text {
            return Err(Refusal::new(Code::UpstreamEndless)
                .because(format_args!("{} bytes of text", heard.text)));
        }
        // A server that does not stream answers a stream request with one document. Errors stay
        // documents.
        if wanted.stream && parts.status < 300 {
            let redactor = Arc::clone(&exchange.config.redactor);
            let filter = StreamFilter::new(operation, wanted.usage_asked, filter)
                .within_events(exchange.config.answers.event)
                .redacting(redactor);
            let pieces = as_events(operation, bytes, filter, exchange).await?;
            let content_type = HeaderValue::from_static(operation.dialect().framing().media_type());
            let parts = ResponseParts { content_type, ..parts };
            return Ok(Answer::Stream(
                parts,
                Box::new(Stream { source: StreamSource::Pieces(pieces), watch }),
            ));
        }
        match filtered(operation, bytes, parts.status, filter, exchange).await {
            Ok(bytes) => Ok(Answer::Whole(parts, bytes)),
            // An error stays an error with its status, because a client may retry another one.
            Err(refusal) if parts.status >= 400 && refusal.code == Code::UpstreamInvalid => {
                let why = match refusal.detail {
                    Some(detail) => format!("status {}: {detail}", parts.status),
                    None => format!("status {}", parts.status),
                };
                Ok(own_error(parts, &why, exchange))
            }
            Err(refusal) => Err(refusal),
        }
    }
}

impl Gateway {
    /// Reads a body to its end.
    ///
    /// # Errors
    /// As [`collect`], or why the caller may not act any more.
    pub(super) async fn collected(
        &self,
        body: Arriving,
        extent: Extent,
        watch: &mut RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<Bytes, Refusal> {
        // The bound that follows from the request applies within the configured one.
        let bytes_max = extent.bytes.min(exchange.config.answers.bytes);
        let limits = ReadLimits { bytes_max, times: exchange.times() };
        let collected = collect(body, Room::of(&self.buffers), limits);
        let (bytes, room) = tokio::select! {
            whole = collected => whole?,
            refusal = watch.revoked() => return Err(refusal),
        };
        // The server has finished: its slot is free before the answer is filtered and delivered.
        exchange.occupied.server = Permit::default();
        exchange.occupied.room = Some(room);
        exchange.first_byte();
        Ok(bytes)
    }
}

/// The caller's request, as far as its answer depends on it.
struct Wanted {
    operation: Operation,
    stream: bool,
    usage_asked: bool,
}

/// An answer whose head has come.
pub(super) struct ArrivingAnswer {
    pub(super) body: Arriving,
    form: AnswerForm,
    pub(super) parts: ResponseParts,
    pub(super) extent: Extent,
}

/// The answer to an upstream's error whose body is not passed on: its status with the gateway's own
/// body. `why` is for the operator.
fn own_error(parts: ResponseParts, why: &str, exchange: &mut Exchange) -> Answer {
    let status = parts.status;
    let message = format!(
        "The model's server answered with status {status}. Its text has a form that the gateway \
        does not pass on."
    );
    let refusal = Refusal::new(Code::UpstreamError).keeping(status).saying(message).because(why);
    exchange.explained(&refusal);
    // The rest of the body is not read.
    exchange.occupied.server = Permit::default();
    let body = error::body(exchange.dialect, &refusal, &exchange.id_text);
    Answer::Whole(parts, Bytes::from(body))
}

/// The answer as one document, and what it reports. With `joins`, `bytes` are events.
///
/// # Errors
/// If the events cannot be joined.
fn joined(operation: Operation, bytes: Bytes, joins: bool) -> Result<(Heard, Bytes), Refusal> {
    let whole = if joins {
        Bytes::from(convert::joined(operation, &bytes).map_err(unlike)?)
    } else {
        bytes
    };
    let whole = match repair::lone_surrogates(&whole) {
        Some(repaired) => Bytes::from(repaired),
        None => whole,
    };
    Ok((usage::heard(operation, &whole), whole))
}

/// Converts a complete answer to the stream that the caller requested: some servers never stream.
/// The last event is first in the result.
async fn as_events(
    operation: Operation,
    answer: Bytes,
    filter: StreamFilter<ResponseFilters>,
    exchange: &mut Exchange,
) -> Result<Vec<Vec<u8>>, Refusal> {
    let length = answer.len();
    let passed = beside(length, exchange, move || {
        let events = convert::events(operation, &answer).map_err(unlike)?;
        through(events, filter)
    });
    let mut pieces = noted(passed.await??, exchange)?;
    pieces.reverse();
    Ok(pieces)
}

/// The refusal for an answer that cannot be converted to the requested form.
fn unlike(why: convert::Unlike) -> Refusal {
    let code = if why == convert::Unlike::Cut { Code::Truncated } else { Code::UpstreamInvalid };
    Refusal::new(code).because(why)
}

/// The models that the token may use, each under every name that it may use for it.
fn usable(caller: &Authenticated) -> impl Iterator<Item = (&str, &Arc<ModelRoute>)> {
    caller.tables().models().filter(move |(name, served)| may_use(caller, name, served))
}

/// The names of a list, if the list is set.
fn names(list: Option<&Names>) -> Option<Vec<&str>> {
    list.map(|list| list.iter().collect())
}

/// The body of `/v1/me`: what the presented token allows. It contains the agent, principal, expiry,
/// scopes, models, limits and the headroom of the tightest rate. Limits that are not set are null.
pub(super) fn me(routed: &Routed, headroom: Option<Headroom>) -> Vec<u8> {
    let caller = routed.paced().caller();
    let (verified, class) = (&caller.token().verified, caller.class());
    let lineage = verified.agent().lineage();
    let mut tokens = Vec::new();
    for ((id, agent), grants) in zip(zip(verified.ids(), lineage), verified.grants()) {
        tokens.push(serde_json::json!({
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
        }));
    }
    // The root token comes first in the answer; the chain is iterated from its last token.
    tokens.reverse();
    let mut models = Vec::new();
    for (name, _) in usable(caller) {
        models.push(name);
    }
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
        "models": models,
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

/// What the token leaves of the operator's egress lists, by use.
fn egress(caller: &Authenticated) -> serde_json::Value {
    let token_restrictions = token_restrictions(&caller.token().verified);
    let policy = &caller.tables().policy;
    let mut left = serde_json::Map::new();
    for wanted in Use::ALL {
        let entries = policy.left(wanted, &token_restrictions);
        left.insert(wanted.as_str().to_owned(), entries.into());
    }
    serde_json::Value::Object(left)
}

/// A model as the models answer lists it. Its owner is the first upstream of its route.
fn model_entry(name: &str, served: &ModelRoute) -> models::ModelEntry {
    let owner = match served.route.first() {
        Some(upstream) => upstream.name.to_string(),
        None => String::new(),
    };
    models::ModelEntry { id: name.to_owned(), created: 0, owner }
}

/// The models that the token may use, or one of them, as the body of a models answer.
///
/// # Errors
/// If the requested model does not exist, or the token may not use it. Both give the same refusal.
pub(super) fn list(
    routed: &Routed,
    one: Option<&str>,
    dialect: Dialect,
) -> Result<Vec<u8>, Refusal> {
    let caller = routed.paced().caller();
    let Some(asked) = one else {
        let mut entries = Vec::new();
        for (name, served) in usable(caller) {
            // Ollama's clients call a listed model by Ollama's own operations.
            if dialect != Dialect::Ollama || served.has(Operation::OllamaChat) {
                entries.push(model_entry(name, served));
            }
        }
        return Ok(models::list(dialect, &entries));
    };
    // An alias may stand for more names than the list has.
    match caller.tables().model(asked) {
        Some(served) if may_use(caller, asked, served) => {
            Ok(models::one(dialect, &model_entry(asked, served)))
        }
        Some(_) | None => Err(not_found(asked)),
    }
}
