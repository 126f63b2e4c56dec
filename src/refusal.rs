//! The table of all refusals: stage, HTTP status, stable code, and whether a retry can help.
//!
//! The answer's body, the record, the metric's label and docs/REFUSALS.md are made from it. A
//! [`Refusal`] has two texts: a short message for the caller, and a detail for the operator's log.
//! The message never contains a token, a key or a part of a prompt.

mod document;

use std::fmt;
use std::time::Duration;

pub use document::markdown;

/// The steps of a request, in order. A refusal names the step that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The connection and the request line, before authentication.
    Accepted,
    /// The search for a token in the headers.
    Presented,
    /// Shape, signature, claims and times of the token.
    Verified,
    /// The status of agent, token and key.
    Authenticated,
    /// Rates of the agent and its ancestors.
    Paced,
    /// The operation and its scope.
    Routed,
    /// The body.
    Understood,
    /// The hosts that the request would make the model server reach.
    Cleared,
    /// Privacy (a later step).
    Screened,
    /// The operator's rules (a later step).
    Governed,
    /// Requests in flight, rates of model and upstream, budgets.
    Admitted,
    /// The record.
    Recorded,
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
            Self::Recorded => "recorded",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Whether a retry of the same request may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will be refused again. The answer has `x-should-retry: false`.
    Never,
    /// A later retry may succeed.
    Later,
}

