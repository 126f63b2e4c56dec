//! Step "route" of the guard: finds the operation in an exact table of methods and paths, and
//! checks the scope that it needs.

use http::{Method, Uri};

use crate::guard::declared::{Found, RequestedRoute};
use crate::guard::limiter::Permit;
use crate::guard::pace::Paced;
use crate::guard::table::Tables;
use crate::model::Operation;
use crate::refusal::{Allow, Code, Refusal};
use crate::token::Scope;

/// A plain request target: one that every parser of a path reads in the same form. Only
/// [`RequestTarget::read`] makes one.
pub struct RequestTarget<'u> {
    /// The path, as the request has it.
    path: &'u str,
    /// The name of a model after `/v1/models/`, decoded, where the request writes it with escapes.
    model: Option<String>,
}

/// The path prefix for a single model.
const MODEL_PATH: &str = "/v1/models/";

/// Decodes the name of a model whose path has escapes (RFC 3986 section 2.1). It decodes once. It
/// returns `None` for a name that a parser could read as another path.
fn decoded(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        bytes.push(hex_digit(rest.next())? << 4 | hex_digit(rest.next())?);
    }
    let name = String::from_utf8(bytes).ok()?;
    // Checked after decoding: `%2e%2e` and an encoded slash must not form a dot segment or an empty
    // one.
    (!name.chars().any(char::is_control) && name.split('/').all(is_segment)).then_some(name)
}

/// The value of a hexadecimal digit.
fn hex_digit(byte: Option<u8>) -> Option<u8> {
    // `to_digit` accepts no sign, in contrast to `from_str_radix`, which accepts `+1`.
    u8::try_from(char::from(byte?).to_digit(16)?).ok()
}

/// Whether every parser of a path reads the byte as a character of a name, or as a slash. Other
/// characters are rewritten, decoded or treated as a separator by some of them.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'%' | b';' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|')
}

/// Whether a path segment has a name, and is not a dot segment (RFC 3986 section 3.3).
fn is_segment(segment: &str) -> bool {
    !segment.is_empty() && segment != "." && segment != ".."
}

/// Query parameters that may carry a credential in other systems.
const CREDENTIAL_PARAMETERS: [&str; 7] =
    ["access_token", "api_key", "api-key", "apikey", "key", "token", "authorization"];

/// Query parameters that SDKs send and that have no effect here, by path.
const HARMLESS_PARAMETERS: [(&str, &str); 12] = [
    ("/v1/chat/completions", "api-version"),
    ("/v1/completions", "api-version"),
    ("/v1/embeddings", "api-version"),
    ("/v1/responses", "api-version"),
    ("/v1/models", "api-version"),
    ("/v1/messages", "beta"),
    ("/v1/messages/count_tokens", "beta"),
    ("/v1/models", "beta"),
    ("/v1/models", "limit"),
    ("/v1/models", "after"),
    ("/v1/models", "after_id"),
    ("/v1/models", "before_id"),
];

impl<'u> RequestTarget<'u> {
    /// Reads the request target: an absolute path of visible ASCII without escapes, dot segments,
    /// empty segments, `;` and `\`. Only the name of a model may have escapes, because SDKs write
    /// it so (`%2F`, `%C3%B6`). Only those query parameters pass that SDKs send and that have no
    /// effect here.
    ///
    /// # Errors
    /// `target-not-canonical`, or `token-in-query` where the query has a credential.
    pub fn read(uri: &'u Uri) -> Result<Self, Refusal> {
        let path = uri.path();
        let model = match path.strip_prefix(MODEL_PATH) {
            Some(name) if name.contains('%') => decoded(name),
            Some(_) | None => None,
        };
        let canonical = path.starts_with('/')
            && path.bytes().all(|byte| is_plain(byte) || byte == b'%' && model.is_some())
            && (path == "/" || path.split('/').skip(1).all(is_segment));
        // The query is checked before the path's result: a credential in a URL must get its own
        // code, because URLs are often logged.
        if let Some(query) = uri.query() {
            for parameter in query.split('&') {
                let name = match parameter.split_once('=') {
                    Some((name, _)) => name,
                    None => parameter,
                };
                if CREDENTIAL_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    return Err(Code::TokenInQuery.into());
                }
                if !HARMLESS_PARAMETERS.contains(&(path, name)) {
                    return Err(Code::TargetNotCanonical.into());
                }
            }
        }
        if canonical { Ok(Self { path, model }) } else { Err(Code::TargetNotCanonical.into()) }
    }

    /// The path.
    #[must_use]
    pub const fn path(&self) -> &'u str {
        self.path
    }
}

