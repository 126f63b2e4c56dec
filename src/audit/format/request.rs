//! The records of requests: admissions, outcomes, refusals, and counts of refusals without their
//! own record.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::format::payload::{PayloadWriter, cut, list, moment, number, object};
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, RequestId, TokenId};
use crate::json::{Object, Value};

/// The maximum of rows of counts in one record.
pub const ROWS_MAX: usize = 64;
/// The maximum of items of each other list in a record.
const LIST_MAX: usize = 16;

/// A request that an upstream may get.
pub trait Forwards {
    /// The body that is sent. `None` where no body is sent, or while content must still be
    /// inserted.
    fn forwarded(&self) -> Option<&[u8]>;
}

impl Forwards for () {
    fn forwarded(&self) -> Option<&[u8]> {
        None
    }
}

/// The caller and the purpose of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// The request's id.
    pub request: RequestId,
    /// The caller.
    pub caller: Arc<Caller>,
    /// The handle that the caller used instead of a token.
    pub handle: Option<HandleId>,
    /// The caller's address: the connection's peer, or the client that a trusted proxy names.
    pub peer: Option<IpAddr>,
    /// The operation; empty where it is unknown.
    pub operation: &'static str,
    /// The model's canonical name.
    pub model: Option<Arc<str>>,
    /// The hash of the rules and the config.
    pub policy: Arc<str>,
}

/// A caller with a verified token. It is computed once and then shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The agent that acts.
    pub agent: AgentName,
    /// The principal that it acts for.
    pub principal: Principal,
    /// The tokens and the keys that signed them, the root token first.
    pub chain: Vec<(TokenId, KeyId)>,
}

/// A server, with the operator's statements about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name in the config.
    pub name: Arc<str>,
    /// Whether the operator controls it.
    pub controlled: bool,
    /// Its jurisdiction in the config.
    pub jurisdiction: Option<Arc<str>>,
}

/// A model's digest, and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDigest {
    /// `sha256:…`, or the server's own name for it; empty where it is unknown.
    pub value: String,
    /// `measured`, `reported` or `unknown`.
    pub source: &'static str,
}

/// A part that was removed from a request, because it would have made the server reach out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    /// The kind of the part.
    pub kind: &'static str,
    /// Its path in the body.
    pub path: String,
    /// The URL, the tool's type or the id.
    pub target: String,
}

/// A reference in an answer that would have made its client reach out, and the decision about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundReference {
    /// `fetched` without a click, `clicked`, or `either`.
    pub kind: &'static str,
    /// `strip`, `block` or `report`.
    pub verdict: &'static str,
    /// The reason why it is not controlled.
    pub reason: &'static str,
    /// Scheme, host and port, or the text in their place.
    pub target: String,
}

/// Content that will be fetched for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFetch {
    /// The path in the body where it will be inserted.
    pub path: String,
    /// The URL.
    pub target: String,
    /// The digest of the whole URL.
    pub target_digest: [u8; 32],
}

/// Content that was fetched and inserted into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedContent {
    /// Its path in the body.
    pub path: String,
    /// The URL.
    pub target: String,
    /// The digest of the whole URL.
    pub target_digest: [u8; 32],
    /// Its media type.
    pub media_type: String,
    /// The length and digest of the content.
    pub content: BodyDigest,
}

/// The length and digest of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyDigest {
    /// The length in bytes.
    pub bytes: u64,
    /// HMAC-SHA-256 under the record's `digest_key`.
    pub digest: [u8; 32],
}

/// An admitted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The caller and the purpose.
    pub about: RequestContext,
    /// The first server that is tried; `None` for an answer of the gateway itself.
    pub upstream: Option<Server>,
    /// The digest of the weights that answer.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The limit of output tokens.
    pub output_tokens: Option<u64>,
    /// Parts that were removed, because they would have made the server reach out.
    pub stripped: Vec<Stripped>,
    /// Content that will be fetched and inserted.
    pub fetches: Vec<PlannedFetch>,
    /// The key of the digests.
    pub digest_key: [u8; 16],
    /// The body as it was received.
    pub received: BodyDigest,
    /// The body as it is sent. `None` where no body is sent, or content must still be inserted.
    pub forwarded: Option<BodyDigest>,
}

