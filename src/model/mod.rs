//! What a body says, per API dialect: a strict reading into a [`ModelCall`], judged field by field, and a transcoder back out.
//!
//! The caller's bytes never travel on. [`read`] parses strictly, [`ParsedBody::understand`] judges every field at every depth by
//! the profile of the server that will get it, [`ModelCall::write`] prints what was understood in the caller's key order.
//! Pure functions of bytes and values; the other direction (usage, streams, errors) is here too.

pub mod answer;
mod call;
pub mod convert;
mod dialect;
pub mod error;
mod event;
pub mod framing;
pub mod inline;
mod inline_slot;
mod kind;
mod markdown;
pub mod models;
mod path;
mod profile;
mod progress;
mod raw_json;
pub mod redact;
pub mod response_text;
mod signature;
mod strip;
pub mod tools;
mod tree;
mod unreadable;
pub mod usage;
mod validator;
mod values;

pub use call::{BodyChanges, BodyRules, ModelCall, ParsedBody, WrittenBody, read};
pub use dialect::{Dialect, Operation};
pub use profile::{Profile, ProfileFault};

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
pub enum ReferenceKind {
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

impl ReferenceKind {
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
pub struct ExternalReference {
    /// Where it stands, such as `messages[0].content[1].image_url.url`.
    pub path: String,
    /// What it is.
    pub kind: ReferenceKind,
    /// The URL, the tool's type or the id, whole.
    pub target: String,
    /// The way there from the body's root.
    pub(crate) steps: Vec<Step>,
    /// Whether the request can have the content itself there, and in which form.
    pub(crate) slot: Option<inline_slot::InlineSlot>,
}

/// One step of the way to a place in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object.
    Key(String),
    /// An item of an array.
    Item(usize),
}
