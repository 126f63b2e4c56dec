//! Request bodies and answers, for each API dialect. A body is parsed strictly into a
//! [`ModelCall`], validated field by field, and written again.
//!
//! The caller's bytes are never forwarded. [`read`] parses strictly. [`ParsedBody::understand`]
//! validates every field at every depth by the profile of the server that will get it.
//! [`ModelCall::write`] writes the result in the caller's key order. All functions are pure
//! functions of bytes and values. The other direction (usage, streams, errors) is also here.

pub mod answer;
mod answer_form;
mod call;
pub mod convert;
pub mod declared;
mod dialect;
pub mod error;
mod event;
mod fold;
pub mod framing;
mod gateway_fields;
pub mod inline;
mod inline_slot;
mod kind;
mod label;
mod markdown;
pub mod models;
mod output_cap;
mod path;
mod profile;
mod profile_table;
mod progress;
mod ranges;
mod raw_json;
pub mod redact;
pub mod refused_call;
pub mod repair;
pub mod response_text;
mod signature;
mod strip;
pub mod tools;
mod tree;
mod unknown_field;
mod unreadable;
pub mod usage;
mod validator;
mod values;

pub use call::{BodyChanges, BodyRules, ModelCall, ParsedBody, WrittenBody, read};
pub use dialect::{Dialect, Operation, constant};
pub use profile::Profile;
pub use profile_table::ProfileFault;

/// The action for a field that the server's profile does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// The request is refused.
    Refuse,
    /// The field is removed. [`ModelCall::dropped`] lists it.
    Drop,
}

/// The kind of an external reference in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// An image, sound, video or document at a URL.
    Media,
    /// A tool that does not run at the caller.
    HostedTool,
    /// An MCP server.
    Mcp,
    /// Work that continues after the request.
    Background,
    /// An object under an id that the server or another service stores.
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

/// A value in a request that would make the model server connect to another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalReference {
    /// The JSON path, such as `messages[0].content[1].image_url.url`.
    pub path: String,
    /// The kind of the reference.
    pub kind: ReferenceKind,
    /// The complete URL, tool type or id.
    pub target: String,
    /// The steps from the body's root.
    pub(crate) steps: Vec<Step>,
    /// The slot for content, if content can replace the reference.
    pub(crate) slot: Option<inline_slot::InlineSlot>,
}

/// One step of the path to a value in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object.
    Key(String),
    /// An item of an array.
    Item(usize),
}
