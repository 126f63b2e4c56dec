//! OpenAI's dialect: `chat/completions`, `completions`, `embeddings`, `rerank` and model lists.

pub(super) mod calls;
pub(super) mod errors;
pub(super) mod joined;
pub(super) mod models;
pub(super) mod progress;
pub(super) mod refused;
pub(super) mod texts;
pub(super) mod usage;
pub(super) mod whole;

use super::Dialect;
use super::facts::OperationFacts;

/// `POST /v1/chat/completions`.
pub(super) const CHAT_COMPLETIONS: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "chat",
    path: "/v1/chat/completions",
    shape: Some("chat"),
    writes_tokens: true,
};

/// `POST /v1/completions`.
pub(super) const COMPLETIONS: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "completions",
    path: "/v1/completions",
    shape: Some("completions"),
    writes_tokens: true,
};

/// `POST /v1/embeddings`.
pub(super) const EMBEDDINGS: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "embeddings",
    path: "/v1/embeddings",
    shape: Some("embeddings"),
    writes_tokens: false,
};

/// `POST /v1/rerank`. It is no operation of OpenAI. The servers that have OpenAI's dialect have it
/// in the form of Jina, Cohere and vLLM.
pub(super) const RERANK: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "rerank",
    path: "/v1/rerank",
    shape: Some("rerank"),
    writes_tokens: false,
};

/// `GET /v1/models`. Anthropic has the same path.
pub(super) const LIST_MODELS: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "models",
    path: "/v1/models",
    shape: None,
    writes_tokens: false,
};

/// `GET /v1/models/NAME`. Anthropic has the same path.
pub(super) const SHOW_MODEL: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "model",
    path: "/v1/models/",
    shape: None,
    writes_tokens: false,
};

/// The type of a tool without a type.
pub(super) const OWN_TOOL_TYPE: &str = "function";

/// Whether servers accept additional fields in a body, such as `stream_options` and the gateway's
/// request id.
pub(super) const HAS_SERVER_FIELDS: bool = true;
