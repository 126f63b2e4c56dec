//! The reported usage of a whole answer.

use super::{Heard, Usage};
use crate::model::Operation;
use crate::model::dialect::{read_usage, text_of_whole};
use crate::model::raw_json::member;

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
        | Operation::Messages => member(answer, "usage").and_then(read_usage),
        Operation::ListModels | Operation::ShowModel | Operation::Me => None,
    }
}
