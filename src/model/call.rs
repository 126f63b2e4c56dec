//! A request body as a call to a model: it is parsed, validated and written again for the server.

use std::borrow::Cow;
use std::sync::Arc;

use crate::json::{self, Limits, Object, Value, write_string};
use crate::refusal::{Code, Refusal};

use super::declared::DeclaredRoute;
use super::declared::content::DeclaredBody;
use super::declared::write::{DeclaredTarget, WrittenDeclared, written};
use super::fold::fold;
use super::gateway_fields::GatewayFields;
use super::markdown;
use super::output_cap;
use super::path::Path;
use super::profile::{Profile, Shape};
use super::validator::BodyValidator;
use super::{ExternalReference, Operation, UnknownFields};

/// The maximum nesting depth of a body.
const DEPTH_MAX: usize = 64;
/// The maximum length of a model's name in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// A body that is one strict JSON object with a model. Its other fields are not validated yet.
pub struct ParsedBody<'b> {
    /// The requested operation.
    operation: Operation,
    /// The parsed body.
    object: Object<'b>,
    /// The length of the body in bytes.
    length: usize,
}

/// Reads `body` strictly. It must be one JSON object in UTF-8, with a `model` of 1 to 256 bytes.
///
/// # Errors
/// `json-invalid`; `field-missing` or `field-invalid` for `model`; `field-not-allowed` for a key
/// that looks like `model`.
pub fn read(operation: Operation, body: &[u8]) -> Result<ParsedBody<'_>, Refusal> {
    let object = object_of(body)?;
    model_field(&object)?;
    Ok(ParsedBody { operation, object, length: body.len() })
}

/// Parses a body that must be one JSON object.
///
/// # Errors
/// `json-invalid`.
pub(super) fn object_of(body: &[u8]) -> Result<Object<'_>, Refusal> {
    let value = json::parse(body, &Limits::deep(DEPTH_MAX)).map_err(|fault| {
        Refusal::new(Code::JsonInvalid)
            .saying(format!("The body is not one strict JSON object: {fault}."))
    })?;
    let Value::Object(object) = value else {
        return Err(Refusal::new(Code::JsonInvalid)
            .saying(format!("The body must be a JSON object, not a JSON {}.", value.kind())));
    };
    Ok(object)
}

/// Checks the member `model` of a body.
///
/// # Errors
/// `field-missing` or `field-invalid`; `field-not-allowed` for a key that looks like `model`.
pub(super) fn model_field(object: &Object<'_>) -> Result<(), Refusal> {
    match object.get("model") {
        Some(Value::String(model))
            if (1..=MODEL_BYTES_MAX).contains(&model.len())
                && !model.chars().any(char::is_control) =>
        {
            Ok(())
        }
        None | Some(Value::Null) => Err(model_missing(object)),
        Some(_) => {
            let says = format!(
                "The field model must be a string of 1 to {MODEL_BYTES_MAX} bytes without control \
                    characters."
            );
            Err(Refusal::new(Code::FieldInvalid).saying(says).at("model"))
        }
    }
}

/// The refusal for a body without `model`. It names a similar key, such as `Model`.
fn model_missing(object: &Object<'_>) -> Refusal {
    for (key, _) in object.iter() {
        // Some servers compare keys without regard to case. They would read this key as the model.
        if key != "model" && fold(key) == "model" {
            let path = Path::Key(&Path::Root, key).to_string();
            let says = format!(
                "The field {path} is not allowed: it is not \"model\"; keys are compared exactly."
            );
            return Refusal::new(Code::FieldNotAllowed).saying(says).at(path);
        }
    }
    Refusal::new(Code::FieldMissing).saying("The field model is required.").at("model")
}

/// The model's name in a body; empty if it has none. [`read`] refuses such a body.
fn model_of<'b>(object: &'b Object<'_>) -> &'b str {
    object.text("model").unwrap_or_default()
}

/// The shape of an operation's body in a profile; `None` if it has no body.
fn shape_of(profile: &Profile, operation: Operation) -> Option<&Shape> {
    profile.shape(operation.shape()?)
}

