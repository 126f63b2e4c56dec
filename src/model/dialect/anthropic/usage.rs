//! The members of Anthropic's usage.

use crate::json::{Object, Value};

/// The tokens of the prompt. Anthropic counts tokens from the cache and tokens into the cache
/// separately.
pub(in crate::model::dialect) fn input(usage: &Object<'_>) -> Option<u64> {
    let input = usage.get("input_tokens").and_then(Value::as_u64)?;
    let written = usage.get("cache_creation_input_tokens").and_then(Value::as_u64).unwrap_or(0);
    let read = usage.get("cache_read_input_tokens").and_then(Value::as_u64).unwrap_or(0);
    Some(input.saturating_add(written.saturating_add(read)))
}

/// The member that counts the tokens of the answer.
pub(in crate::model::dialect) const OUTPUT: &str = "output_tokens";

/// The member with details of the answer's tokens, such as the number of reasoning tokens.
pub(in crate::model::dialect) const OUTPUT_DETAILS: &str = "output_tokens_details";
