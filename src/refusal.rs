//! The one table of refusals: stage, HTTP status, stable code, and whether retrying can help.
//!
//! The answer's body, the record, the metric's label and docs/REFUSALS.md come from here. A [`Refusal`] has two voices: a
//! short one for the caller, which never carries a token, a key or text of a prompt, and a detail for the operator's log.

use std::fmt;
use std::time::Duration;

/// The steps of a request, in order; a refusal names the one that said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The connection and the request line, before anybody is known.
    Accepted,
    /// A token was looked for in the headers.
    Presented,
    /// Shape, signature, claims and times of the token.
    Verified,
    /// The standing of agent, token and key.
    Authenticated,
    /// Rates of the agent and of those above it.
    Paced,
    /// The operation and the scope that it needs.
    Routed,
    /// The body.
    Understood,
    /// What the request would make the model server fetch or do.
    Cleared,
    /// Privacy (a later step).
    Screened,
    /// The operator's rules (a later step).
    Governed,
    /// Work in flight, model and upstream rates, budgets.
    Admitted,
    /// The record.
    Sealed,
    /// The upstream.
    Forwarded,
}

impl Stage {
    /// The stage's name in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Presented => "presented",
            Self::Verified => "verified",
            Self::Authenticated => "authenticated",
            Self::Paced => "paced",
            Self::Routed => "routed",
            Self::Understood => "understood",
            Self::Cleared => "cleared",
            Self::Screened => "screened",
            Self::Governed => "governed",
            Self::Admitted => "admitted",
            Self::Sealed => "sealed",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Whether the same request may pass later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will be refused again: the answer says `x-should-retry: false`.
    Never,
    /// Waiting may help.
    Later,
}

macro_rules! codes {
    ($($variant:ident $code:literal $stage:ident $status:literal $retry:ident $meaning:literal;)+) => {
        /// Every reason for a refusal. The text form is stable: clients and alerts may rely on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)+ }

        impl Code {
            /// The whole table, in the order of the stages.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }

            /// The step that refuses with this code.
            #[must_use]
            pub const fn stage(self) -> Stage { match self { $(Self::$variant => Stage::$stage,)+ } }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)+ } }

            /// Whether retrying can help.
            #[must_use]
            pub const fn retry(self) -> Retry { match self { $(Self::$variant => Retry::$retry,)+ } }

            /// One sentence: what it means and what to do.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)+ } }
        }
    };
}

