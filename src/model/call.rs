//! A body as a call to a model: read, understood, written again.

use std::borrow::Cow;
use std::sync::Arc;

use crate::json::{self, Limits, Object, Value, write_string};
use crate::refusal::{Code, Refusal};

use super::markdown;
use super::path::Path;
use super::profile::{GatewayFields, Profile};
use super::validator::{BodyValidator, fold};
use super::{ExternalReference, Operation, UnknownFields};

/// How deep a body may nest.
const DEPTH_MAX: usize = 64;
/// Bytes of a model's name.
const MODEL_BYTES_MAX: usize = 256;

/// A body that is one strict JSON object with a model in it, and nothing more.
pub struct ParsedBody<'b> {
    operation: Operation,
    object: Object<'b>,
    length: usize,
}

/// Reads `body` strictly: one JSON document in UTF-8, an object, with a `model` of 1 to 256 bytes.
///
/// # Errors
/// `json-invalid`, `field-missing` or `field-invalid` for `model`, `field-not-allowed` for a look-alike of it.
pub fn read(operation: Operation, body: &[u8]) -> Result<ParsedBody<'_>, Refusal> {
    let value = json::parse(body, &Limits::deep(DEPTH_MAX)).map_err(|fault| {
        Refusal::new(Code::JsonInvalid)
            .saying(format!("The body is not one strict JSON object: {fault}."))
    })?;
    let Value::Object(object) = value else {
        return Err(Refusal::new(Code::JsonInvalid)
            .saying(format!("The body must be a JSON object, not a JSON {}.", value.kind())));
    };
    match object.get("model") {
        Some(Value::String(model))
            if (1..=MODEL_BYTES_MAX).contains(&model.len())
                && !model.chars().any(char::is_control) => {}
        None | Some(Value::Null) => return Err(model_missing(&object)),
        Some(_) => {
            let says = format!(
                "The field model must be a string of 1 to {MODEL_BYTES_MAX} bytes without control characters."
            );
            return Err(Refusal::new(Code::FieldInvalid).saying(says).at("model"));
        }
    }
    Ok(ParsedBody { operation, object, length: body.len() })
}

fn model_missing(object: &Object<'_>) -> Refusal {
    let similar =
        object.iter().map(|(key, _)| key).find(|key| *key != "model" && fold(key) == "model");
    match similar {
        Some(key) => {
            let path = Path::Key(&Path::Root, key).to_string();
            let says = format!(
                "The field {path} is not allowed: it is not \"model\"; keys are compared exactly."
            );
            Refusal::new(Code::FieldNotAllowed).saying(says).at(path)
        }
        None => Refusal::new(Code::FieldMissing).saying("The field model is required.").at("model"),
    }
}

/// By what a body is judged.
pub struct BodyRules<'t> {
    /// What the server understands.
    pub profile: &'t Profile,
    /// What happens to fields that it does not know.
    pub unknown_fields: UnknownFields,
    /// The model's name at the server.
    pub model_upstream: &'t str,
}

impl<'b> ParsedBody<'b> {
    /// The model as the caller names it.
    #[must_use]
    pub fn model(&self) -> &str {
        self.object.get("model").and_then(Value::as_str).unwrap_or_default()
    }

