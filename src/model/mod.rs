//! What a body says, per API dialect: a strict reading into a [`ModelCall`], judged field by field, and a transcoder back out.
//!
//! The caller's bytes never travel on. [`read`] parses strictly, [`Reading::understand`] judges every field at every depth by
//! the profile of the server that will get it, [`ModelCall::write`] prints what was understood in the caller's key order.
//! Pure functions of bytes and values; the other direction (usage, streams, errors, the model `echo`) stands beside it.

pub mod answer;
mod call;
pub mod convert;
pub mod echo;
pub mod error;
pub mod inline;
mod judge;
mod kind;
mod markdown;
pub mod models;
mod path;
mod peek;
mod profile;
mod progress;
pub mod prose;
pub mod redact;
mod signature;
pub mod sse;
mod strip;
pub mod tools;
pub mod usage;

pub use call::{Changes, ModelCall, Reading, Terms, Written, read};
pub use echo::Echo;
pub use profile::{Profile, ProfileFault};

/// Whose API a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's `chat/completions`, `completions`, `embeddings`, `models`.
    OpenAi,
    /// Anthropic's `messages`.
    Anthropic,
}

/// What a caller may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// OpenAI `POST /v1/chat/completions`.
    ChatCompletions,
    /// OpenAI `POST /v1/completions`.
    Completions,
    /// OpenAI `POST /v1/embeddings`.
    Embeddings,
    /// Anthropic `POST /v1/messages`.
    Messages,
    /// `GET /v1/models`.
    ListModels,
    /// `GET /v1/models/NAME`.
    ShowModel,
    /// `GET /v1/token-shield/me`: what the presented token allows.
    Me,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 7] =
        [Self::ChatCompletions, Self::Completions, Self::Embeddings, Self::Messages, Self::ListModels, Self::ShowModel, Self::Me];

    /// The operation's name in metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::ListModels => "models",
            Self::ShowModel => "model",
            Self::Me => "me",
        }
    }

    /// Whose API it belongs to. Both dialects list models; a caller's headers tell which is meant there.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages => Dialect::Anthropic,
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::ListModels | Self::ShowModel | Self::Me => {
                Dialect::OpenAi
            }
        }
    }

    /// The path at the gateway and at every server that speaks the dialect; of [`Self::ShowModel`] the part before the name.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::ListModels => "/v1/models",
            Self::ShowModel => "/v1/models/",
            Self::Me => "/v1/token-shield/me",
        }
    }

    /// The shape of its body in a profile; `None` where it has no body.
    const fn shape(self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions => Some("chat"),
            Self::Completions => Some("completions"),
            Self::Embeddings => Some("embeddings"),
            Self::Messages => Some("messages"),
            Self::ListModels | Self::ShowModel | Self::Me => None,
        }
    }

    /// True where the answer is written token by token, so that an output cap and a stream make sense.
    const fn writes_tokens(self) -> bool {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Messages => true,
            Self::Embeddings | Self::ListModels | Self::ShowModel | Self::Me => false,
        }
    }
}

/// What happens to a field that the server's profile does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// The request is refused.
    Refuse,
    /// The field is taken out; [`ModelCall::dropped`] says so.
    Drop,
}

/// What kind of thing a request would make the model server reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachKind {
    /// An image, sound, video or document behind a URL.
    Media,
    /// A tool that does not run at the caller.
    HostedTool,
    /// An MCP server.
    Mcp,
    /// Work that outlives the request.
    Background,
    /// Something kept by another server under an id.
    ForeignState,
}

impl ReachKind {
    /// The kind's name in profiles and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::HostedTool => "hosted-tool",
            Self::Mcp => "mcp",
            Self::Background => "background",
            Self::ForeignState => "foreign-state",
        }
    }
}

/// One place in a request that would make the model server reach outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where it stands, such as `messages[0].content[1].image_url.url`.
    pub path: String,
    /// What it is.
    pub kind: ReachKind,
    /// The URL, the tool's type or the id, whole.
    pub target: String,
    /// The way there from the body's root.
    pub(crate) steps: Vec<Step>,
    /// How what lies there could stand in the request itself.
    pub(crate) inlet: Option<inline::Inlet>,
}

/// One step of the way to a place in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object.
    Key(String),
    /// An item of an array.
    Item(usize),
}
