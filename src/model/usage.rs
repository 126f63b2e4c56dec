//! What a model used, as its server reports it.

use crate::json::{self, Limits, Object, Value};

use super::Operation;
use super::peek::member;

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those read from or written to a cache included.
    pub input: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
}

/// What a whole answer reports; `None` where it reports nothing that can be read.
#[must_use]
pub fn of(operation: Operation, answer: &[u8]) -> Option<Usage> {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Messages => {
            member(answer, "usage").and_then(read)
        }
        Operation::ListModels | Operation::ShowModel | Operation::Me => None,
    }
}

/// Reads a usage object of any dialect.
pub(super) fn read(raw: &[u8]) -> Option<Usage> {
    let value = json::parse(raw, &Limits::deep(8)).ok()?;
    let object = value.as_object()?;
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let input = number("prompt_tokens").or_else(|| anthropic_input(object));
    let output = number("completion_tokens").or_else(|| number("output_tokens"));
    (input.is_some() || output.is_some()).then(|| Usage { input: input.unwrap_or(0), output: output.unwrap_or(0) })
}

/// Anthropic counts apart what came from a cache and what went into it.
fn anthropic_input(object: &Object<'_>) -> Option<u64> {
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let cached =
        number("cache_creation_input_tokens").unwrap_or(0).saturating_add(number("cache_read_input_tokens").unwrap_or(0));
    number("input_tokens").map(|input| input.saturating_add(cached))
}

impl Usage {
    /// Both at their highest: streams report in parts, and repeat.
    #[must_use]
    pub(super) fn highest(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }
}
