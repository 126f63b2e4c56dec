//! A declared route.

use super::pattern::PathPattern;

/// The form of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// No body: the method is GET.
    None,
    /// One JSON object.
    Json,
    /// `multipart/form-data` (RFC 7578).
    Form,
    /// Bytes of one of these media types. The gateway does not read them.
    Bytes(Vec<String>),
}

/// The place of the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// The member or form field `model`.
    Field,
    /// The segment `{model}` of the path.
    Path,
    /// No place: the config names the model.
    Fixed,
}

/// A kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Events,
    /// Plain text and subtitles. The response filter reads them.
    Text,
    /// A sound. The gateway does not read it.
    Audio,
    /// A raster image. The gateway does not read it.
    Image,
    /// Other bytes. The gateway does not read them.
    Bytes,
}

impl AnswerKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Json, Self::Events, Self::Text, Self::Audio, Self::Image, Self::Bytes];

    /// The name in a declaration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Events => "events",
            Self::Text => "text",
            Self::Audio => "audio",
            Self::Image => "image",
            Self::Bytes => "bytes",
        }
    }

    /// The media types of the kind. Types that a browser runs or renders are not among them.
    const fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::Events => &["text/event-stream"],
            Self::Text => &["text/plain", "text/vtt", "text/srt", "application/x-subrip"],
            Self::Audio => &[
                "audio/mpeg",
                "audio/mp3",
                "audio/opus",
                "audio/ogg",
                "audio/aac",
                "audio/flac",
                "audio/wav",
                "audio/x-wav",
                "audio/wave",
                "audio/pcm",
                "audio/l16",
                "audio/webm",
                "audio/mp4",
            ],
            Self::Image => &["image/png", "image/jpeg", "image/webp"],
            Self::Bytes => &["application/octet-stream", "application/vnd.msgpack"],
        }
    }
}

/// The place of a cap on output tokens in a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CapPlace {
    /// The object of the body that has it; `None` for the body itself.
    pub(super) object: Option<String>,
    /// The member.
    pub(super) name: String,
}

/// A route that the operator declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredRoute {
    /// The name in metrics and records.
    pub name: &'static str,
    /// Whether the method is GET; otherwise it is POST.
    pub reads: bool,
    /// The path.
    pub path: PathPattern,
    /// The form of the body.
    pub body: RequestBody,
    /// The largest body, in bytes.
    pub body_max: u64,
    /// The place of the model's name.
    pub model: ModelPlace,
    /// The name of the scope that a token needs.
    pub scope: String,
    /// The kinds of answers that are passed on.
    pub answers: Vec<AnswerKind>,
    /// Whether a program reads the answer's texts, so that they are never changed.
    pub is_for_programs: bool,
    /// The profiles of the servers that have the route; empty means all.
    pub servers: Vec<String>,
    /// The members with prompts. A URL in a prompt is text.
    pub(super) prompts: Vec<String>,
    /// The members with JSON schemas. Of a schema, only references are judged.
    pub(super) schemas: Vec<String>,
    /// The places of the cap on output tokens, the one that the gateway writes first. Empty if the
    /// server writes no tokens.
    pub(super) caps: Vec<CapPlace>,
}

impl DeclaredRoute {
    /// Whether a server with that profile has the route.
    #[must_use]
    pub fn is_of(&self, profile: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|known| known == profile)
    }

    /// The media type of an answer as it is passed on, and its kind; `None` for a type that the
    /// route does not have. `essence` is in lower case and without parameters.
    #[must_use]
    pub fn answer(&self, essence: &str) -> Option<PassedType> {
        for kind in &self.answers {
            for known in kind.media_types() {
                if *known == essence {
                    return Some(PassedType { kind: *kind, media_type: known });
                }
            }
        }
        None
    }

    /// The value of the header `Accept`.
    #[must_use]
    pub fn accept(&self) -> String {
        let mut types = Vec::new();
        for kind in &self.answers {
            types.extend_from_slice(kind.media_types());
        }
        types.join(", ")
    }

    /// Whether the server writes an answer token by token, so that a cap applies.
    #[must_use]
    pub const fn writes_tokens(&self) -> bool {
        !self.caps.is_empty()
    }
}

/// The media type of an answer that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedType {
    /// The kind.
    pub kind: AnswerKind,
    /// The media type, as the gateway writes it.
    pub media_type: &'static str,
}
