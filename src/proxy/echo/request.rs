//! A request to `echo`: the members of its body that `echo` uses.

use crate::json::{self, Limits, Object, Value};

/// The greatest depth of a body. The gateway sends no deeper one.
const DEPTH_MAX: usize = 64;
/// The names that the profiles give the cap on output tokens.
const CAP_NAMES: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// A parsed request.
pub(super) struct EchoRequest<'b> {
    members: Object<'b>,
    /// The name of the answer.
    pub(super) id: &'b str,
    /// The time of the answer, in seconds since 1970.
    pub(super) created: i64,
}

impl<'b> EchoRequest<'b> {
    /// Parses a body; `None` if it is not a JSON object.
    pub(super) fn read(body: &'b [u8], id: &'b str, created: i64) -> Option<Self> {
        match json::parse(body, &Limits::deep(DEPTH_MAX)) {
            Ok(Value::Object(members)) => Some(Self { members, id, created }),
            Ok(_) | Err(_) => None,
        }
    }

    /// The member of that name.
    pub(super) fn member(&self, name: &str) -> Option<&Value<'b>> {
        self.members.get(name)
    }

    /// The items of the member of that name. Empty if it is not an array.
    pub(super) fn items(&self, name: &str) -> &[Value<'b>] {
        match self.member(name) {
            Some(Value::Array(items)) => items,
            Some(_) | None => &[],
        }
    }

    /// The requested model.
    pub(super) fn model(&self) -> &str {
        match self.member("model") {
            Some(Value::String(model)) => model,
            Some(_) | None => "echo",
        }
    }

    /// Whether the request wants a stream.
    pub(super) fn streams(&self) -> bool {
        matches!(self.member("stream"), Some(Value::Bool(true)))
    }

    /// Whether a stream ends with an event with the usage.
    pub(super) fn reports_usage(&self) -> bool {
        match self.member("stream_options") {
            Some(Value::Object(options)) => {
                matches!(options.get("include_usage"), Some(Value::Bool(true)))
            }
            Some(_) | None => false,
        }
    }

    /// The cap on the output tokens of each choice.
    pub(super) fn cap(&self) -> u64 {
        for name in CAP_NAMES {
            if let Some(cap) = self.number(name) {
                return cap;
            }
        }
        // Ollama's cap is among the options.
        match self.members.object("options") {
            Some(options) => options.number("num_predict").unwrap_or(u64::MAX),
            None => u64::MAX,
        }
    }

    /// The number of choices for each prompt.
    pub(super) fn choices(&self) -> u64 {
        self.number("n").unwrap_or(1).max(1)
    }

    /// The member of that name, if it is an unsigned number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.member(name)?.as_u64()
    }
}

/// A member of an object, if it is a string.
pub(super) fn text<'v>(object: &'v Object<'_>, name: &str) -> Option<&'v str> {
    object.get(name)?.as_str()
}

/// A member of a value, if the value is an object and the member a string.
pub(super) fn text_in<'v>(value: &'v Value<'_>, name: &str) -> Option<&'v str> {
    text(value.as_object()?, name)
}
