//! The members of OpenAI's usage.

use crate::json::Object;

/// The tokens of the prompt.
pub(in crate::model::dialect) fn input(usage: &Object<'_>) -> Option<u64> {
    usage.number("prompt_tokens")
}

/// The member that counts the tokens of the answer.
pub(in crate::model::dialect) const OUTPUT: &str = "completion_tokens";

/// The member with details of the answer's tokens, such as the number of reasoning tokens.
pub(in crate::model::dialect) const OUTPUT_DETAILS: &str = "completion_tokens_details";