codes! {
    PeerRate "peer-rate" Accepted 429 Later "This network address sends too many requests; slow down.";
    HostNotServed "host-not-served" Accepted 421 Never "The Host or :authority of the request is not valid.";
    TargetNotCanonical "target-not-canonical" Accepted 400 Never "The request target must be a plain path such as /v1/models, without escapes (but in a model's name), dots, empty segments or a query.";
    FramingInvalid "framing-invalid" Accepted 400 Never "The message's framing is ambiguous (Transfer-Encoding, Content-Length, Upgrade, Expect).";
    RequestMalformed "request-malformed" Accepted 400 Never "The request is not well-formed HTTP: its request line, a header or its length.";
    HeadersTooLarge "headers-too-large" Accepted 431 Never "The request line and the headers are longer than the gateway reads (64 KiB), or are more than 100 headers.";
    HeadersSlow "headers-slow" Accepted 408 Later "The headers did not arrive in time.";

    TokenMissing "token-missing" Presented 401 Never "Send a capability token: Authorization: Bearer TOKEN, or x-api-key.";
    TokenAmbiguous "token-ambiguous" Presented 401 Never "Exactly one credential is read: send one Authorization header or one x-api-key, not both, not twice.";
    RootRate "root-rate" Presented 429 Later "Too many new chains of one root token at once; Retry-After says when the next one is looked at.";
    TokenScheme "token-scheme" Presented 401 Never "The Authorization scheme must be Bearer.";
    TokenInQuery "token-in-query" Presented 401 Never "Credentials are never read from the URL; send a header, and replace the token that was exposed.";
    TokenTooLarge "token-too-large" Presented 401 Never "The token is longer than the gateway reads (40 KiB).";
    AuditorUnknown "auditor-unknown" Presented 401 Never "The log's tree is for auditors: send the auditor's credential, Authorization: Bearer CREDENTIAL.";
    TreeUnknown "tree-unknown" Presented 404 Never "There is no such file of the log (any more): /audit/log.vkeys, /audit/NAME/EPOCH/checkpoint and what C2SP tlog-tiles names beside it.";

    TokenMalformed "token-malformed" Verified 401 Never "The token is not a well-formed JWS in compact form.";
    TokenHeader "token-header" Verified 401 Never "The token's header must be exactly typ, alg and kid.";
    TokenAlgorithm "token-algorithm" Verified 401 Never "The token's alg is not the algorithm of the key that its kid names.";
    TokenKeyUnknown "token-key-unknown" Verified 401 Never "The token's kid names no key that this gateway knows.";
    TokenSignature "token-signature" Verified 401 Never "The token's signature does not verify.";
    TokenClaims "token-claims" Verified 401 Never "A claim of the token is missing or has the wrong type.";
    TokenList "token-list" Verified 401 Never "A list of the token (aud, scopes or a constraint's) has more entries than this gateway takes, or one twice.";
    TokenIssuer "token-issuer" Verified 401 Never "The token's iss is not the issuer that its key belongs to.";
    TokenAudience "token-audience" Verified 401 Never "The token's aud does not name this gateway.";
    TokenNamespace "token-namespace" Verified 401 Never "The token's issuer may not speak for this agent's namespace.";
    TokenPrincipal "token-principal" Verified 401 Never "The token's issuer may not speak for this principal (sub).";
    TokenPostQuantum "token-post-quantum" Verified 401 Never "This issuer's tokens must be signed with ML-DSA-65.";
    TokenExpired "token-expired" Verified 401 Never "The token has expired; issue a new one.";
    TokenNotYetValid "token-not-yet-valid" Verified 401 Never "The token is not valid yet; compare the clocks.";
    TokenLifetime "token-lifetime" Verified 401 Never "The token lives longer than its issuer allows (ttl_max).";
    ScopeUnknown "scope-unknown" Verified 401 Never "The token names a scope that is not in the table of docs/TOKEN.md.";
    ConstraintMalformed "constraint-malformed" Verified 401 Never "A constraint of the token is not written as docs/TOKEN.md says.";
    ConstraintNotEnforced "constraint-not-enforced" Verified 401 Never "The token carries a limit that this build cannot hold, so the token is refused rather than the limit dropped.";
    ProofNotSupported "proof-not-supported" Verified 401 Never "The token is bound to a key (cnf); this build cannot check the proof.";
    ChainTooLong "chain-too-long" Verified 401 Never "A chain has at most four tokens.";
    ChainSigner "chain-signer" Verified 401 Never "A token of the chain is not signed by the key that its parent names.";
    ChainParent "chain-parent" Verified 401 Never "A token of the chain does not belong to the token before it (par_hash).";
    ChainDepth "chain-depth" Verified 401 Never "A token of the chain stands deeper than it or its parent allows.";
    ChainPrincipal "chain-principal" Verified 401 Never "A token of the chain changes in whose name is acted (sub).";
    ChainName "chain-name" Verified 401 Never "The name of a token of the chain is not its parent's and one segment more.";
    ChainTimes "chain-times" Verified 401 Never "A token of the chain begins before or ends after its parent.";
    ChainWidened "chain-widened" Verified 401 Never "A token of the chain allows more than its parent.";
    ChainHolder "chain-holder" Verified 401 Never "A token of the chain has no key of its own, and its ancestors do not allow that, or not for so long.";
    HandleUnknown "handle-unknown" Verified 401 Never "This gateway knows no such handle.";
    HandlesOff "handles-off" Verified 401 Never "This issuer's tokens are not taken by handle; send the token itself.";

    TokenRevoked "token-revoked" Authenticated 401 Never "The token was revoked; ask the operator.";
    HandleRevoked "handle-revoked" Authenticated 401 Never "The handle was revoked; ask the operator.";
    TokenBehindHandle "token-behind-handle" Authenticated 401 Never "This token stands behind a handle and is taken by that alone.";
    KeyRevoked "key-revoked" Authenticated 401 Never "A key that the token or its chain stands on was revoked; ask the operator.";
    AgentSuspended "agent-suspended" Authenticated 403 Never "The agent is suspended, or its namespace or one that it was delegated from is; ask the operator.";
    AgentQuarantined "agent-quarantined" Authenticated 403 Never "The agent is in quarantine, or its namespace or one that it was delegated from is; ask the operator.";
    AgentRevoked "agent-revoked" Authenticated 403 Never "The agent was revoked, or one that it was delegated from was; ask the operator.";
    PrincipalSuspended "principal-suspended" Authenticated 403 Never "The principal in whose name it acts is suspended; ask the operator.";
    ClassUnknown "class-unknown" Authenticated 403 Never "The agent's class is not in the config; the operator must register it anew.";

    RateExceeded "rate-exceeded" Paced 429 Later "A request rate is used up; Retry-After says when the next one fits.";
    RateIsZero "rate-is-zero" Paced 429 Never "A rate limit of zero stands; no request passes.";
    InFlightExceeded "in-flight-exceeded" Paced 429 Later "Too many requests are in flight at once; wait for one to end.";

    RouteUnknown "route-unknown" Routed 404 Never "No such route. There are POST /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/messages, GET /v1/models, /v1/models/MODEL and /v1/token-shield/me.";
    MethodNotAllowed "method-not-allowed" Routed 405 Never "The path is there, but not with this method; Allow names those that it has.";
    ReceiptUnknown "receipt-unknown" Routed 404 Never "There is no such record of this agent: /receipts/ and what audit-record says, its # written as /.";
    ReceiptEarly "receipt-early" Routed 404 Later "The record is durable and not under a signed checkpoint yet; Retry-After says when to come back.";
    ScopeMissing "scope-missing" Routed 403 Never "The token does not grant the scope that this operation needs.";

    ContentType "content-type" Understood 415 Never "The body must be application/json in UTF-8.";
    BodyEncoded "body-encoded" Understood 415 Never "Content-Encoding is not accepted; send the body as it is.";
    BodyTooLarge "body-too-large" Understood 413 Never "The body is larger than this gateway takes.";
    BodySlow "body-slow" Understood 408 Later "The body did not arrive in time.";
    BodyIncomplete "body-incomplete" Understood 400 Later "The body ended before it was complete.";
    BodyMemory "body-memory" Understood 503 Later "The gateway holds as many bytes of bodies as it may; try again shortly.";
    JsonInvalid "json-invalid" Understood 400 Never "The body is not one strict JSON object.";
    FieldNotAllowed "field-not-allowed" Understood 400 Never "A field is not one that may pass to this model's server.";
    FieldInvalid "field-invalid" Understood 400 Never "A field has a value of the wrong type or out of range.";
    FieldMissing "field-missing" Understood 400 Never "A required field is missing.";
    ModelNotFound "model-not-found" Understood 404 Never "There is no such model for this token.";
    ModelChanged "model-changed" Understood 503 Later "The model's weights are not those that the operator pinned, or are not known at the moment; tell the operator.";

    EgressUncontrolled "egress-uncontrolled" Cleared 403 Never "The request would make the model server reach an endpoint that is not controlled.";
    ToolNotAllowed "tool-not-allowed" Cleared 403 Never "The request names a hosted tool; only function tools pass.";

    UpstreamFull "upstream-full" Admitted 503 Later "The model's server has all the requests in flight that it may have, and no place became free in time; Retry-After says when to come back.";
    ModelRateExceeded "model-rate-exceeded" Admitted 429 Later "The model or its server is at its request rate; Retry-After says when to come back.";

    AuditSlow "audit-slow" Sealed 503 Later "The disk that records are kept on is slow; Retry-After says when to come back.";
    AuditFull "audit-full" Sealed 503 Later "The disk that records are kept on is full, so nothing new is let through.";
    AuditShort "audit-short" Sealed 503 Later "The gateway is short of something that its records need, such as open files; Retry-After says when to come back.";
    AuditUnavailable "audit-unavailable" Sealed 503 Later "The gateway cannot record, so it does not act.";

    FetchFailed "fetch-failed" Forwarded 422 Never "Content that the request names could not be fetched, or is not what may stand there; send the content itself.";
    FetchSlow "fetch-slow" Forwarded 504 Later "Content that the request names did not come in time.";
    FetchAllowance "fetch-allowance" Forwarded 429 Later "The bytes that may be fetched for this agent within an hour are used up.";
    GatewayStopping "gateway-stopping" Forwarded 503 Later "The gateway is stopping, and ends what is still going on.";
    UpstreamUnavailable "upstream-unavailable" Forwarded 503 Later "No server for this model can be reached.";
    UpstreamSlow "upstream-slow" Forwarded 504 Later "The model's server did not answer in time.";
    UpstreamInvalid "upstream-invalid" Forwarded 502 Never "The model's server answered in a way that is not passed on.";
    Truncated "truncated" Forwarded 502 Never "The model's server ended its answer before it was complete.";
    UpstreamEndless "upstream-endless" Forwarded 502 Never "The model's server sent more than the request's cap of tokens can be; the answer was cut off.";
    AnswerUncontrolled "answer-uncontrolled" Forwarded 403 Never "The answer points at an endpoint that is not controlled, and is refused for agents of this class.";
    ReaderSlow "reader-slow" Forwarded 408 Later "The caller did not read its answer in time.";
    UpstreamCredential "upstream-credential" Forwarded 502 Never "The model's server refused the gateway's own credential; tell the operator.";
    Internal "internal" Forwarded 500 Later "The gateway failed; the operator's log says more under the request's id.";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The methods that a path has (RFC 9110 section 10.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// What is read: HEAD is GET without the answer's body.
    Read,
    /// Where something is generated.
    Generate,
}

impl Allow {
    /// The value of the header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "GET, HEAD",
            Self::Generate => "POST",
        }
    }
}

