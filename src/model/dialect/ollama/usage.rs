//! The members of Ollama's usage. They are in the outermost object, beside the answer.

/// The tokens of the prompt.
pub(in crate::model::dialect) const INPUT: &str = "prompt_eval_count";

/// The tokens of the answer.
pub(in crate::model::dialect) const OUTPUT: &str = "eval_count";
