//! What is recorded of requests: admissions, outcomes, refusals, and the counts of those that are not recorded one by one.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::format::payload::{PayloadWriter, cut, moment, number};
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, RequestId, TokenId};
use crate::json::{Object, Value};

/// Rows of a count in one record at the most.
pub const ROWS_MAX: usize = 64;
/// Items of any other list in a record at the most.
const LIST_MAX: usize = 16;

/// What an upstream may be sent.
pub trait Forwards {
    /// The body as it is sent on. `None` where nothing is sent, or while content has still to be put into it.
    fn forwarded(&self) -> Option<&[u8]>;
}

impl Forwards for () {
    fn forwarded(&self) -> Option<&[u8]> {
        None
    }
}

/// Who asked, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// The request.
    pub request: RequestId,
    /// Who asked.
    pub caller: Arc<Caller>,
    /// The handle that was shown in the token's place.
    pub handle: Option<HandleId>,
    /// The caller's address: the connection's peer, or the client that a trusted proxy names.
    pub peer: Option<IpAddr>,
    /// The operation; empty where none was found.
    pub operation: &'static str,
    /// The model's canonical name.
    pub model: Option<Arc<str>>,
    /// The rules and config in force: their hash.
    pub policy: Arc<str>,
}

/// Who asks with a token, worked out once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The acting agent.
    pub agent: AgentName,
    /// In whose name.
    pub principal: Principal,
    /// The tokens and the keys that signed them, the operator's first.
    pub chain: Vec<(TokenId, KeyId)>,
}

/// A server and what the operator says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name in the config.
    pub name: Arc<str>,
    /// Whether the operator controls it.
    pub controlled: bool,
    /// Where it stands, as the config says.
    pub jurisdiction: Option<Arc<str>>,
}

/// A model's digest and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDigest {
    /// `sha256:…`, or what the server calls it; empty where it is unknown.
    pub value: String,
    /// `measured`, `reported` or `unknown`.
    pub source: &'static str,
}

/// What was taken out of a request because it would have made the server reach outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    /// What it was.
    pub kind: &'static str,
    /// Where in the body it stood.
    pub path: String,
    /// The URL, the tool's type or the id.
    pub target: String,
}

/// What an answer would have made its reader reach, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundReference {
    /// `fetched` without a click, `clicked`, or `either`.
    pub kind: &'static str,
    /// `strip`, `block` or `report`.
    pub verdict: &'static str,
    /// Why it is not controlled.
    pub reason: &'static str,
    /// Scheme, host and port, or what stands there.
    pub target: String,
}

/// Content that is to be fetched for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFetch {
    /// Where in the body it will stand.
    pub path: String,
    /// The URL that it lies behind.
    pub target: String,
    /// The digest of all of that URL.
    pub target_digest: [u8; 32],
}

/// Content that was fetched and put into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedContent {
    /// Where in the body it stands.
    pub path: String,
    /// The URL that it lay behind.
    pub target: String,
    /// The digest of all of that URL.
    pub target_digest: [u8; 32],
    /// What it is.
    pub media_type: String,
    /// As it came.
    pub content: BodyDigest,
}

/// A body: how long it was, and its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyDigest {
    /// Bytes.
    pub bytes: u64,
    /// HMAC-SHA-256 under the record's `digest_key`.
    pub digest: [u8; 32],
}

/// A request that is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who and what.
    pub about: RequestContext,
    /// The server that is asked first; none for an answer of the gateway's own.
    pub upstream: Option<Server>,
    /// Which weights answer.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The cap on output tokens.
    pub output_tokens: Option<u64>,
    /// What was taken out because it would have made the server reach outside.
    pub stripped: Vec<Stripped>,
    /// What is to be fetched and put into it.
    pub fetches: Vec<PlannedFetch>,
    /// What the digests are keyed with.
    pub digest_key: [u8; 16],
    /// As it was received.
    pub received: BodyDigest,
    /// As it is sent on; none where nothing is, or content is still to be put in.
    pub forwarded: Option<BodyDigest>,
}

/// What was used of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Tokens in.
    pub input: u64,
    /// Tokens out.
    pub output: u64,
    /// Who says so: `reported`, `running` or `bound` (docs/AUDIT.md).
    pub source: &'static str,
}

