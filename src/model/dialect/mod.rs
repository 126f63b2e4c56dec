//! The API dialects, one folder each. This file is their interface for the rest of the gateway.
//!
//! [`Dialect`] calls the functions of its folder. Three modules apply the rules of all folders to
//! every answer: members that hold texts ([`texts`]), tool calls ([`calls`]) and token counts
//! ([`read_usage`]). docs/ARCHITECTURE.md describes how to add a dialect.

mod anthropic;
pub(super) mod calls;
mod declared;
mod facts;
mod length;
mod ollama;
mod openai;
mod operation;
mod refused;
mod repeated;
mod responses;
pub(super) mod texts;

pub use operation::Operation;
pub(super) use refused::RefusedCalls;

use crate::json::{self, Limits, Object, Value, write_string};
use crate::refusal::Refusal;

use super::convert::Unlike;
use super::event::StreamEvent;
use super::framing::Framing;
use super::progress::Progress;
use super::tools::Tools;
use super::tree::JsonTree;
use super::usage::Usage;

/// The API dialect of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's `chat/completions`, `completions`, `embeddings`, `models`.
    OpenAi,
    /// Anthropic's `messages`.
    Anthropic,
    /// Ollama's own `api/chat`, `api/generate` and others.
    Ollama,
    /// OpenAI's `responses`.
    Responses,
    /// No dialect: a route that the operator declares.
    Declared,
}

/// The place of the cap on output tokens in an object of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NestedCap {
    /// The member of the body that is the object.
    pub(super) object: &'static str,
    /// The member of that object.
    pub(super) name: &'static str,
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
            Self::OpenAi | Self::Declared => openai::OWN_TOOL_TYPE,
            Self::Anthropic => anthropic::OWN_TOOL_TYPE,
            Self::Ollama => ollama::OWN_TOOL_TYPE,
            Self::Responses => responses::OWN_TOOL_TYPE,
        }
    }

    /// Whether servers accept additional fields in a body, such as `stream_options` and the
    /// gateway's request id.
    pub(super) const fn has_server_fields(self) -> bool {
        match self {
            Self::OpenAi => openai::HAS_SERVER_FIELDS,
            Self::Anthropic => anthropic::HAS_SERVER_FIELDS,
            // In Responses, usage is in every last event, and the id of a request would become that
            // of the response.
            Self::Ollama | Self::Responses | Self::Declared => false,
        }
    }

    /// Whether servers accept the salt of the prompt cache in a body.
    pub(super) const fn has_cache_salt(self) -> bool {
        matches!(self, Self::OpenAi | Self::Responses)
    }

    /// The name of the cap on output tokens, if it does not depend on the server.
    pub(super) const fn output_cap(self) -> Option<&'static str> {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Ollama | Self::Declared => None,
            Self::Responses => Some(responses::OUTPUT_CAP),
        }
    }

    /// Whether a server stores an answer unless the request forbids it (`store`).
    pub(super) const fn stores_answers(self) -> bool {
        matches!(self, Self::Responses)
    }

    /// The type of a content part of a request that is text.
    pub(super) const fn text_part(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Ollama | Self::Declared => "text",
            Self::Responses => responses::TEXT_PART,
        }
    }

    /// Changes a request before its fields are validated. Adds the paths of removed values to
    /// `dropped`.
    pub(super) fn prepare(self, object: &mut Object<'_>, dropped: &mut Vec<String>) {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Ollama | Self::Declared => {}
            Self::Responses => responses::request::prepare(object, dropped),
        }
    }

    /// The framing of streams.
    #[must_use]
    pub const fn framing(self) -> Framing {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Responses | Self::Declared => Framing::Events,
            Self::Ollama => Framing::Lines,
        }
    }

    /// Whether a request without `stream` gets a stream.
    pub(super) const fn streams_by_default(self) -> bool {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Responses | Self::Declared => false,
            Self::Ollama => true,
        }
    }

    /// The place of the cap on output tokens; `None` if it is a member of the body itself.
    pub(super) const fn nested_cap(self) -> Option<NestedCap> {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Responses | Self::Declared => None,
            Self::Ollama => Some(ollama::CAP),
        }
    }

    /// Whether every event has a name, which is the type in its data. Clients ignore events without
    /// one.
    pub(super) const fn has_named_events(self) -> bool {
        match self {
            Self::OpenAi | Self::Ollama | Self::Declared => false,
            Self::Anthropic | Self::Responses => true,
        }
    }

    /// Whether the name of an event agrees with its data. Some clients use the name and ignore
    /// events with an unknown name. Other clients use the data.
    pub(super) fn is_named(self, name: Option<&str>, data: &JsonTree<'_>) -> bool {
        match self {
            Self::OpenAi => openai::progress::is_named(name, data),
            Self::Anthropic => anthropic::progress::is_named(name, data),
            // A line has no name.
            Self::Ollama => name.is_none(),
            Self::Responses => responses::progress::is_named(name, data),
            // Which names a server gives its events is not declared.
            Self::Declared => true,
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
            Self::Ollama => {
                ollama::progress::read(progress, event);
                true
            }
            Self::Responses => {
                responses::progress::read(progress, event);
                true
            }
            Self::Declared => {
                declared::progress::read(progress, event);
                true
            }
        }
    }

    /// Appends the events that end a stream with an error. `after` is the number of the last event,
    /// if the events have numbers.
    pub(super) fn write_error_event(
        self,
        refusal: &Refusal,
        request: &str,
        after: Option<u64>,
        out: &mut Vec<u8>,
    ) {
        let begins = match self {
            Self::OpenAi | Self::Declared => openai::errors::EVENT_BEGINS,
            Self::Anthropic => anthropic::errors::EVENT_BEGINS,
            Self::Ollama => b"",
            Self::Responses => return responses::errors::events(refusal, request, after, out),
        };
        out.extend_from_slice(begins);
        self.write_error(refusal, request, out);
        out.extend_from_slice(match self.framing() {
            Framing::Events => b"\n\n",
            Framing::Lines => b"\n",
        });
    }

    /// Appends the body of an error.
    pub(super) fn write_error(self, refusal: &Refusal, request: &str, out: &mut Vec<u8>) {
        match self {
            Self::OpenAi | Self::Responses | Self::Declared => {
                openai::errors::body(refusal, request, out);
            }
            Self::Anthropic => anthropic::errors::body(refusal, request, out),
            Self::Ollama => ollama::errors::body(refusal, request, out),
        }
    }

    /// A list of models.
    pub(super) fn model_list(self, entries: &[ModelEntry]) -> Value<'_> {
        match self {
            Self::OpenAi | Self::Responses | Self::Declared => openai::models::list(entries),
            Self::Anthropic => anthropic::models::list(entries),
            Self::Ollama => ollama::models::list(entries),
        }
    }

    /// One model.
    pub(super) fn model(self, entry: &ModelEntry) -> Value<'_> {
        match self {
            Self::OpenAi | Self::Responses | Self::Declared => openai::models::one(entry),
            Self::Anthropic => anthropic::models::one(entry),
            Self::Ollama => ollama::models::one(entry),
        }
    }

    /// Converts a whole answer to the events or lines of a stream.
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
            Self::Ollama => ollama::whole::lines(operation == Operation::OllamaChat, answer),
            Self::Responses => responses::whole::events(answer),
            Self::Declared => Err(Unlike::Odd("it is the answer of a declared route")),
        }
    }

    /// The state that the end of a stream with a refused call depends on, at the beginning. `None`
    /// if the dialect has no such end.
    pub(super) fn refused_calls(self) -> Option<RefusedCalls> {
        match self {
            Self::OpenAi => Some(RefusedCalls::OpenAi(openai::refused::SentChunks::default())),
            Self::Anthropic => {
                Some(RefusedCalls::Anthropic(anthropic::refused::SentBlocks::default()))
            }
            Self::Ollama => Some(RefusedCalls::Ollama(ollama::refused::SentLines::default())),
            Self::Responses => {
                Some(RefusedCalls::Responses(responses::refused::SentItems::default()))
            }
            // Where a declared route has its text is not known. So the answer ends with an error.
            Self::Declared => None,
        }
    }

    /// Replaces the first refused call of a whole answer, and what comes after it, by a text.
    /// `None` if there is none.
    pub(super) fn replace_refused<T: Tools>(
        self,
        answer: &mut Object<'_>,
        tools: &mut T,
        text: &dyn Fn(&T) -> Option<String>,
    ) -> Option<()> {
        match self {
            Self::OpenAi => openai::refused::replace(answer, tools, text),
            Self::Anthropic => anthropic::refused::replace(answer, tools, text),
            Self::Ollama => ollama::refused::replace(answer, tools, text),
            Self::Responses => responses::refused::replace(answer, tools, text),
            Self::Declared => None,
        }
    }

    /// The joiner for the events of an answer.
    pub(super) fn joiner(self, operation: Operation) -> Joiner {
        match self {
            Self::OpenAi | Self::Declared => Joiner::OpenAi(openai::joined::JoinedChunks::new(
                operation == Operation::ChatCompletions,
            )),
            Self::Anthropic => Joiner::Anthropic(anthropic::joined::JoinedMessage::default()),
            Self::Ollama => Joiner::Ollama(ollama::joined::JoinedLines::default()),
            Self::Responses => Joiner::Responses(responses::joined::JoinedResponse::default()),
        }
    }
}