/// A no: its code, what the caller is told, and what the operator's log is told besides.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The row of the table.
    pub code: Code,
    /// The outside voice; the table's sentence unless something more useful can be said safely.
    pub message: String,
    /// Where in the body it is, as a path such as `messages[0].content[1].image_url.url`.
    pub param: Option<String>,
    /// The inside voice: for the log and the record, never for the caller.
    pub detail: Option<String>,
    /// When the next try makes sense.
    pub retry_after: Option<Duration>,
    /// The methods that the path has, for the header `Allow` (RFC 9110 section 15.5.6).
    pub allow: Option<Allow>,
}

impl Refusal {
    /// A refusal in the table's own words.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, message: code.meaning().to_owned(), param: None, detail: None, retry_after: None, allow: None }
    }

    /// The same with another outside voice. `message` must be safe to show to a stranger.
    #[must_use]
    pub fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The same, pointing into the body.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same with a detail for the operator.
    #[must_use]
    pub fn because(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The same with the methods that the path has.
    #[must_use]
    pub const fn allowing(mut self, methods: Allow) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The same with a time to wait.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// The table as Markdown: docs/REFUSALS.md is this text.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Refusals\n\nEvery way in which token-shield says no. Generated from `src/refusal.rs`; a test keeps it so.\n\n\
         Each answer carries `token-shield-request: rq_…`; where retrying cannot help it also carries `x-should-retry: false`, \
         which the OpenAI and Anthropic SDKs obey. The body has the shape of the caller's own dialect, with the code in \
         `error.code` (OpenAI) or `error.code` beside `error.type` (Anthropic).\n\n\
         | code | stage | status | retry | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::Later => "later",
        };
        text.push_str(&format!("| `{code}` | {} | {} | {retry} | {} |\n", code.stage().as_str(), code.status(), code.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_stage_order() {
        let mut seen = std::collections::HashSet::new();
        let mut last = Stage::Accepted;
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(code.stage() >= last, "{code} is out of order");
            last = code.stage();
        }
    }
}