/// The usage of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// The source of the numbers: `reported`, `running` or `bound` (docs/AUDIT.md).
    pub source: &'static str,
}

/// The end of an admitted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The caller and the purpose.
    pub about: RequestContext,
    /// The index of the admission's record.
    pub admission: u64,
    /// The server that answered, or the last one that was tried.
    pub upstream: Option<Server>,
    /// The digest of the weights that answered.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The code: `ok`, `upstream-error`, `aborted`, or a refusal's code.
    pub code: &'static str,
    /// The detail of a refusal.
    pub detail: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// Milliseconds since the arrival of the request.
    pub ms: u64,
    /// Input and output tokens; `None` where no model was used.
    pub usage: Option<Used>,
    /// References in the answer that would have made its client reach out: the first ones, and the
    /// number of all.
    pub outbound: (Vec<OutboundReference>, u64),
    /// Content that was fetched and inserted.
    pub fetched: Vec<FetchedContent>,
    /// The body that was sent with that content.
    pub forwarded: Option<BodyDigest>,
    /// The key of the digests.
    pub digest_key: [u8; 16],
    /// The answer as it was delivered.
    pub delivered: BodyDigest,
}

/// A refused request of an authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The caller and the purpose.
    pub about: RequestContext,
    /// The step that refused it.
    pub stage: &'static str,
    /// The refusal's code.
    pub code: &'static str,
    /// The detail for the operator.
    pub detail: Option<String>,
    /// The field of the body.
    pub param: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// Milliseconds since the arrival of the request.
    pub ms: u64,
}

/// Counts of refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCounts {
    /// The principal of all these refusals, where the callers were authenticated. The record is
    /// encrypted under its record key.
    pub principal: Option<Principal>,
    /// The start of the period.
    pub from: Timestamp,
    /// The end of the period.
    pub until: Timestamp,
    /// The counts, at most [`ROWS_MAX`].
    pub rows: Vec<RefusalCount>,
    /// The number of refusals without a row.
    pub other: u64,
}

/// One row of counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCount {
    /// The agent, or the network of an unauthenticated caller.
    pub whose: String,
    /// The step that refused, for an unauthenticated caller.
    pub stage: Option<&'static str>,
    /// The refusal's code.
    pub code: &'static str,
    /// The number of refusals.
    pub count: u64,
}

/// The bytes as a base64url text.
#[must_use]
pub fn base64url(bytes: &[u8]) -> Value<'static> {
    Value::from_text(URL_SAFE_NO_PAD.encode(bytes))
}

impl RequestContext {
    /// Writes the members. An outcome leaves out those that its admission has; `whole` includes
    /// them.
    fn members<'e>(&'e self, into: &mut PayloadWriter<'e>, whole: bool) {
        into.owned("request", self.request.to_string());
        into.name("agent", self.caller.agent.as_str());
        into.name("principal", self.caller.principal.as_str());
        if !self.operation.is_empty() {
            into.name("operation", self.operation);
        }
        into.optional("model", self.model.as_deref());
        if whole {
            into.value("chain", self.caller.chain_value());
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

/// Writes the server and the digest of its weights, where they are known.
fn server_members<'e>(
    into: &mut PayloadWriter<'e>,
    upstream: Option<&'e Server>,
    digest: Option<&'e ModelDigest>,
) {
    if let Some(server) = upstream {
        into.value("upstream", server.value());
    }
    if let Some(digest) = digest {
        into.value("model_digest", digest.value());
    }
}

impl Caller {
    /// The tokens and keys as a list of a record.
    fn chain_value(&self) -> Value<'static> {
        let mut links = Vec::with_capacity(self.chain.len());
        for (token, kid) in &self.chain {
            links.push(object([
                ("kid", Value::from_text(kid.to_string())),
                ("token", Value::from_text(token.to_string())),
            ]));
        }
        Value::Array(links)
    }
}

impl Stripped {
    /// The removed part as an object of a record.
    fn value(&self) -> Value<'_> {
        object([
            ("kind", Value::from_text(self.kind)),
            ("path", Value::from_text(cut(&self.path))),
            ("target", Value::from_text(cut(&self.target))),
        ])
    }
}