/// Whether the method reads, as GET does.
#[must_use]
pub fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The beginnings of paths that belong to the gateway itself.
const OWN_PATHS: [&str; 5] =
    ["/v1/token-shield/", "/v1/models/", "/receipts/", "/audit/", "/.well-known/"];

/// Whether a path is one of the gateway and its dialects, so that no declaration can have it.
#[must_use]
pub fn is_built_in(path: &str) -> bool {
    at(path).is_some() || OWN_PATHS.iter().any(|own| path.starts_with(own))
}

/// The operation at a path, and for a single model its name.
fn at(path: &str) -> Option<(Operation, Option<&str>)> {
    Some(match path {
        "/v1/chat/completions" => (Operation::ChatCompletions, None),
        "/v1/completions" => (Operation::Completions, None),
        "/v1/embeddings" => (Operation::Embeddings, None),
        // The paths of Jina, Cohere and vLLM for one operation.
        "/v1/rerank" | "/rerank" | "/v2/rerank" => (Operation::Rerank, None),
        "/v1/messages" => (Operation::Messages, None),
        "/v1/messages/count_tokens" => (Operation::CountTokens, None),
        "/v1/responses" => (Operation::Responses, None),
        "/api/chat" => (Operation::OllamaChat, None),
        "/api/generate" => (Operation::OllamaGenerate, None),
        "/api/embed" => (Operation::OllamaEmbed, None),
        "/api/embeddings" => (Operation::OllamaEmbeddings, None),
        "/api/tags" => (Operation::OllamaTags, None),
        "/api/show" => (Operation::OllamaShow, None),
        "/api/ps" => (Operation::OllamaRunning, None),
        "/api/version" => (Operation::OllamaVersion, None),
        "/v1/models" => (Operation::ListModels, None),
        "/v1/token-shield/me" => (Operation::Me, None),
        path => (Operation::ShowModel, Some(path.strip_prefix(MODEL_PATH)?)),
    })
}

/// The operation for a method and a path, and for a single model its name.
///
/// # Errors
/// `route-unknown`, or `method-not-allowed` where the path has other methods.
pub fn operation<'u>(
    method: &Method,
    path: &'u str,
) -> Result<(Operation, Option<&'u str>), Refusal> {
    let (operation, model) = at(path).ok_or(Code::RouteUnknown)?;
    let (fits, allow) = match operation {
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Rerank
        | Operation::Messages
        | Operation::CountTokens
        | Operation::Responses
        | Operation::OllamaChat
        | Operation::OllamaGenerate
        | Operation::OllamaEmbed
        | Operation::OllamaEmbeddings
        | Operation::OllamaShow => (*method == Method::POST, Allow::Generate),
        Operation::OllamaTags
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel
        | Operation::Me => (reads(method), Allow::Read),
        // `at` does not find it.
        Operation::Declared => return Err(Code::RouteUnknown.into()),
    };
    if fits {
        Ok((operation, model))
    } else {
        Err(Refusal::new(Code::MethodNotAllowed).allowing(allow))
    }
}

