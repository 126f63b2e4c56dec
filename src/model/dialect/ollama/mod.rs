//! Ollama's dialect: `chat`, `generate`, `embed`, and what the gateway itself answers of models.
//!
//! Source: Ollama's API documentation, `docs/api.md` of its repository. Streams are lines of JSON.

pub(super) mod calls;
pub(super) mod errors;
pub(super) mod joined;
pub(super) mod models;
pub(super) mod progress;
pub(super) mod refused;
pub(super) mod texts;
pub(super) mod usage;
pub(super) mod whole;

use super::facts::OperationFacts;
use super::{Dialect, NestedCap};

/// `POST /api/chat`.
pub(super) const CHAT: OperationFacts = call("ollama-chat", "/api/chat", "ollama-chat", true);

/// `POST /api/generate`.
pub(super) const GENERATE: OperationFacts =
    call("ollama-generate", "/api/generate", "ollama-generate", true);

/// `POST /api/embed`.
pub(super) const EMBED: OperationFacts = call("ollama-embed", "/api/embed", "ollama-embed", false);

/// `POST /api/embeddings`: the older form of [`EMBED`].
pub(super) const EMBEDDINGS: OperationFacts =
    call("ollama-embeddings", "/api/embeddings", "ollama-embeddings", false);

/// `GET /api/tags`: the models that the token may use.
pub(super) const TAGS: OperationFacts = local("ollama-tags", "/api/tags");

/// `POST /api/show`: one model. The gateway reads only the name in the body.
pub(super) const SHOW: OperationFacts = local("ollama-show", "/api/show");

/// `GET /api/ps`: the loaded models. The gateway lists none.
pub(super) const RUNNING: OperationFacts = local("ollama-ps", "/api/ps");

/// `GET /api/version`.
pub(super) const VERSION: OperationFacts = local("ollama-version", "/api/version");

/// The answer to [`RUNNING`]. Which models are in a server's memory is the operator's matter.
pub(super) const NO_RUNNING: &str = r#"{"models":[]}"#;

/// The answer to [`VERSION`]: the version of the API that the gateway serves. Clients compare it
/// with the lowest version that they support.
pub(super) const SERVED_VERSION: &str = r#"{"version":"0.13.0"}"#;

/// The type of a tool without a type.
pub(super) const OWN_TOOL_TYPE: &str = "function";

/// The place of the cap on output tokens.
pub(super) const CAP: NestedCap = NestedCap { object: "options", name: "num_predict" };

/// The facts of an operation that a server answers.
const fn call(
    name: &'static str,
    path: &'static str,
    shape: &'static str,
    writes_tokens: bool,
) -> OperationFacts {
    OperationFacts { dialect: Dialect::Ollama, name, path, shape: Some(shape), writes_tokens }
}

/// The facts of an operation that the gateway answers.
const fn local(name: &'static str, path: &'static str) -> OperationFacts {
    OperationFacts { dialect: Dialect::Ollama, name, path, shape: None, writes_tokens: false }
}