    /// Judges every field at every depth.
    ///
    /// # Errors
    /// `field-not-allowed`, `field-invalid` or `field-missing`, with the JSON path.
    pub fn understand(self, terms: &BodyRules<'_>) -> Result<ModelCall<'b>, Refusal> {
        let Self { operation, mut object, length } = self;
        let Some(shape) = operation.shape().and_then(|name| terms.profile.shape(name)) else {
            return Err(Refusal::new(Code::Internal).because("this operation has no body"));
        };
        let mut judge = BodyValidator::new(terms.profile, terms.unknown_fields);
        judge.shape(shape, &mut object, &Path::Root)?;
        let BodyValidator { mut external_references, dropped, .. } = judge;
        let gateway = Arc::clone(&terms.profile.gateway);
        if gateway.markdown_images {
            external_references.extend(markdown::external_references(&object)?);
        }
        let asked = if operation.writes_tokens() { output_cap(&gateway, &object)? } else { None };
        let flag = |value: Option<&Value<'_>>| value.and_then(Value::as_bool).unwrap_or(false);
        let stream = operation.writes_tokens() && flag(object.get("stream"));
        let options = object.get("stream_options").and_then(Value::as_object);
        let usage_asked = options.is_some_and(|options| flag(options.get("include_usage")));
        let model_upstream = terms.model_upstream.to_owned();
        Ok(ModelCall {
            operation,
            object,
            length,
            model_upstream,
            gateway,
            asked,
            stream,
            usage_asked,
            external_references,
            stripped: Vec::new(),
            inline_slots: Vec::new(),
            dropped,
        })
    }
}

/// The cap on output tokens that the caller asks for, under whichever name; below zero stands for none.
fn output_cap(gateway: &GatewayFields, object: &Object<'_>) -> Result<Option<u64>, Refusal> {
    let mut found: Option<(&str, Option<u64>)> = None;
    for name in &gateway.output_cap_names {
        match object.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                if let Some((other, _)) = found {
                    let says = format!(
                        "The fields {other} and {name} stand side by side; send one of them."
                    );
                    return Err(Refusal::new(Code::FieldInvalid).saying(says).at(name.as_str()));
                }
                if value.as_u64() == Some(0) {
                    let says = format!(
                        "The field {name} must not be 0: some servers read that as no limit."
                    );
                    return Err(Refusal::new(Code::FieldInvalid).saying(says).at(name.as_str()));
                }
                found = Some((name, value.as_u64()));
            }
        }
    }
    Ok(found.and_then(|(_, asked)| asked))
}

/// A call to a model whose every field was judged.
pub struct ModelCall<'b> {
    operation: Operation,
    pub(super) object: Object<'b>,
    /// Bytes of the body that was read: what is written is about as long.
    length: usize,
    model_upstream: String,
    gateway: Arc<GatewayFields>,
    asked: Option<u64>,
    stream: bool,
    usage_asked: bool,
    pub(super) external_references: Vec<ExternalReference>,
    pub(super) stripped: Vec<ExternalReference>,
    pub(super) inline_slots: Vec<ExternalReference>,
    dropped: Vec<String>,
}

/// What the gateway writes into a body.
pub struct BodyChanges {
    /// The cap on the output tokens of each choice; the body says the smaller of it and what the caller asked for.
    pub output_tokens: u64,
    /// The request's id, written where the server has a field for it.
    pub request_id: Option<String>,
    /// The prompt cache's salt, written where the server has a field for it.
    pub cache_salt: Option<String>,
}

/// A body for the server.
pub struct WrittenBody {
    /// Compact JSON.
    pub body: Vec<u8>,
    /// The cap on output tokens that it carries; `None` for operations without output tokens.
    pub output_tokens: Option<u64>,
    /// True when the caller asked for more.
    pub clamped: bool,
}