/// The scope that an operation needs (docs/TOKEN.md). A caller may ask what its token allows with
/// any scope.
const fn scope(operation: Operation) -> Option<Scope> {
    match operation {
        Operation::ChatCompletions | Operation::OllamaChat => Some(Scope::Chat),
        Operation::Completions | Operation::OllamaGenerate => Some(Scope::Completions),
        Operation::Embeddings | Operation::OllamaEmbed | Operation::OllamaEmbeddings => {
            Some(Scope::Embeddings)
        }
        Operation::Rerank => Some(Scope::Rerank),
        Operation::Messages | Operation::CountTokens => Some(Scope::Messages),
        Operation::Responses => Some(Scope::Responses),
        Operation::OllamaTags
        | Operation::OllamaShow
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel => Some(Scope::ModelsRead),
        // The declaration names the scope.
        Operation::Me | Operation::Declared => None,
    }
}

/// A request for an operation that the token grants. Only [`route`] makes one.
pub struct Routed {
    /// The caller within its rates.
    paced: Paced,
    /// The operation.
    operation: Operation,
    /// The model in the path.
    model: Option<String>,
    /// The declared route, for [`Operation::Declared`].
    declared: Option<RequestedRoute>,
}

impl Routed {
    /// The caller and its pace.
    #[must_use]
    pub const fn paced(&self) -> &Paced {
        &self.paced
    }

    /// The caller's slots. They must be kept until the answer is delivered.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.paced.into_permit()
    }

    /// The operation.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The name of the operation in metrics and records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.declared {
            Some(declared) => declared.offered.route.name,
            None => self.operation.as_str(),
        }
    }

    /// The declared route, for [`Operation::Declared`].
    #[must_use]
    pub const fn declared(&self) -> Option<&RequestedRoute> {
        self.declared.as_ref()
    }

    /// The model in the path (`GET /v1/models/…`).
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// Finds the operation and checks that the token grants it.
///
/// # Errors
/// `route-unknown`, `method-not-allowed` or `scope-missing`.
pub fn route(paced: Paced, method: &Method, target: &RequestTarget<'_>) -> Result<Routed, Refusal> {
    let (operation, model) = match operation(method, target.path) {
        Err(refusal) if refusal.code == Code::RouteUnknown => {
            let declared = declared(paced.caller().tables(), method, target.path)?;
            allowed(&paced, Some(declared.offered.scope))?;
            let operation = Operation::Declared;
            return Ok(Routed { paced, operation, model: None, declared: Some(declared) });
        }
        found => found?,
    };
    allowed(&paced, scope(operation))?;
    // The decoded name, where the path has escapes; otherwise the name as it is in the path.
    let model = match &target.model {
        Some(decoded) => Some(decoded.clone()),
        None => model.map(str::to_owned),
    };
    Ok(Routed { paced, operation, model, declared: None })
}

/// The declared route for a method and a path.
///
/// # Errors
/// `route-unknown` or `method-not-allowed`.
fn declared(tables: &Tables, method: &Method, path: &str) -> Result<RequestedRoute, Refusal> {
    let allow = match tables.declared.find(reads(method), path) {
        Found::Route(route) if route.offered.route.reads || *method == Method::POST => {
            return Ok(route);
        }
        Found::Route(_) | Found::OtherMethod(false) => Allow::Generate,
        Found::OtherMethod(true) => Allow::Read,
        Found::Nowhere => return Err(Code::RouteUnknown.into()),
    };
    Err(Refusal::new(Code::MethodNotAllowed).allowing(allow))
}

