//! Anthropic's dialect: `messages`, `count_tokens`, and its form of model lists.

pub(super) mod calls;
pub(super) mod errors;
pub(super) mod joined;
pub(super) mod models;
pub(super) mod progress;
pub(super) mod refused;
pub(super) mod texts;
pub(super) mod usage;
pub(super) mod whole;

use super::Dialect;
use super::facts::OperationFacts;

/// `POST /v1/messages`.
pub(super) const MESSAGES: OperationFacts = OperationFacts {
    dialect: Dialect::Anthropic,
    name: "messages",
    path: "/v1/messages",
    shape: Some("messages"),
    writes_tokens: true,
};

/// `POST /v1/messages/count_tokens`: the tokens of a prompt, without an answer.
pub(super) const COUNT_TOKENS: OperationFacts = OperationFacts {
    dialect: Dialect::Anthropic,
    name: "count-tokens",
    path: "/v1/messages/count_tokens",
    shape: Some("count-tokens"),
    writes_tokens: false,
};

/// The type of a tool without a type.
pub(super) const OWN_TOOL_TYPE: &str = "custom";

/// Whether servers accept additional fields in a body, such as `stream_options` and the gateway's
/// request id.
pub(super) const HAS_SERVER_FIELDS: bool = false;
