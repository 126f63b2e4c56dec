//! Routes that the operator declares. They belong to no dialect: errors have OpenAI's form,
//! and streams are server-sent events in any form.

pub(super) mod progress;

use super::Dialect;
use super::facts::OperationFacts;

/// Every declared route.
pub(super) const DECLARED: OperationFacts = OperationFacts {
    dialect: Dialect::Declared,
    name: "declared",
    path: "",
    shape: None,
    writes_tokens: false,
};