/// Checks that the token grants a scope.
///
/// # Errors
/// `scope-missing`.
fn allowed(paced: &Paced, scope: Option<Scope>) -> Result<(), Refusal> {
    if let Some(scope) = scope
        && !paced.caller().token().verified.scopes().allow(scope)
    {
        let says = format!(
            "The token does not grant the scope {} that this operation needs.",
            scope.as_str()
        );
        return Err(Refusal::new(Code::ScopeMissing).saying(says));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn target(uri: &str, expect: Option<Code>) {
        let uri: Uri = uri.parse().expect("URI");
        assert_eq!(RequestTarget::read(&uri).err().map(|no| no.code), expect);
    }

    #[test]
    fn only_plain_targets_pass() {
        target("/", None);
        target("//", Some(Code::TargetNotCanonical));
        target("/v1/models", None);
        target("/v1/models/meta-llama/Llama-3.1:8b@q4", None);
        target("/v1/models/a%2fb", None);
        target("/v1/models/a/%F0%9F%A6%99", None);
        for wrong in [
            "a%2f", "a%2f%2fb", "%2e%2e", "a%2f..", "%", "%2", "%zz", "%+1", "%ff", "%c0%af",
            "a%00", "%0a", "a%c2%85",
        ] {
            target(&format!("/v1/models/{wrong}"), Some(Code::TargetNotCanonical));
        }
        target("/v1/%6dodels", Some(Code::TargetNotCanonical));
        target("/v1/models%2fecho", Some(Code::TargetNotCanonical));
        target("/v1//models", Some(Code::TargetNotCanonical));
        target("/v1/./models", Some(Code::TargetNotCanonical));
        target("/v1/../models", Some(Code::TargetNotCanonical));
        target("/v1/models/", Some(Code::TargetNotCanonical));
        target("/v1/models;x=1", Some(Code::TargetNotCanonical));
        target("/v1/models%00", Some(Code::TargetNotCanonical));
        target("/v1/models?x=1", Some(Code::TargetNotCanonical));
        target("/v1/models?limit=20", None);
        target("/v1/messages?beta=true", None);
        target("/v1/chat/completions?api-version=2024-10-21", None);
        target("/v1/chat/completions?beta=true", Some(Code::TargetNotCanonical));
        target("/v1/models?access_token=x", Some(Code::TokenInQuery));
        target("/v1/models?limit=1&API_KEY=x", Some(Code::TokenInQuery));
        target("*", Some(Code::TargetNotCanonical));
    }

    #[test]
    fn names_are_decoded_once() {
        assert_eq!(decoded("gr%C3%B6%c3%9fe%2F%E6%A8%A1").as_deref(), Some("größe/模"));
        assert_eq!(decoded("%252e").as_deref(), Some("%2e"));
    }

    #[test]
    fn methods_and_paths_are_exact() {
        let told =
            |method: Method, path| operation(&method, path).map_err(|no| (no.code, no.allow));
        let unknown = Err((Code::RouteUnknown, None));
        assert_eq!(
            told(Method::POST, "/v1/chat/completions"),
            Ok((Operation::ChatCompletions, None))
        );
        assert_eq!(
            told(Method::GET, "/v1/chat/completions"),
            Err((Code::MethodNotAllowed, Some(Allow::Generate)))
        );
        assert_eq!(
            told(Method::HEAD, "/v1/messages"),
            Err((Code::MethodNotAllowed, Some(Allow::Generate)))
        );
        assert_eq!(told(Method::POST, "/v1/responses"), Ok((Operation::Responses, None)));
        assert_eq!(
            told(Method::GET, "/v1/responses"),
            Err((Code::MethodNotAllowed, Some(Allow::Generate)))
        );
        assert_eq!(told(Method::GET, "/v1/responses/resp_1"), unknown);
        assert_eq!(told(Method::POST, "/V1/chat/completions"), unknown);
        assert_eq!(told(Method::POST, "/api/pull"), unknown);
        for path in ["/v1/rerank", "/rerank", "/v2/rerank"] {
            assert_eq!(told(Method::POST, path), Ok((Operation::Rerank, None)));
        }
        let count = told(Method::POST, "/v1/messages/count_tokens");
        assert_eq!(count, Ok((Operation::CountTokens, None)));
        assert_eq!(told(Method::GET, "/slots"), unknown);
        assert_eq!(told(Method::GET, "/v1/models/a/b"), Ok((Operation::ShowModel, Some("a/b"))));
        assert_eq!(told(Method::HEAD, "/v1/models"), Ok((Operation::ListModels, None)));
        assert_eq!(
            told(Method::DELETE, "/v1/models/a"),
            Err((Code::MethodNotAllowed, Some(Allow::Read)))
        );
    }
}