/// The rules by which a body is validated.
pub struct BodyRules<'t> {
    /// The fields that the server knows.
    pub profile: &'t Profile,
    /// The action for fields that the profile does not contain.
    pub unknown_fields: UnknownFields,
    /// The name of the model at the server.
    pub model_upstream: &'t str,
}

impl<'b> ParsedBody<'b> {
    /// The model's name as the caller wrote it.
    #[must_use]
    pub fn model(&self) -> &str {
        model_of(&self.object)
    }

    /// Validates every field at every depth.
    ///
    /// # Errors
    /// `field-not-allowed`, `field-invalid` or `field-missing`, with the JSON path.
    pub fn understand(self, terms: &BodyRules<'_>) -> Result<ModelCall<'b>, Refusal> {
        let Self { operation, mut object, length } = self;
        let Some(shape) = shape_of(terms.profile, operation) else {
            return Err(Refusal::new(Code::Internal).because("this operation has no body"));
        };
        let mut judge = BodyValidator::new(terms.profile, terms.unknown_fields);
        operation.dialect().prepare(&mut object, &mut judge.dropped);
        judge.shape(shape, &mut object, &Path::Root)?;
        let BodyValidator { mut external_references, dropped, .. } = judge;
        let gateway = Arc::clone(&terms.profile.gateway);
        // This server also fetches the images that a text refers to in Markdown.
        if gateway.markdown_images {
            external_references.extend(markdown::external_references(&object)?);
        }
        let asked = output_cap::asked(operation, &gateway, &object)?;
        // The validator has checked the types. `null` is the same as a missing field.
        let stream = match object.get("stream") {
            Some(Value::Bool(stream)) => *stream,
            Some(_) | None => operation.dialect().streams_by_default(),
        };
        let stream = operation.writes_tokens() && stream;
        let options = object.object("stream_options");
        let usage_asked = options.is_some_and(|options| options.is_true("include_usage"));
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
            declared: None,
        })
    }
}

/// A call to a model. Every field of it was validated.
pub struct ModelCall<'b> {
    /// The requested operation.
    operation: Operation,
    /// The validated body.
    pub(super) object: Object<'b>,
    /// The length in bytes of the body that was read. The written body has about the same length.
    length: usize,
    /// The name of the model at the server.
    model_upstream: String,
    /// The fields that the gateway writes.
    gateway: Arc<GatewayFields>,
    /// The cap on output tokens that the caller requested.
    asked: Option<u64>,
    /// Whether the caller requested a stream.
    stream: bool,
    /// Whether the caller requested usage in the stream.
    usage_asked: bool,
    /// The references that the server would fetch or call.
    pub(super) external_references: Vec<ExternalReference>,
    /// The references that [`ModelCall::strip`] removed.
    pub(super) stripped: Vec<ExternalReference>,
    /// The references that content will replace.
    pub(super) inline_slots: Vec<ExternalReference>,
    /// The paths of fields that were removed.
    dropped: Vec<String>,
    /// The declared part, at a route that the operator declares.
    declared: Option<DeclaredBody<'b>>,
}

/// The values that the gateway writes into a body.
pub struct BodyChanges {
    /// The cap on the output tokens of each choice, if there is one. The written cap is the smaller
    /// of this value and the caller's.
    pub output_tokens: Option<u64>,
    /// The id of the request. It is written if the server has a field for it.
    pub request_id: Option<String>,
    /// The salt of the prompt cache. It is written if the server has a field for it.
    pub cache_salt: Option<String>,
}

/// A body for the server.
pub struct WrittenBody {
    /// Compact JSON.
    pub body: Vec<u8>,
    /// The cap on output tokens in this body, if there is one.
    pub output_tokens: Option<u64>,
    /// True when the caller requested a higher cap.
    pub clamped: bool,
    /// Where the body goes, at a declared route.
    pub target: Option<DeclaredTarget>,
}