/// What became of an admitted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Who and what.
    pub about: RequestContext,
    /// The index of the admission.
    pub admission: u64,
    /// The server that answered, or was asked last.
    pub upstream: Option<Server>,
    /// Which weights answered.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// `ok`, `upstream-error`, `aborted`, or a refusal's code.
    pub code: &'static str,
    /// A refusal's detail.
    pub detail: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// Milliseconds since the request came.
    pub ms: u64,
    /// Tokens in and out; none where nothing was used.
    pub usage: Option<Used>,
    /// What it would have made its reader reach: the first of it, and how often in all.
    pub outbound: (Vec<OutboundReference>, u64),
    /// What was fetched and put into it.
    pub fetched: Vec<FetchedContent>,
    /// As it was sent on with that.
    pub forwarded: Option<BodyDigest>,
    /// What the digests are keyed with.
    pub digest_key: [u8; 16],
    /// As it was delivered.
    pub delivered: BodyDigest,
}

/// A known caller is told no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// Who and what.
    pub about: RequestContext,
    /// The step that says no.
    pub stage: &'static str,
    /// The code.
    pub code: &'static str,
    /// The operator's detail.
    pub detail: Option<String>,
    /// Where in the body.
    pub param: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// Milliseconds since the request came.
    pub ms: u64,
}

/// Refusals that are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCounts {
    /// In whose name all of it was asked, where the callers were known: whose record key seals it.
    pub principal: Option<Principal>,
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What was counted, [`ROWS_MAX`] at the most.
    pub rows: Vec<RefusalCount>,
    /// Refusals that had no row of their own any more.
    pub other: u64,
}

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCount {
    /// The agent, or the network of a caller who was not known.
    pub whose: String,
    /// The step, where the caller was not known.
    pub stage: Option<&'static str>,
    /// The code.
    pub code: &'static str,
    /// How many.
    pub count: u64,
}

/// Bytes in base64url.
#[must_use]
pub fn base64url(bytes: &[u8]) -> Value<'static> {
    Value::from_text(URL_SAFE_NO_PAD.encode(bytes))
}

impl RequestContext {
    fn members<'e>(&'e self, into: &mut PayloadWriter<'e>, whole: bool) {
        into.owned("request", self.request.to_string());
        into.name("agent", self.caller.agent.as_str());
        into.name("principal", self.caller.principal.as_str());
        if !self.operation.is_empty() {
            into.name("operation", self.operation);
        }
        into.optional("model", self.model.as_deref());
        if whole {
            let link = |(token, kid): &(TokenId, KeyId)| {
                object([
                    ("kid", Value::from_text(kid.to_string())),
                    ("token", Value::from_text(token.to_string())),
                ])
            };
            into.value("chain", Value::Array(self.caller.chain.iter().map(link).collect()));
            if let Some(handle) = &self.handle {
                into.owned("handle", handle.to_string());
            }
            if let Some(peer) = &self.peer {
                into.owned("peer", peer.to_string());
            }
            into.name("policy", &self.policy);
        }
    }
}

/// An object; the members come sorted.
fn object<'v>(members: impl IntoIterator<Item = (&'static str, Value<'v>)>) -> Value<'v> {
    let mut object = Object::new();
    members.into_iter().for_each(|(name, value)| object.set(name, value));
    Value::Object(object)
}

impl Server {
    fn value(&self) -> Value<'_> {
        let jurisdiction = self
            .jurisdiction
            .as_deref()
            .map(|place| ("jurisdiction", Value::from_text(cut(place))));
        let members =
            [("controlled", Value::Bool(self.controlled))].into_iter().chain(jurisdiction);
        object(members.chain([("name", Value::from_text(cut(&self.name)))]))
    }
}

impl ModelDigest {
    fn value(&self) -> Value<'_> {
        object([
            ("source", Value::from_text(self.source)),
            ("value", Value::from_text(cut(&self.value))),
        ])
    }
}

impl FetchedContent {
    fn value(&self) -> Value<'_> {
        object([
            ("bytes", number(self.content.bytes)),
            ("digest", base64url(&self.content.digest)),
            ("media_type", Value::from_text(cut(&self.media_type))),
            ("path", Value::from_text(cut(&self.path))),
            ("target", Value::from_text(cut(&self.target))),
            ("target_digest", base64url(&self.target_digest)),
        ])
    }
}

impl PlannedFetch {
    fn value(&self) -> Value<'_> {
        object([
            ("path", Value::from_text(cut(&self.path))),
            ("target", Value::from_text(cut(&self.target))),
            ("target_digest", base64url(&self.target_digest)),
        ])
    }
}

