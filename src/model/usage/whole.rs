//! The reported usage of a whole answer.

use super::{Heard, Usage};
use crate::json::{self, Limits};
use crate::model::Operation;
use crate::model::dialect::{read_usage, text_of_whole, usage_beside_answer};
use crate::model::raw_json::member;

/// The maximum depth of a usage object.
const USAGE_DEPTH_MAX: usize = 8;

/// The reported usage of a whole answer, and its amount of text.
#[must_use]
pub fn heard(operation: Operation, answer: &[u8]) -> Heard {
    let (usage, text) = (of(operation, answer), text_of_whole(answer));
    Heard { usage, text, since_usage: 0, complete: true }
}

/// The reported usage of a whole answer; `None` if there is no readable report.
#[must_use]
pub fn of(operation: Operation, answer: &[u8]) -> Option<Usage> {
    match operation {
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Messages
        | Operation::Responses
        | Operation::Declared => member(answer, "usage").and_then(read_usage),
        Operation::Rerank => reranked(answer),
        // Its whole answer is the count of the prompt.
        Operation::CountTokens => read_usage(answer),
        Operation::OllamaChat
        | Operation::OllamaGenerate
        | Operation::OllamaEmbed
        | Operation::OllamaEmbeddings => usage_beside_answer(answer),
        Operation::OllamaTags
        | Operation::OllamaShow
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel
        | Operation::Me => None,
    }
}

/// The usage of a rerank answer. Jina and vLLM have the member `usage`, Cohere has `meta`.
fn reranked(answer: &[u8]) -> Option<Usage> {
    if let Some(usage) = member(answer, "usage") {
        return read_usage(usage).or_else(|| total(usage));
    }
    let meta = member(answer, "meta")?;
    for name in ["tokens", "billed_units"] {
        if let Some(usage) = member(meta, name).and_then(read_usage) {
            return Some(usage);
        }
    }
    None
}

/// The total of a usage object that has no other number. All of it is input: nothing is generated.
fn total(usage: &[u8]) -> Option<Usage> {
    let value = json::parse(usage, &Limits::deep(USAGE_DEPTH_MAX)).ok()?;
    let input = value.as_object()?.number("total_tokens")?;
    Some(Usage { input, ..Usage::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reranks(answer: &str, input: Option<u64>) {
        let usage = of(Operation::Rerank, answer.as_bytes());
        assert_eq!(usage.map(|usage| (usage.input, usage.output)), input.map(|input| (input, 0)));
    }

    #[test]
    fn rerank_answers_report_usage_in_three_forms() {
        reranks(r#"{"results":[],"usage":{"total_tokens":7}}"#, Some(7));
        reranks(r#"{"results":[],"usage":{"prompt_tokens":6,"total_tokens":7}}"#, Some(6));
        reranks(r#"{"meta":{"tokens":{"input_tokens":5,"output_tokens":0}}}"#, Some(5));
        reranks(r#"{"meta":{"billed_units":{"input_tokens":4}}}"#, Some(4));
        reranks(r#"{"meta":{"billed_units":{"search_units":1}}}"#, None);
        reranks(r#"{"results":[]}"#, None);
    }

    #[test]
    fn a_count_of_tokens_is_its_usage() {
        let usage = of(Operation::CountTokens, br#"{"input_tokens":12}"#);
        assert_eq!(usage, Some(Usage { input: 12, output: 0, reasoning: 0 }));
    }
}
