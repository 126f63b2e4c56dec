//! Framing of streams: how bytes are split into events. Each framing has one file; a dialect uses
//! one of them.

pub(in crate::model) mod ndjson;
pub mod sse;

/// The framing of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events (WHATWG HTML, section 9.2.6).
    Events,
    /// Lines of JSON.
    Lines,
}

impl Framing {
    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }
}