impl Admission {
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        self.about.members(into, true);
        into.name("decision", "allowed");
        into.some("upstream", self.upstream.as_ref().map(Server::value));
        into.some("model_digest", self.model_digest.as_ref().map(|digest| digest.value()));
        into.some("limits", self.output_tokens.map(|cap| object([("output_tokens", number(cap))])));
        let stripped = |stripped: &'e Stripped| {
            let (kind, path) =
                (Value::from_text(stripped.kind), Value::from_text(cut(&stripped.path)));
            object([
                ("kind", kind),
                ("path", path),
                ("target", Value::from_text(cut(&stripped.target))),
            ])
        };
        let stripped: Vec<Value<'_>> = self.stripped.iter().take(LIST_MAX).map(stripped).collect();
        into.some("stripped", (!stripped.is_empty()).then_some(Value::Array(stripped)));
        let fetches: Vec<Value<'_>> =
            self.fetches.iter().take(LIST_MAX).map(PlannedFetch::value).collect();
        into.some("fetches", (!fetches.is_empty()).then_some(Value::Array(fetches)));
        into.value("digest_key", base64url(&self.digest_key));
        into.number("request_bytes", self.received.bytes);
        into.value("request_digest", base64url(&self.received.digest));
        if let Some(forwarded) = &self.forwarded {
            into.number("forward_bytes", forwarded.bytes);
            into.value("forward_digest", base64url(&forwarded.digest));
        }
    }
}

impl Outcome {
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        self.about.members(into, false);
        into.number("admission", self.admission);
        into.some("upstream", self.upstream.as_ref().map(Server::value));
        into.some("model_digest", self.model_digest.as_ref().map(|digest| digest.value()));
        into.name("code", self.code);
        into.optional("detail", self.detail.as_deref());
        into.number("status", u64::from(self.status));
        into.number("ms", self.ms);
        if let Some(Used { input, output, source }) = self.usage {
            into.value("usage", object([("input", number(input)), ("output", number(output))]));
            into.name("usage_source", source);
        }
        let outbound = |outbound: &'e OutboundReference| {
            let texts = [
                ("kind", outbound.kind),
                ("reason", outbound.reason),
                ("target", &outbound.target),
                ("verdict", outbound.verdict),
            ];
            object(texts.map(|(name, text)| (name, Value::from_text(cut(text)))))
        };
        let (first, count) = &self.outbound;
        into.some(
            "outbound",
            (*count > 0).then(|| Value::Array(first.iter().take(LIST_MAX).map(outbound).collect())),
        );
        into.some("outbound_count", (*count > 0).then(|| number(*count)));
        let fetched: Vec<Value<'_>> =
            self.fetched.iter().take(LIST_MAX).map(FetchedContent::value).collect();
        into.some("fetched", (!fetched.is_empty()).then_some(Value::Array(fetched)));
        into.some(
            "fetched_count",
            (!self.fetched.is_empty()).then(|| number(self.fetched.len() as u64)),
        );
        if let Some(forwarded) = &self.forwarded {
            into.number("forward_bytes", forwarded.bytes);
            into.value("forward_digest", base64url(&forwarded.digest));
        }
        into.value("digest_key", base64url(&self.digest_key));
        into.number("response_bytes", self.delivered.bytes);
        into.value("response_digest", base64url(&self.delivered.digest));
    }
}

impl RefusedRequest {
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        self.about.members(into, true);
        into.name("decision", "refused");
        into.name("stage", self.stage);
        into.name("code", self.code);
        into.optional("detail", self.detail.as_deref());
        into.optional("param", self.param.as_deref());
        into.number("status", u64::from(self.status));
        into.number("ms", self.ms);
    }
}

impl RefusalCounts {
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        into.owned("from", moment(self.from).to_string());
        into.owned("until", moment(self.until).to_string());
        into.optional("principal", self.principal.as_ref().map(Principal::as_str));
        let row = |row: &'e RefusalCount| {
            let (whose, stage) = match row.stage {
                None => ([("agent", Value::from_text(cut(&row.whose)))], None),
                Some(stage) => (
                    [("network", Value::from_text(cut(&row.whose)))],
                    Some(("stage", Value::from_text(stage))),
                ),
            };
            let counted = [("code", Value::from_text(row.code)), ("count", number(row.count))];
            let mut members: Vec<_> = whose.into_iter().chain(counted).chain(stage).collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            object(members)
        };
        into.value("rows", Value::Array(self.rows.iter().take(ROWS_MAX).map(row).collect()));
        into.number("other", self.other);
    }
}
