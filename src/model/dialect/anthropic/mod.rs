//! Anthropic's dialect: `messages`, and its form of model lists.

pub(super) mod calls;
pub(super) mod errors;
pub(super) mod joined;
pub(super) mod models;
pub(super) mod progress;
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

/// The type of a tool without a type.
pub(super) const OWN_TOOL_TYPE: &str = "custom";

/// Whether servers accept additional fields in a body, such as `stream_options` and the gateway's
/// request id.
pub(super) const HAS_SERVER_FIELDS: bool = false;
