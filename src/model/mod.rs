//! What a body says, per API dialect: a strict reading into a [`ModelCall`], and writing it again in a server's terms.

pub mod answer;
mod anthropic;
mod call;
pub mod echo;
pub mod error;
pub mod models;
mod openai;
mod profile;
mod read;
pub mod usage;
mod walk;

pub use call::{Changes, ModelCall, Reach, ReachKind, Written};
pub use echo::Echo;
pub use profile::{Profile, ProfileFault};
pub use read::{Reading, Terms, read};

/// Whose shapes of requests, answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

/// What is asked of a model server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/messages`.
    Messages,
    /// `GET /v1/models`.
    ListModels,
    /// `GET /v1/models/NAME`.
    ShowModel,
}

impl Operation {
    /// The operation's name in metrics, records and profiles.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::ListModels => "models",
            Self::ShowModel => "model",
        }
    }

    /// Its path at a server.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::ListModels | Self::ShowModel => "/v1/models",
        }
    }

    /// Its dialect.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages => Dialect::Anthropic,
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::ListModels | Self::ShowModel => Dialect::OpenAi,
        }
    }
}

/// What happens to a field that a server's profile does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// The request is refused.
    Refuse,
    /// The field is taken out, and the answer says so.
    Drop,
}
