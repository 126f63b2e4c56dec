//! A request to `echo`: the members of a body that it reads.

use crate::json::{self, Limits, Object, Value};

/// How deep a body may nest. The gateway sends nothing deeper.
const DEPTH_MAX: usize = 64;
/// The names of the cap on output tokens in the profiles.
const CAP_NAMES: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// A request.
pub(super) struct EchoRequest<'b> {
    members: Object<'b>,
    /// Names the answer.
    pub(super) id: &'b str,
    /// Seconds since 1970.
    pub(super) created: i64,
}

impl<'b> EchoRequest<'b> {
    /// Reads a body; `None` where it is not a JSON object.
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

    /// The items of the member of that name. A member that is not an array has none.
    pub(super) fn items(&self, name: &str) -> &[Value<'b>] {
        match self.member(name) {
            Some(Value::Array(items)) => items,
            Some(_) | None => &[],
        }
    }

    /// The model.
    pub(super) fn model(&self) -> &str {
        match self.member("model") {
            Some(Value::String(model)) => model,
            Some(_) | None => "echo",
        }
    }

    /// Whether the answer is a stream.
    pub(super) fn streams(&self) -> bool {
        matches!(self.member("stream"), Some(Value::Bool(true)))
    }

    /// Whether a stream ends with an event about usage.
    pub(super) fn reports_usage(&self) -> bool {
        match self.member("stream_options") {
            Some(Value::Object(options)) => {
                matches!(options.get("include_usage"), Some(Value::Bool(true)))
            }
            Some(_) | None => false,
        }
    }

    /// The cap on the tokens of each choice.
    pub(super) fn cap(&self) -> u64 {
        for name in CAP_NAMES {
            if let Some(cap) = self.number(name) {
                return cap;
            }
        }
        u64::MAX
    }

    /// How many choices there are for each prompt.
    pub(super) fn choices(&self) -> u64 {
        self.number("n").unwrap_or(1).max(1)
    }

    /// The member of that name, if it is an unsigned number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.member(name)?.as_u64()
    }
}

/// A string member of an object.
pub(super) fn text<'v>(object: &'v Object<'_>, name: &str) -> Option<&'v str> {
    object.get(name)?.as_str()
}

/// A string member of a value that is an object.
pub(super) fn text_in<'v>(value: &'v Value<'_>, name: &str) -> Option<&'v str> {
    text(value.as_object()?, name)
}
