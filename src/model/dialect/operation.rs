//! The operations that a caller can request. The folder of each dialect defines the facts of its
//! operations.

use super::facts::OperationFacts;
use super::{Dialect, anthropic, declared, ollama, openai, responses};

/// An operation that a caller can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// OpenAI `POST /v1/chat/completions`.
    ChatCompletions,
    /// OpenAI `POST /v1/completions`.
    Completions,
    /// OpenAI `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/rerank`, in the form of Jina, Cohere and vLLM.
    Rerank,
    /// Anthropic `POST /v1/messages`.
    Messages,
    /// Anthropic `POST /v1/messages/count_tokens`.
    CountTokens,
    /// OpenAI `POST /v1/responses`.
    Responses,
    /// Ollama `POST /api/chat`.
    OllamaChat,
    /// Ollama `POST /api/generate`.
    OllamaGenerate,
    /// Ollama `POST /api/embed`.
    OllamaEmbed,
    /// Ollama `POST /api/embeddings`.
    OllamaEmbeddings,
    /// Ollama `GET /api/tags`.
    OllamaTags,
    /// Ollama `POST /api/show`.
    OllamaShow,
    /// Ollama `GET /api/ps`.
    OllamaRunning,
    /// Ollama `GET /api/version`.
    OllamaVersion,
    /// `GET /v1/models`.
    ListModels,
    /// `GET /v1/models/NAME`.
    ShowModel,
    /// `GET /v1/token-shield/me`: what the presented token allows.
    Me,
    /// A route that the operator declares. It is not in [`Operation::ALL`], because it has no path
    /// and no body of a dialect.
    Declared,
}

/// The gateway's own operation. It belongs to no dialect; its errors have OpenAI's form.
const ME: OperationFacts = OperationFacts {
    dialect: Dialect::OpenAi,
    name: "me",
    path: "/v1/token-shield/me",
    shape: None,
    writes_tokens: false,
};

impl Operation {
    /// Every operation of the dialects, and the gateway's own.
    pub const ALL: [Self; 18] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Rerank,
        Self::Messages,
        Self::CountTokens,
        Self::Responses,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
        Self::OllamaTags,
        Self::OllamaShow,
        Self::OllamaRunning,
        Self::OllamaVersion,
        Self::ListModels,
        Self::ShowModel,
        Self::Me,
    ];

    /// The facts that the operation's dialect defines.
    const fn facts(self) -> &'static OperationFacts {
        match self {
            Self::ChatCompletions => &openai::CHAT_COMPLETIONS,
            Self::Completions => &openai::COMPLETIONS,
            Self::Embeddings => &openai::EMBEDDINGS,
            Self::Rerank => &openai::RERANK,
            Self::Messages => &anthropic::MESSAGES,
            Self::CountTokens => &anthropic::COUNT_TOKENS,
            Self::Responses => &responses::RESPONSES,
            Self::OllamaChat => &ollama::CHAT,
            Self::OllamaGenerate => &ollama::GENERATE,
            Self::OllamaEmbed => &ollama::EMBED,
            Self::OllamaEmbeddings => &ollama::EMBEDDINGS,
            Self::OllamaTags => &ollama::TAGS,
            Self::OllamaShow => &ollama::SHOW,
            Self::OllamaRunning => &ollama::RUNNING,
            Self::OllamaVersion => &ollama::VERSION,
            Self::ListModels => &openai::LIST_MODELS,
            Self::ShowModel => &openai::SHOW_MODEL,
            Self::Me => &ME,
            Self::Declared => &declared::DECLARED,
        }
    }

    /// The name in metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// The dialect of the operation. Both dialects list models under one path. There the caller's
    /// headers determine the dialect.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        self.facts().dialect
    }

    /// The path at the gateway and at every server of the dialect. For [`Self::ShowModel`] it is
    /// the part before the name.
    #[must_use]
    pub const fn path(self) -> &'static str {
        self.facts().path
    }

    /// The name of the body's shape in a profile; `None` if there is no body.
    pub(in crate::model) const fn shape(self) -> Option<&'static str> {
        self.facts().shape
    }

    /// True if the server writes the answer token by token, so that an output cap and a stream
    /// apply.
    pub(in crate::model) const fn writes_tokens(self) -> bool {
        self.facts().writes_tokens
    }
}