macro_rules! codes {
    ($(
        $variant:ident $code:literal $stage:ident $status:literal $retry:ident $meaning:literal;
    )+) => {
        /// Every reason for a refusal. The code is stable: clients and alerts may depend on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)+ }

        impl Code {
            /// All codes, in the order of the stages.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The step that refuses with this code.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)+ }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)+ } }

            /// Whether a retry can help.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// One sentence: the meaning, and the action to take.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

codes! {
    PeerRate "peer-rate" Accepted 429 Later
        "This network address sends too many requests. Slow down.";
    HostNotServed "host-not-served" Accepted 421 Never
        "The Host or :authority of the request is not valid.";
    TargetNotCanonical "target-not-canonical" Accepted 400 Never
        "The request target must be a plain path such as /v1/models. Escapes (except in a \
        model's name), dots, empty segments and a query are not allowed.";
    FramingInvalid "framing-invalid" Accepted 400 Never
        "The message's framing is ambiguous (Transfer-Encoding, Content-Length, Expect).";
    UpgradeNotServed "upgrade-not-served" Accepted 426 Never
        "This gateway serves HTTP requests alone. Send the request without Upgrade.";
    RequestMalformed "request-malformed" Accepted 400 Never
        "The request is not well-formed HTTP: its request line, a header or its length.";
    HeadersTooLarge "headers-too-large" Accepted 431 Never
        "The request line and the headers are longer than 64 KiB, or there are more than 100 \
        headers.";
    HeadersSlow "headers-slow" Accepted 408 Later "The headers did not arrive in time.";

    TokenMissing "token-missing" Presented 401 Never
        "Send a capability token: Authorization: Bearer TOKEN, x-api-key, or api-key.";
    TokenAmbiguous "token-ambiguous" Presented 401 Never
        "Send one credential: Authorization, x-api-key and api-key must be equal.";
    RootRate "root-rate" Presented 429 Later
        "Too many new chains of one root token. Retry-After gives the time until the next one \
        is verified.";
    TokenScheme "token-scheme" Presented 401 Never "The Authorization scheme must be Bearer.";
    TokenInQuery "token-in-query" Presented 401 Never
        "Credentials in a URL are refused. Send a header, and replace the exposed token.";
    TokenTooLarge "token-too-large" Presented 401 Never "The token is longer than 40 KiB.";
    AuditorUnknown "auditor-unknown" Presented 401 Never
        "The log's tree is for auditors. Send the auditor's credential: Authorization: Bearer \
        CREDENTIAL.";
    TreeUnknown "tree-unknown" Presented 404 Never
        "The log does not have this file, or no longer. It has /audit/log.vkeys, \
        /audit/NAME/EPOCH/checkpoint and the files of C2SP tlog-tiles.";

    TokenMalformed "token-malformed" Verified 401 Never
        "The token is not a well-formed JWS in compact form.";
    TokenHeader "token-header" Verified 401 Never
        "The token's header must have exactly typ, alg and kid.";
    TokenAlgorithm "token-algorithm" Verified 401 Never
        "The token's alg is not the algorithm of the key that its kid names.";
    TokenKeyUnknown "token-key-unknown" Verified 401 Never
        "The token's kid names no key that this gateway knows.";
    TokenSignature "token-signature" Verified 401 Never "The token's signature does not verify.";
    TokenClaims "token-claims" Verified 401 Never
        "A claim of the token is missing or has the wrong type.";
    TokenList "token-list" Verified 401 Never
        "A list of the token (aud, scopes or a constraint's) has too many entries, or an \
        entry twice.";
    TokenIssuer "token-issuer" Verified 401 Never
        "The token's iss is not the issuer that its key belongs to.";
    TokenAudience "token-audience" Verified 401 Never "The token's aud does not name this gateway.";
    TokenNamespace "token-namespace" Verified 401 Never
        "The token's issuer may not speak for this agent's namespace.";
    TokenPrincipal "token-principal" Verified 401 Never
        "The token's issuer may not speak for this principal (sub).";
    TokenPostQuantum "token-post-quantum" Verified 401 Never
        "This issuer's tokens must be signed with ML-DSA-65.";
    TokenExpired "token-expired" Verified 401 Never "The token has expired. Get a new one.";
    TokenNotYetValid "token-not-yet-valid" Verified 401 Never
        "The token is not valid yet. Compare the clocks.";
    TokenLifetime "token-lifetime" Verified 401 Never
        "The token's lifetime is longer than its issuer allows (ttl_max).";
    ScopeUnknown "scope-unknown" Verified 401 Never
        "The token has a scope that is not in the table of docs/TOKEN.md.";
    ConstraintMalformed "constraint-malformed" Verified 401 Never
        "A constraint of the token does not have the form that docs/TOKEN.md describes.";
    ConstraintNotEnforced "constraint-not-enforced" Verified 401 Never
        "The token has a limit that this version cannot enforce. A limit is never ignored, so \
        the token is refused.";
    ProofNotSupported "proof-not-supported" Verified 401 Never
        "The token is bound to a key (cnf). This version cannot check the proof.";
    ChainTooLong "chain-too-long" Verified 401 Never "A chain has at most four tokens.";
    ChainSigner "chain-signer" Verified 401 Never
        "A token of the chain is not signed by the key that its parent names.";
    ChainParent "chain-parent" Verified 401 Never
        "A token of the chain does not belong to the token before it (par_hash).";
    ChainDepth "chain-depth" Verified 401 Never
        "A token of the chain is deeper than it or its parent allows.";
    ChainPrincipal "chain-principal" Verified 401 Never
        "A token of the chain changes the principal (sub).";
    ChainName "chain-name" Verified 401 Never
        "A token's name in the chain must be its parent's name and one more segment.";
    ChainTimes "chain-times" Verified 401 Never
        "A token of the chain begins before or ends after its parent.";
    ChainWidened "chain-widened" Verified 401 Never
        "A token of the chain allows more than its parent.";
    ChainHolder "chain-holder" Verified 401 Never
        "A token of the chain has no holder key, and its ancestors do not allow that, or not \
        for so long.";
    HandleUnknown "handle-unknown" Verified 401 Never "This gateway does not know this handle.";
    HandlesOff "handles-off" Verified 401 Never
        "This issuer's tokens cannot be used by handle. Send the token itself.";

    TokenRevoked "token-revoked" Authenticated 401 Never "The token was revoked. Ask the operator.";
    HandleRevoked "handle-revoked" Authenticated 401 Never
        "The handle was revoked. Ask the operator.";
    HandleRequired "handle-required" Authenticated 401 Never
        "This token has a handle. Send the handle instead of the token.";
    KeyRevoked "key-revoked" Authenticated 401 Never
        "A key that signed the token or its chain was revoked. Ask the operator.";
    AgentSuspended "agent-suspended" Authenticated 403 Never
        "The agent, its namespace or an agent that it was delegated from is suspended. Ask \
        the operator.";
    AgentQuarantined "agent-quarantined" Authenticated 403 Never
        "The agent, its namespace or an agent that it was delegated from is in quarantine. \
        Ask the operator.";
    AgentRevoked "agent-revoked" Authenticated 403 Never
        "The agent or an agent that it was delegated from was revoked. Ask the operator.";
    PrincipalSuspended "principal-suspended" Authenticated 403 Never
        "The principal of the token is suspended. Ask the operator.";
    ClassUnknown "class-unknown" Authenticated 403 Never
        "The agent's class is not in the config. The operator must register the agent again.";

    RateExceeded "rate-exceeded" Paced 429 Later
        "The request rate is used up. Retry-After gives the time until the next request may pass.";
    RateIsZero "rate-is-zero" Paced 429 Never "A rate limit is zero, so no request may pass.";
    InFlightExceeded "in-flight-exceeded" Paced 429 Later
        "Too many requests are in flight. Wait until one ends.";

    RouteUnknown "route-unknown" Routed 404 Never
        "There is no such route. The routes are POST /v1/chat/completions, /v1/completions, \
        /v1/embeddings, /v1/rerank, /v1/messages, /v1/messages/count_tokens, /v1/responses, \
        /api/chat, \
        /api/generate, /api/embed and /api/show, GET /v1/models, /v1/models/MODEL, /api/tags, \
        /api/ps, /api/version and /v1/token-shield/me.";
    MethodNotAllowed "method-not-allowed" Routed 405 Never
        "The path exists, but not with this method. The header Allow lists its methods.";
    ReceiptUnknown "receipt-unknown" Routed 404 Never
        "This agent has no such record. The path is /receipts/ and the value of audit-record, \
        with / in place of #.";
    ReceiptEarly "receipt-early" Routed 404 Later
        "The record is stored, but not yet covered by a signed checkpoint. Retry-After says \
        how long to wait.";
    ScopeMissing "scope-missing" Routed 403 Never
        "The token does not have the scope that this operation needs.";

    ContentType "content-type" Understood 415 Never "The body must be application/json in UTF-8.";
    BodyEncoded "body-encoded" Understood 415 Never
        "Content-Encoding is not accepted, except zstd. Send the body without it.";
    BodyTooLarge "body-too-large" Understood 413 Never
        "The body is larger than this gateway accepts.";
    BodySlow "body-slow" Understood 408 Later "The body did not arrive in time.";
    BodyIncomplete "body-incomplete" Understood 400 Later "The body ended before it was complete.";
    BodyMemory "body-memory" Understood 503 Later
        "The memory for request bodies is in use. Try again soon.";
    FormInvalid "form-invalid" Understood 400 Never
        "The body is not one strict form (multipart/form-data).";
    JsonInvalid "json-invalid" Understood 400 Never "The body is not one strict JSON object.";
    FieldNotAllowed "field-not-allowed" Understood 400 Never
        "The body has a field that this model's server may not get.";
    FieldInvalid "field-invalid" Understood 400 Never
        "A field has a value of the wrong type or out of range.";
    FieldMissing "field-missing" Understood 400 Never "A required field is missing.";
    ModelNotFound "model-not-found" Understood 404 Never "There is no such model for this token.";
    DialectNotServed "dialect-not-served" Understood 400 Never
        "No server of this model has this operation. The message names those that it has.";
    ModelChanged "model-changed" Understood 503 Later
        "The model's weights do not match its pin, or are not known at the moment. Tell the \
        operator.";

    EgressUncontrolled "egress-uncontrolled" Cleared 403 Never
        "The request would make the model server reach an endpoint that is not controlled.";
    ToolNotAllowed "tool-not-allowed" Cleared 403 Never
        "The request names a hosted tool. Only function tools are allowed.";

    UpstreamFull "upstream-full" Admitted 503 Later
        "All slots of the model's server are in use, and none became free in time. \
        Retry-After says how long to wait.";
    ModelRateExceeded "model-rate-exceeded" Admitted 429 Later
        "The request rate of the model or its server is used up. Retry-After says how long to \
        wait.";

    AuditSlow "audit-slow" Recorded 503 Later
        "The disk of the audit log is slow. Retry-After says how long to wait.";
    AuditFull "audit-full" Recorded 503 Later
        "The disk of the audit log is full, so new requests are refused.";
    AuditResources "audit-resources" Recorded 503 Later
        "The gateway is short of a resource for its audit log, such as open files. \
        Retry-After says how long to wait.";
    AuditUnavailable "audit-unavailable" Recorded 503 Later
        "The gateway cannot write its audit log, so it serves no requests.";

    FetchFailed "fetch-failed" Forwarded 422 Never
        "Content that the request names could not be fetched, or has a type that is not \
        allowed there. Send the content itself.";
    FetchSlow "fetch-slow" Forwarded 504 Later
        "Content that the request names did not arrive in time.";
    FetchQuota "fetch-quota" Forwarded 429 Later
        "The agent's fetch quota for this hour is used up.";
    GatewayStopping "gateway-stopping" Forwarded 503 Later
        "The gateway is stopping, so it ends open requests.";
    UpstreamUnavailable "upstream-unavailable" Forwarded 503 Later
        "No server for this model can be reached.";
    UpstreamSlow "upstream-slow" Forwarded 504 Later "The model's server did not answer in time.";
    UpstreamInvalid "upstream-invalid" Forwarded 502 Never
        "The model's server sent an answer that the gateway does not pass on.";
    UpstreamError "upstream-error" Forwarded 502 Never
        "The model's server answered with an error in a form that the gateway does not pass on. \
        The status of the answer is the server's.";
    Truncated "truncated" Forwarded 502 Never
        "The model's server ended its answer before it was complete.";
    UpstreamEndless "upstream-endless" Forwarded 502 Never
        "The model's server sent more than the request's cap on output tokens allows. The \
        answer was cut off.";
    AnswerUncontrolled "answer-uncontrolled" Forwarded 403 Never
        "The answer points to an endpoint that is not controlled, and is refused for agents \
        of this class.";
    ClientSlow "client-slow" Forwarded 408 Later "The caller did not read its answer in time.";
    UpstreamCredential "upstream-credential" Forwarded 502 Never
        "The model's server refused the gateway's own credential. Tell the operator.";
    Internal "internal" Forwarded 500 Later
        "The gateway failed. The operator's log has the reason under the request's id.";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The methods that a path has (RFC 9110 section 10.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// A path that is read. HEAD is GET without the answer's body.
    Read,
    /// A path that generates an answer.
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

/// A refusal: its code, the message to the caller, and the detail for the operator.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// For the caller: the table's sentence, or a more precise one that is safe to show.
    pub message: String,
    /// The position in the body, as a path such as `messages[0].content[1].image_url.url`.
    pub param: Option<String>,
    /// For the operator's log and the record. It is never sent to the caller.
    pub detail: Option<String>,
    /// The time after which a retry may succeed.
    pub retry_after: Option<Duration>,
    /// The methods that the path has, for the header `Allow` (RFC 9110 section 15.5.6).
    pub allow: Option<Allow>,
    /// The HTTP status of the model's server, which the answer keeps instead of the code's.
    pub kept_status: Option<u16>,
}

impl Refusal {
    /// A refusal with the table's sentence.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            message: code.meaning().to_owned(),
            param: None,
            detail: None,
            retry_after: None,
            allow: None,
            kept_status: None,
        }
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self.kept_status {
            Some(status) => status,
            None => self.code.status(),
        }
    }

    /// The same with the status of the model's server.
    #[must_use]
    pub const fn keeping(mut self, status: u16) -> Self {
        self.kept_status = Some(status);
        self
    }

    /// The same with another message. It must be safe to show to an unauthenticated caller.
    #[must_use]
    pub fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The same with a position in the body.
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

    /// The same with `subject` before the reason that it has.
    #[must_use]
    pub fn about(self, subject: impl fmt::Display) -> Self {
        match self.detail.clone() {
            Some(detail) => self.because(format_args!("{subject}: {detail}")),
            None => self.because(subject),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_stage_order() {
        let mut seen = std::collections::HashSet::new();
        let mut last = Stage::Accepted;
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} is in the table twice");
            assert!(code.stage() >= last, "{code} is out of order");
            last = code.stage();
        }
    }
}