/// The events of an answer so far, which become one document.
pub(super) enum Joiner {
    /// OpenAI's chunks.
    OpenAi(openai::joined::JoinedChunks),
    /// The events of an Anthropic message.
    Anthropic(anthropic::joined::JoinedMessage),
    /// The lines of Ollama.
    Ollama(ollama::joined::JoinedLines),
    /// The events of a response.
    Responses(responses::joined::JoinedResponse),
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
            Self::Ollama(lines) => lines.take(event),
            Self::Responses(response) => response.take(event),
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
            Self::Ollama(lines) => Ok(lines.document()),
            Self::Responses(response) => response.document(),
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
    openai::progress::text_of_whole(answer)
        + anthropic::progress::text_of_whole(answer)
        + ollama::progress::text_of_whole(answer)
        + responses::progress::text_of_whole(answer)
}

/// The usage of a whole answer of Ollama, which is beside the answer and not in an object.
pub(super) fn usage_beside_answer(answer: &[u8]) -> Option<Usage> {
    ollama::progress::usage_of_whole(answer)
}

/// Answers that are the same for every caller.
pub mod constant {
    use super::ollama;

    /// The answer to Ollama's `ps`.
    pub const NO_RUNNING_MODELS: &str = ollama::NO_RUNNING;
    /// The answer to Ollama's `version`.
    pub const OLLAMA_VERSION: &str = ollama::SERVED_VERSION;
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
