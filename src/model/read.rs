//! From bytes to a [`ModelCall`].

use crate::json::{self, Object, Value};
use crate::model::call::ModelCall;
use crate::model::profile::Rule;
use crate::model::walk::Walk;
use crate::model::{Operation, Profile, UnknownFields};
use crate::refusal::{Code, Refusal};

/// Arrays and objects that may be open at once in a body.
const DEPTH_MAX: usize = 64;
/// Longest model name, in bytes.
const MODEL_MAX: usize = 256;
/// Answers that one request may ask for.
const CHOICES_MAX: u64 = 16;
/// What the cap on output tokens is called by callers.
pub(super) const CAPS: [&str; 4] = ["max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens"];

/// A body that is strict JSON and names a model.
pub struct Reading<'b> {
    operation: Operation,
    root: Object<'b>,
    model: String,
}

/// What a body is judged by.
pub struct Terms<'t> {
    /// What the server understands.
    pub profile: &'t Profile,
    /// What happens to other fields.
    pub unknown_fields: UnknownFields,
    /// What the server calls the model.
    pub model_upstream: &'t str,
}

/// Reads a body strictly.
///
/// # Errors
/// `json-invalid`, `field-missing` or `field-invalid`.
pub fn read(operation: Operation, body: &[u8]) -> Result<Reading<'_>, Refusal> {
    let invalid = |fault: json::Fault| Refusal::new(Code::JsonInvalid).saying(format!("The body is not one strict JSON object: {fault}."));
    let value = json::parse(body, &json::Limits { depth: DEPTH_MAX }).map_err(invalid)?;
    let Value::Object(root) = value else {
        return Err(Refusal::new(Code::JsonInvalid).saying("The body must be a JSON object."));
    };
    let model = match root.get("model") {
        Some(Value::String(model)) if !model.is_empty() && model.len() <= MODEL_MAX => model.to_string(),
        Some(_) => return Err(Refusal::new(Code::FieldInvalid).saying("model must be a string of 1 to 256 bytes.").at("model")),
        None => return Err(Refusal::new(Code::FieldMissing).saying("model is required.").at("model")),
    };
    Ok(Reading { operation, root, model })
}

impl<'b> Reading<'b> {
    /// The model that is asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Judges every field by the server's profile.
    ///
    /// # Errors
    /// `field-not-allowed`, `field-invalid` or `field-missing`, with the path.
    pub fn understand(mut self, terms: &Terms<'_>) -> Result<ModelCall<'b>, Refusal> {
        let (operation, profile) = (self.operation, terms.profile);
        let mut walk = Walk::new(terms.unknown_fields, profile.name());
        let mut gone: Vec<String> = Vec::new();
        for (key, value) in self.root.iter_mut() {
            match profile.rule(operation, key) {
                Some((name, Rule::Pass(shape))) => walk.member(name, shape, value)?,
                Some((name, Rule::Drop)) => {
                    walk.dropped.push(name.to_owned());
                    gone.push(name.to_owned());
                }
                Some((name, Rule::Reach(kind))) => {
                    // `false`, null and an empty list say that nothing is wanted.
                    let unset = matches!(value, Value::Null | Value::Bool(false)) || value.as_array().is_some_and(<[_]>::is_empty);
                    if !unset {
                        walk.reach(name, kind, value.as_str().unwrap_or_default());
                    }
                    gone.push(name.to_owned());
                }
                Some((name, Rule::Refuse)) => {
                    let says = format!("{name} is never taken from a caller.");
                    return Err(Refusal::new(Code::FieldNotAllowed).saying(says).at(name));
                }
                None => {
                    walk.unknown_field(key, profile.known(operation))?;
                    gone.push(key.to_owned());
                }
            }
        }
        self.root.retain(|key| !gone.iter().any(|dropped| dropped == key));
        self.required(&walk)?;
        let output_tokens_asked = self.output_tokens(&walk)?;
        let choices = self.choices(&walk)?;
        let stream = self.root.get("stream").and_then(Value::as_bool).unwrap_or(false);
        Ok(ModelCall {
            operation,
            model: self.model,
            model_upstream: terms.model_upstream.to_owned(),
            cap: profile.cap,
            stream_usage: profile.stream_usage && operation != Operation::Messages,
            stream,
            output_tokens_asked,
            choices,
            reaches: walk.reaches,
            dropped: walk.dropped,
            root: self.root,
        })
    }

    fn required(&self, walk: &Walk<'_>) -> Result<(), Refusal> {
        let needed: &[&str] = match self.operation {
            Operation::ChatCompletions => &["messages"],
            Operation::Completions => &["prompt"],
            Operation::Embeddings => &["input"],
            Operation::Messages => &["messages", "max_tokens"],
            Operation::ListModels | Operation::ShowModel => &[],
        };
        let set = |key: &str| self.root.get(key).is_some_and(|value| *value != Value::Null);
        needed.iter().find(|key| !set(key)).map_or(Ok(()), |key| walk.missing(key))
    }

    /// The caller's own cap, under whichever of its names; two of them at once are refused.
    fn output_tokens(&self, walk: &Walk<'_>) -> Result<Option<u64>, Refusal> {
        let mut asked = None;
        for name in CAPS {
            let Some(value) = self.root.get(name).filter(|value| **value != Value::Null) else { continue };
            if let Some((other, _)) = asked {
                return walk.invalid(name, &format!("left out next to {other}"));
            }
            match value.as_u64().filter(|tokens| *tokens > 0) {
                Some(tokens) => asked = Some((name, tokens)),
                None => return walk.invalid(name, "a whole number from 1 on"),
            }
        }
        Ok(asked.map(|(_, tokens)| tokens))
    }

    fn choices(&self, walk: &Walk<'_>) -> Result<u64, Refusal> {
        let mut choices = 1;
        for name in ["n", "best_of"] {
            match self.root.get(name).filter(|value| **value != Value::Null).map(Value::as_u64) {
                None => {}
                Some(Some(number)) if (1..=CHOICES_MAX).contains(&number) => choices = choices.max(number),
                Some(_) => return walk.invalid(name, "from 1 to 16"),
            }
        }
        Ok(choices)
    }
}
