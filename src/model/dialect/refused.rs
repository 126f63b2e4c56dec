//! The end of an answer whose tool call is refused, in each dialect that has one.

use super::{anthropic, ollama, openai, responses};
use crate::json::Object;

/// The part of a stream that its end depends on.
pub(in crate::model) enum RefusedCalls {
    /// OpenAI's chunks.
    OpenAi(openai::refused::SentChunks),
    /// The blocks of an Anthropic message.
    Anthropic(anthropic::refused::SentBlocks),
    /// The lines of Ollama.
    Ollama(ollama::refused::SentLines),
    /// The items of a response.
    Responses(responses::refused::SentItems),
}

impl RefusedCalls {
    /// Reads an event of the server. `sent` is true when the caller gets it now.
    pub(in crate::model) fn read(&mut self, event: &Object<'_>, sent: bool) {
        match self {
            Self::OpenAi(chunks) => chunks.read(event, sent),
            Self::Anthropic(blocks) => blocks.read(event, sent),
            Self::Ollama(lines) => lines.read(event, sent),
            Self::Responses(items) => items.read(event, sent),
        }
    }

    /// The events that end the answer with `text` in place of the call.
    pub(in crate::model) fn end(&mut self, text: &str) -> Vec<u8> {
        match self {
            Self::OpenAi(chunks) => chunks.end(text),
            Self::Anthropic(blocks) => blocks.end(text),
            Self::Ollama(lines) => lines.end(text),
            Self::Responses(items) => items.end(text),
        }
    }
}
