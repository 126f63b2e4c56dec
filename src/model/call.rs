//! A call to a model, understood; and the body that its server gets.

use crate::json::{self, Object, Value};
use crate::model::Operation;
use crate::model::read::CAPS;

/// What kind of thing a request would make the server reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachKind {
    /// Media to be fetched.
    Media,
    /// A tool that the server, or whoever stands behind it, would run.
    HostedTool,
    /// An MCP server.
    Mcp,
    /// Work that outlives its request.
    Background,
    /// State that lies at a server: files, earlier answers, containers.
    ForeignState,
}

/// One thing that a request would make the server reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where in the body, such as `messages[0].content[1].image_url.url`.
    pub path: String,
    /// What kind.
    pub kind: ReachKind,
    /// The URL, id or tool type, cut to 256 characters.
    pub target: String,
}

/// A call, understood.
pub struct ModelCall<'b> {
    pub(super) operation: Operation,
    pub(super) model: String,
    pub(super) model_upstream: String,
    pub(super) cap: &'static str,
    pub(super) stream_usage: bool,
    pub(super) stream: bool,
    pub(super) output_tokens_asked: Option<u64>,
    pub(super) choices: u64,
    pub(super) reaches: Vec<Reach>,
    pub(super) dropped: Vec<String>,
    pub(super) root: Object<'b>,
}

/// What the gateway changes.
pub struct Changes {
    /// The cap on output tokens in force.
    pub output_tokens: u64,
}

/// The body for the server.
pub struct Written {
    /// Compact JSON in the caller's order.
    pub body: Vec<u8>,
    /// The cap that it carries.
    pub output_tokens: Option<u64>,
    /// True where the caller asked for more.
    pub clamped: bool,
}

impl<'b> ModelCall<'b> {
    /// The operation.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The model, as the caller named it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// True where the caller wants a stream.
    #[must_use]
    pub const fn stream(&self) -> bool {
        self.stream
    }

    /// The caller's own cap on output tokens.
    #[must_use]
    pub const fn output_tokens_asked(&self) -> Option<u64> {
        self.output_tokens_asked
    }

    /// How many answers are asked for.
    #[must_use]
    pub const fn choices(&self) -> u64 {
        self.choices
    }

    /// True where the caller wants usage in its stream.
    #[must_use]
    pub fn usage_asked(&self) -> bool {
        let options = self.root.get("stream_options").and_then(Value::as_object);
        options.and_then(|options| options.get("include_usage")).and_then(Value::as_bool).unwrap_or(false)
    }

    /// What the request would make the server reach.
    #[must_use]
    pub fn reaches(&self) -> &[Reach] {
        &self.reaches
    }

    /// Paths of fields that were dropped.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// A top-level field.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Value<'b>> {
        self.root.get(key)
    }

    /// Writes the body: the caller's order, the server's name for the model, one cap, and usage asked for in streams.
    #[must_use]
    pub fn write(&self, changes: &Changes) -> Written {
        let writes_tokens = !matches!(self.operation, Operation::Embeddings | Operation::ListModels | Operation::ShowModel);
        let cap = writes_tokens.then(|| self.output_tokens_asked.map_or(changes.output_tokens, |asked| asked.min(changes.output_tokens)));
        let force_usage = self.stream && self.stream_usage;
        let mut out = Vec::with_capacity(1024);
        let (mut wrote_cap, mut wrote_options) = (false, false);
        for (key, value) in self.root.iter() {
            let caps = CAPS.contains(&key);
            if caps && (wrote_cap || *value == Value::Null) {
                continue;
            }
            out.push(if out.is_empty() { b'{' } else { b',' });
            match (key, cap) {
                ("model", _) => member(&mut out, "model", &Value::from_text(self.model_upstream.as_str())),
                (_, Some(cap)) if caps => {
                    wrote_cap = true;
                    member(&mut out, self.cap, &Value::from_u64(cap));
                }
                ("stream_options", _) if force_usage => {
                    wrote_options = true;
                    member(&mut out, key, &with_usage(value));
                }
                _ => member(&mut out, key, value),
            }
        }
        if let Some(cap) = cap.filter(|_| !wrote_cap) {
            out.push(b',');
            member(&mut out, self.cap, &Value::from_u64(cap));
        }
        if force_usage && !wrote_options {
            out.push(b',');
            member(&mut out, "stream_options", &with_usage(&Value::Null));
        }
        out.push(b'}');
        let clamped = self.output_tokens_asked.is_some_and(|asked| asked > changes.output_tokens);
        Written { body: out, output_tokens: cap, clamped }
    }
}

fn member(out: &mut Vec<u8>, key: &str, value: &Value<'_>) {
    json::write_string(key, out);
    out.push(b':');
    json::write(value, out);
}

/// `stream_options` with usage asked for.
fn with_usage<'b>(options: &Value<'b>) -> Value<'b> {
    let mut object = options.as_object().cloned().unwrap_or_default();
    object.set("include_usage", Value::Bool(true));
    Value::Object(object)
}