impl OutboundReference {
    /// The reference as an object of a record.
    fn value(&self) -> Value<'_> {
        object([
            ("kind", Value::from_text(cut(self.kind))),
            ("reason", Value::from_text(cut(self.reason))),
            ("target", Value::from_text(cut(&self.target))),
            ("verdict", Value::from_text(cut(self.verdict))),
        ])
    }
}

impl Server {
    /// The server as an object of a record.
    fn value(&self) -> Value<'_> {
        let mut object = Object::new();
        object.set("controlled", Value::Bool(self.controlled));
        if let Some(place) = &self.jurisdiction {
            object.set("jurisdiction", Value::from_text(cut(place)));
        }
        object.set("name", Value::from_text(cut(&self.name)));
        Value::Object(object)
    }
}

impl ModelDigest {
    /// The digest as an object of a record.
    fn value(&self) -> Value<'_> {
        object([
            ("source", Value::from_text(self.source)),
            ("value", Value::from_text(cut(&self.value))),
        ])
    }
}

impl FetchedContent {
    /// The content as an object of a record, without its bytes.
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
    /// The planned fetch as an object of a record.
    fn value(&self) -> Value<'_> {
        object([
            ("path", Value::from_text(cut(&self.path))),
            ("target", Value::from_text(cut(&self.target))),
            ("target_digest", base64url(&self.target_digest)),
        ])
    }
}

impl Admission {
    /// Writes the members of an admission.
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        self.about.members(into, true);
        into.name("decision", "allowed");
        server_members(into, self.upstream.as_ref(), self.model_digest.as_deref());
        if let Some(cap) = self.output_tokens {
            into.value("limits", object([("output_tokens", number(cap))]));
        }
        if !self.stripped.is_empty() {
            into.value("stripped", list(&self.stripped, LIST_MAX, Stripped::value));
        }
        if !self.fetches.is_empty() {
            into.value("fetches", list(&self.fetches, LIST_MAX, PlannedFetch::value));
        }
        // The digests are keyed. In an encrypted log the key is inside the ciphertext, so a party
        // without the record key cannot test guesses of a body.
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
    /// Writes the members of an outcome.
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        self.about.members(into, false);
        into.number("admission", self.admission);
        server_members(into, self.upstream.as_ref(), self.model_digest.as_deref());
        into.name("code", self.code);
        into.optional("detail", self.detail.as_deref());
        into.number("status", u64::from(self.status));
        into.number("ms", self.ms);
        if let Some(Used { input, output, source }) = self.usage {
            into.value("usage", object([("input", number(input)), ("output", number(output))]));
            into.name("usage_source", source);
        }
        // The list is cut, so the record also has the number of all references.
        let (first, count) = &self.outbound;
        if *count > 0 {
            into.value("outbound", list(first, LIST_MAX, OutboundReference::value));
            into.number("outbound_count", *count);
        }
        if !self.fetched.is_empty() {
            into.value("fetched", list(&self.fetched, LIST_MAX, FetchedContent::value));
            into.number("fetched_count", self.fetched.len() as u64);
        }
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
    /// Writes the members of a refusal.
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
    /// Writes the members of the counts.
    pub(super) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        into.owned("from", moment(self.from).to_string());
        into.owned("until", moment(self.until).to_string());
        into.principal(self.principal.as_ref());
        into.value("rows", list(&self.rows, ROWS_MAX, RefusalCount::value));
        into.number("other", self.other);
    }
}

impl RefusalCount {
    /// The row as an object of a record. Only unauthenticated callers have a stage in their row;
    /// their name is a network.
    fn value(&self) -> Value<'_> {
        let whose = Value::from_text(cut(&self.whose));
        let (code, count) = (Value::from_text(self.code), number(self.count));
        match self.stage {
            None => object([("agent", whose), ("code", code), ("count", count)]),
            Some(stage) => object([
                ("code", code),
                ("count", count),
                ("network", whose),
                ("stage", Value::from_text(stage)),
            ]),
        }
    }
}