impl<'b> ModelCall<'b> {
    /// A call at a declared route.
    pub(super) fn declared(
        declared: DeclaredBody<'b>,
        object: Object<'b>,
        asked: Option<u64>,
        external_references: Vec<ExternalReference>,
        terms: &BodyRules<'_>,
    ) -> Self {
        Self {
            operation: Operation::Declared,
            object,
            length: declared.received.len(),
            model_upstream: terms.model_upstream.to_owned(),
            gateway: Arc::clone(&terms.profile.gateway),
            asked,
            // The answer is passed on in the form that the server gives it.
            stream: false,
            usage_asked: true,
            external_references,
            stripped: Vec::new(),
            inline_slots: Vec::new(),
            dropped: Vec::new(),
            declared: Some(declared),
        }
    }
}

impl ModelCall<'_> {
    /// The requested operation.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The model's name as the caller wrote it.
    #[must_use]
    pub fn model(&self) -> &str {
        match &self.declared {
            Some(declared) => declared.model(),
            None => model_of(&self.object),
        }
    }

    /// The declared route of the call, if it has one.
    #[must_use]
    pub fn route(&self) -> Option<&DeclaredRoute> {
        Some(self.declared.as_ref()?.route())
    }

    /// True if the server writes the answer token by token, so that a cap on output tokens applies.
    #[must_use]
    pub fn writes_tokens(&self) -> bool {
        match self.route() {
            Some(route) => route.writes_tokens(),
            None => self.operation.writes_tokens(),
        }
    }

    /// True when the caller requests a stream.
    #[must_use]
    pub const fn stream(&self) -> bool {
        self.stream
    }

    /// The cap on output tokens that the caller requested, for each choice.
    #[must_use]
    pub const fn output_tokens_asked(&self) -> Option<u64> {
        self.asked
    }

    /// The number of requested answers: `n` times the prompts of a completion, or `best_of` if that
    /// is more.
    #[must_use]
    pub fn choices(&self) -> u64 {
        if let Some(declared) = &self.declared {
            return declared.choices(&self.object);
        }
        let prompts = match (self.operation, self.object.get("prompt")) {
            (Operation::Completions, Some(Value::Array(items)))
                // An array of numbers is one prompt in tokens. Any other array is a list of
                // prompts.
                if !items.iter().all(|item| matches!(item, Value::Number(_))) =>
            {
                items.len() as u64
            }
            _ => 1,
        };
        // A server generates `best_of` answers and returns `n` of them. All of them use tokens.
        self.count("n").max(self.count("best_of")).saturating_mul(prompts)
    }

    /// The number in a field, at least 1. It is 1 if the field is absent.
    fn count(&self, field: &str) -> u64 {
        match self.object.number(field) {
            Some(number) => number.max(1),
            None => 1,
        }
    }

    /// The cap on output tokens that is written: `max`, or the caller's if that is smaller. `None`
    /// without both, and for operations without output tokens.
    fn written_cap(&self, max: Option<u64>) -> Option<u64> {
        if !self.writes_tokens() {
            return None;
        }
        self.asked.into_iter().chain(max).min()
    }

    /// True when the caller requested usage at the end of its stream.
    #[must_use]
    pub const fn usage_asked(&self) -> bool {
        self.usage_asked
    }

    /// All references that would make the server connect to another host.
    #[must_use]
    pub fn external_references(&self) -> &[ExternalReference] {
        &self.external_references
    }

    /// The paths of the fields that were removed.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Writes the call for the server: the caller's keys in their order, and the fields that the
    /// gateway sets.
    #[must_use]
    pub fn write(&self, changes: &BodyChanges) -> WrittenBody {
        let (gateway, dialect) = (&*self.gateway, self.operation.dialect());
        let cap_name = gateway.cap_name(self.operation);
        let cap_names = gateway.cap_names(self.operation);
        // The written cap is never higher than the gateway's. It limits what an answer can cost.
        let cap = self.written_cap(changes.output_tokens);
        let clamped = self.asked.is_some_and(|asked| cap.is_some_and(|cap| asked > cap));
        if let Some(declared) = &self.declared {
            // Without a cap of the gateway, the caller's stays as it is.
            let set = if changes.output_tokens.is_some() { cap } else { None };
            let WrittenDeclared { body, target } =
                written(declared, &self.object, &self.model_upstream, set);
            return WrittenBody { body, output_tokens: cap, clamped, target: Some(target) };
        }
        let server_fields = dialect.has_server_fields();
        // Without the usage at the end of a stream, the record would have only an upper bound of
        // the tokens.
        let force_usage = self.stream && gateway.include_usage && server_fields;
        let mut out =
            ObjectWriter { body: Vec::with_capacity(self.length.saturating_add(256)), first: true };
        let (mut cap_left, mut usage_left) = (cap, force_usage);
        let nested = dialect.nested_cap();
        for (key, value) in self.object.iter() {
            // The caller's name may be an alias. The server gets its own name for the model.
            if key == "model" {
                out.text("model", &self.model_upstream);
            } else if let Some(nested) = nested.filter(|nested| nested.object == key)
                && let Some(cap) = cap_left.take()
            {
                out.value(key, &nested.with(value, cap));
            } else if nested.is_none() && cap.is_some() && cap_names.contains(&key) {
                // One cap only, under the name that this server knows.
                if let Some(cap) = cap_left.take() {
                    out.value(cap_name, &Value::from_u64(cap));
                }
            } else if key == "store" && dialect.stores_answers() {
                // Written below, whether the caller sent it or not.
            } else if force_usage && key == "stream_options" {
                out.value(key, &Value::Object(self.stream_options(value)));
                usage_left = false;
            } else {
                out.value(key, value);
            }
        }
        // The caller sent no cap.
        if let Some(cap) = cap_left {
            match nested {
                Some(nested) => out.value(nested.object, &nested.with(&Value::Null, cap)),
                None => out.value(cap_name, &Value::from_u64(cap)),
            }
        }
        // Without the field, a server stores the answer.
        if dialect.stores_answers() {
            out.value("store", &Value::Bool(false));
        }
        if usage_left {
            out.value("stream_options", &Value::Object(self.stream_options(&Value::Null)));
        }
        for (has, field, content) in [
            (server_fields, &gateway.request_id, &changes.request_id),
            (dialect.has_cache_salt(), &gateway.cache_salt, &changes.cache_salt),
        ] {
            if let (true, Some(field), Some(content)) = (has, field, content) {
                out.text(field, content);
            }
        }
        WrittenBody { body: out.end(), output_tokens: cap, clamped, target: None }
    }

    /// The caller's stream options with usage turned on. `continuous_usage_stats` stays only if the
    /// caller requested usage.
    fn stream_options<'v>(&self, own: &Value<'v>) -> Object<'v> {
        let mut options = if let Value::Object(own) = own { own.clone() } else { Object::new() };
        // Usage in every chunk would reach the caller, because only the last usage chunk is
        // removed.
        if !self.usage_asked {
            options.remove("continuous_usage_stats");
        }
        options.set("include_usage", Value::Bool(true));
        options
    }
}

/// Writes a JSON object, one member after the other.
struct ObjectWriter {
    /// The bytes so far.
    body: Vec<u8>,
    /// True before the first member.
    first: bool,
}

impl ObjectWriter {
    /// Writes a key, with the bracket or comma before it.
    fn key(&mut self, key: &str) {
        self.body.push(if std::mem::take(&mut self.first) { b'{' } else { b',' });
        write_string(key, &mut self.body);
        self.body.push(b':');
    }

    /// Writes a member.
    fn value(&mut self, key: &str, value: &Value<'_>) {
        self.key(key);
        json::write(value, &mut self.body);
    }

    /// Writes a member that is a string.
    fn text(&mut self, key: &str, text: &str) {
        self.value(key, &Value::String(Cow::Borrowed(text)));
    }

    /// Closes the object and returns its bytes. An object without members is `{}`.
    fn end(mut self) -> Vec<u8> {
        if self.first {
            self.body.push(b'{');
        }
        self.body.push(b'}');
        self.body
    }
}
