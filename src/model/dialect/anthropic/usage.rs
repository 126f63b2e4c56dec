//! The members of Anthropic's usage.

use crate::json::Object;

/// The tokens of the prompt. Anthropic counts tokens from the cache and tokens into the cache
/// separately.
pub(in crate::model::dialect) fn input(usage: &Object<'_>) -> Option<u64> {
    let input = usage.number("input_tokens")?;
    let written = or_zero(usage, "cache_creation_input_tokens");
    let read = or_zero(usage, "cache_read_input_tokens");
    Some(input.saturating_add(written.saturating_add(read)))
}

/// A number of tokens; 0 if it is absent.
fn or_zero(usage: &Object<'_>, key: &str) -> u64 {
    usage.number(key).unwrap_or(0)
}

/// The member that counts the tokens of the answer.
pub(in crate::model::dialect) const OUTPUT: &str = "output_tokens";

/// The member with details of the answer's tokens, such as the number of reasoning tokens.
pub(in crate::model::dialect) const OUTPUT_DETAILS: &str = "output_tokens_details";
