//! OpenAI's Responses dialect: `responses`. Its requests, events and whole answers differ from
//! those of `chat/completions`; its errors have the same body.

pub(super) mod calls;
pub(super) mod errors;
pub(super) mod joined;
pub(super) mod progress;
pub(super) mod refused;
pub(super) mod request;
pub(super) mod texts;
pub(super) mod whole;

use super::Dialect;
use super::facts::OperationFacts;

/// `POST /v1/responses`.
pub(super) const RESPONSES: OperationFacts = OperationFacts {
    dialect: Dialect::Responses,
    name: "responses",
    path: "/v1/responses",
    shape: Some("responses"),
    writes_tokens: true,
};

/// The type of a tool without a type.
pub(super) const OWN_TOOL_TYPE: &str = "function";

/// The name of the cap on output tokens. It is the same at every server.
pub(super) const OUTPUT_CAP: &str = "max_output_tokens";

/// The type of a part of the input that is text.
pub(super) const TEXT_PART: &str = "input_text";

/// The beginning of every type of an event, except `error`.
pub(super) const EVENT: &str = "response.";
/// The end of the type of an event that adds to a text.
pub(super) const DELTA: &str = ".delta";
/// The end of the type of an event that begins an item or a part.
pub(super) const ADDED: &str = ".added";
