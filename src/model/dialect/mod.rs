//! The API dialects, one folder each. This file is their interface for the rest of the gateway.
//!
//! [`Dialect`] calls the functions of its folder. Three modules apply the rules of all folders to
//! every answer: members that hold texts ([`texts`]), tool calls ([`calls`]) and token counts
//! ([`read_usage`]). docs/ARCHITECTURE.md describes how to add a dialect.

mod anthropic;
pub(super) mod calls;
mod facts;
mod length;
mod openai;
mod operation;
pub(super) mod texts;

pub use operation::Operation;

use crate::json::{self, Limits, Object, Value, write_string};
use crate::refusal::Refusal;

use super::convert::Unlike;
use super::event::StreamEvent;
use super::progress::Progress;
use super::tree::JsonTree;
use super::usage::Usage;

/// The API dialect of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's `chat/completions`, `completions`, `embeddings`, `models`.
    OpenAi,
    /// Anthropic's `messages`.
    Anthropic,
}

/// A model that a caller may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name that callers use for the model.
    pub id: String,
    /// Seconds since 1970; zero if unknown.
    pub created: i64,
    /// The owner in the model list.
    pub owner: String,
}

impl Dialect {
    /// The type of a caller-defined tool without a type.
    pub(super) const fn own_tool_type(self) -> &'static str {
        match self {
            Self::OpenAi => openai::OWN_TOOL_TYPE,
            Self::Anthropic => anthropic::OWN_TOOL_TYPE,
        }
    }

    /// Whether servers accept additional fields in a body, such as `stream_options` and the
    /// gateway's request id.
    pub(super) const fn has_server_fields(self) -> bool {
        match self {
            Self::OpenAi => openai::HAS_SERVER_FIELDS,
            Self::Anthropic => anthropic::HAS_SERVER_FIELDS,
        }
    }

    /// Whether the name of an event agrees with its data. Some clients use the name and ignore
    /// events with an unknown name. Other clients use the data.
    pub(super) fn is_named(self, name: Option<&str>, data: &JsonTree<'_>) -> bool {
        match self {
            Self::OpenAi => openai::progress::is_named(name, data),
            Self::Anthropic => anthropic::progress::is_named(name, data),
        }
    }

    /// Reads an event into `progress`. Returns false when a caller that did not request usage must
    /// not get the event.
    pub(super) fn follow(self, progress: &mut Progress, event: &StreamEvent<'_>) -> bool {
        match self {
            Self::OpenAi => openai::progress::read(progress, event),
            Self::Anthropic => {
                anthropic::progress::read(progress, event);
                true
            }
        }
    }

    /// The bytes of an error event before the error's body.
    pub(super) const fn error_event_begins(self) -> &'static [u8] {
        match self {
            Self::OpenAi => openai::errors::EVENT_BEGINS,
            Self::Anthropic => anthropic::errors::EVENT_BEGINS,
        }
    }

    /// Appends the body of an error.
    pub(super) fn write_error(self, refusal: &Refusal, request: &str, out: &mut Vec<u8>) {
        match self {
            Self::OpenAi => openai::errors::body(refusal, request, out),
            Self::Anthropic => anthropic::errors::body(refusal, request, out),
        }
    }

    /// A list of models.
    pub(super) fn model_list(self, entries: &[ModelEntry]) -> Value<'_> {
        match self {
            Self::OpenAi => openai::models::list(entries),
            Self::Anthropic => anthropic::models::list(entries),
        }
    }

    /// One model.
    pub(super) fn model(self, entry: &ModelEntry) -> Value<'_> {
        match self {
            Self::OpenAi => openai::models::one(entry),
            Self::Anthropic => anthropic::models::one(entry),
        }
    }

    /// Converts a whole answer to events.
    ///
    /// # Errors
    /// When it is no answer of that operation.
    pub(super) fn events_of_whole(
        self,
        operation: Operation,
        answer: Object<'_>,
    ) -> Result<Vec<Vec<u8>>, Unlike> {
        match self {
            Self::OpenAi => openai::whole::events(operation == Operation::ChatCompletions, answer),
            Self::Anthropic => anthropic::whole::events(answer),
        }
    }

    /// The joiner for the events of an answer.
    pub(super) fn joiner(self, operation: Operation) -> Joiner {
        match self {
            Self::OpenAi => Joiner::OpenAi(openai::joined::JoinedChunks::new(
                operation == Operation::ChatCompletions,
            )),
            Self::Anthropic => Joiner::Anthropic(anthropic::joined::JoinedMessage::default()),
        }
    }
}

/// The events of an answer so far, which become one document.
pub(super) enum Joiner {
    /// OpenAI's chunks.
    OpenAi(openai::joined::JoinedChunks),
    /// The events of an Anthropic message.
    Anthropic(anthropic::joined::JoinedMessage),
}

impl Joiner {
    /// Takes the data of the next event.
    ///
    /// # Errors
    /// When the data can be joined in more than one manner, or not at all.
    pub(super) fn take(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        match self {
            Self::OpenAi(chunks) => chunks.take(event),
            Self::Anthropic(message) => message.take(event),
        }
    }

    /// The whole answer.
    ///
    /// # Errors
    /// When the events are not those of one answer.
    pub(super) fn document(self) -> Result<Object<'static>, Unlike> {
        match self {
            Self::OpenAi(chunks) => Ok(chunks.document()),
            Self::Anthropic(message) => message.document(),
        }
    }
}

/// Reads a usage object of any dialect. Servers that support several dialects write members of
/// each.
pub(super) fn read_usage(raw: &[u8]) -> Option<Usage> {
    // Usage has few levels. A deeper value is no usage report.
    let value = json::parse(raw, &Limits::deep(8)).ok()?;
    let usage = value.as_object()?;
    // If a server sends the members of both dialects, OpenAI's take precedence.
    let input = openai::usage::input(usage).or_else(|| anthropic::usage::input(usage));
    let output =
        usage.number(openai::usage::OUTPUT).or_else(|| usage.number(anthropic::usage::OUTPUT));
    // An empty usage object is no report. It must not replace an earlier report with zeros.
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage {
        input: input.unwrap_or(0),
        output: output.unwrap_or(0),
        reasoning: reasoning(usage).unwrap_or(0),
    })
}

/// The reasoning tokens in a usage object. If it has the details of both dialects, OpenAI's count.
fn reasoning(usage: &Object<'_>) -> Option<u64> {
    let details = match usage.get(openai::usage::OUTPUT_DETAILS) {
        Some(details) => details,
        None => usage.get(anthropic::usage::OUTPUT_DETAILS)?,
    };
    details.as_object()?.number("reasoning_tokens")
}

/// The bytes of text in a whole answer of any dialect.
pub(super) fn text_of_whole(answer: &[u8]) -> u64 {
    openai::progress::text_of_whole(answer) + anthropic::progress::text_of_whole(answer)
}

/// Writes message, type, param and code: the members that the errors of all dialects have.
fn write_error_members(refusal: &Refusal, kind: &str, out: &mut Vec<u8>) {
    write_string(&refusal.message, out);
    out.extend_from_slice(b",\"type\":");
    write_string(kind, out);
    out.extend_from_slice(b",\"param\":");
    match &refusal.param {
        Some(param) => write_string(param, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"code\":");
    write_string(refusal.code.as_str(), out);
}