impl ModelCall<'_> {
    /// What is asked for.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The model as the caller names it.
    #[must_use]
    pub fn model(&self) -> &str {
        self.object.get("model").and_then(Value::as_str).unwrap_or_default()
    }

    /// True when the answer is asked for as a stream.
    #[must_use]
    pub const fn stream(&self) -> bool {
        self.stream
    }

    /// The cap on output tokens that the caller asked for, each choice by itself.
    #[must_use]
    pub const fn output_tokens_asked(&self) -> Option<u64> {
        self.asked
    }

    /// How many answers are asked for: `n`, times the prompts of a completion, and at least `best_of`.
    #[must_use]
    pub fn choices(&self) -> u64 {
        let number = |key: &str| self.object.get(key).and_then(Value::as_u64).unwrap_or(1).max(1);
        let prompts = match (self.operation, self.object.get("prompt")) {
            (Operation::Completions, Some(Value::Array(items)))
                if !items.iter().all(|item| matches!(item, Value::Number(_))) =>
            {
                u64::try_from(items.len()).unwrap_or(u64::MAX).max(1)
            }
            _ => 1,
        };
        number("n").max(number("best_of")).saturating_mul(prompts)
    }

    /// Whether the answer goes on from a text that the caller sends: a completion, or a message begun in the model's name.
    #[must_use]
    pub fn continues(&self) -> bool {
        let last = self
            .object
            .get("messages")
            .and_then(Value::as_array)
            .and_then(|messages| messages.last());
        let role = last
            .and_then(Value::as_object)
            .and_then(|message| message.get("role"))
            .and_then(Value::as_str);
        self.operation == Operation::Completions || role == Some("assistant")
    }

    /// True when the caller asked for usage at the end of its stream.
    #[must_use]
    pub const fn usage_asked(&self) -> bool {
        self.usage_asked
    }

    /// Everything that would make the server reach outside.
    #[must_use]
    pub fn external_references(&self) -> &[ExternalReference] {
        &self.external_references
    }

    /// The paths of fields that were taken out.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Prints the call for the server: the caller's keys in their order, and what the gateway sets.
    #[must_use]
    pub fn write(&self, changes: &BodyChanges) -> WrittenBody {
        let gateway = &*self.gateway;
        let cap = self.operation.writes_tokens().then(|| {
            self.asked.map_or(changes.output_tokens, |asked| asked.min(changes.output_tokens))
        });
        let server_fields = self.operation.dialect().has_server_fields();
        let force_usage = self.stream && gateway.include_usage && server_fields;
        let mut out =
            ObjectWriter { body: Vec::with_capacity(self.length.saturating_add(256)), first: true };
        let (mut cap_left, mut usage_left) = (cap, force_usage);
        for (key, value) in self.object.iter() {
            if key == "model" {
                out.text("model", &self.model_upstream);
            } else if cap.is_some() && gateway.output_cap_names.iter().any(|name| name == key) {
                if let Some(cap) = cap_left.take() {
                    out.value(&gateway.output_cap, &Value::from_u64(cap));
                }
            } else if force_usage && key == "stream_options" {
                out.value(key, &Value::Object(self.stream_options(value)));
                usage_left = false;
            } else {
                out.value(key, value);
            }
        }
        if let Some(cap) = cap_left {
            out.value(&gateway.output_cap, &Value::from_u64(cap));
        }
        if usage_left {
            out.value("stream_options", &Value::Object(self.stream_options(&Value::Null)));
        }
        if server_fields {
            for (field, content) in [
                (&gateway.request_id, &changes.request_id),
                (&gateway.cache_salt, &changes.cache_salt),
            ] {
                if let (Some(field), Some(content)) = (field, content) {
                    out.text(field, content);
                }
            }
        }
        let clamped = self.asked.is_some_and(|asked| cap.is_some_and(|cap| asked > cap));
        WrittenBody { body: out.end(), output_tokens: cap, clamped }
    }

    /// The caller's stream options with usage turned on. Usage in every chunk only stays where usage was asked for.
    fn stream_options<'v>(&self, own: &Value<'v>) -> Object<'v> {
        let mut options = own.as_object().cloned().unwrap_or_default();
        if !self.usage_asked {
            options.remove("continuous_usage_stats");
        }
        options.set("include_usage", Value::Bool(true));
        options
    }
}

/// An object that is printed member by member.
struct ObjectWriter {
    body: Vec<u8>,
    first: bool,
}

impl ObjectWriter {
    fn key(&mut self, key: &str) {
        self.body.push(if std::mem::take(&mut self.first) { b'{' } else { b',' });
        write_string(key, &mut self.body);
        self.body.push(b':');
    }

    fn value(&mut self, key: &str, value: &Value<'_>) {
        self.key(key);
        json::write(value, &mut self.body);
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, &Value::String(Cow::Borrowed(text)));
    }

    fn end(mut self) -> Vec<u8> {
        if self.first {
            self.body.push(b'{');
        }
        self.body.push(b'}');
        self.body
    }
}
