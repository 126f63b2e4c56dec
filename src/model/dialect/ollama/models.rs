//! Models and model lists in Ollama's form. Facts that the gateway does not know are empty.

use crate::clock::Timestamp;
use crate::json::{Object, Value};
use crate::model::convert::{of, text};
use crate::model::dialect::ModelEntry;

/// The abilities that are shown for every model. The gateway does not know those of the weights.
const CAPABILITIES: [&str; 2] = ["completion", "tools"];

/// The answer to `tags`.
pub(in crate::model::dialect) fn list(entries: &[ModelEntry]) -> Value<'_> {
    of([("models", Value::Array(entries.iter().map(item).collect()))])
}

/// A model in a list.
fn item(entry: &ModelEntry) -> Value<'_> {
    of([
        ("name", Value::from_text(entry.id.as_str())),
        ("model", Value::from_text(entry.id.as_str())),
        ("modified_at", modified(entry)),
        ("size", Value::from_u64(0)),
        ("digest", text("")),
        ("details", details()),
    ])
}

/// The answer to `show`.
pub(in crate::model::dialect) fn one(entry: &ModelEntry) -> Value<'_> {
    of([
        ("modelfile", text("")),
        ("parameters", text("")),
        ("template", text("")),
        ("details", details()),
        ("model_info", of([("general.basename", Value::from_text(entry.id.as_str()))])),
        ("capabilities", Value::Array(CAPABILITIES.into_iter().map(text).collect())),
        ("modified_at", modified(entry)),
    ])
}

/// The time of the model's last change.
fn modified(entry: &ModelEntry) -> Value<'_> {
    Value::from_text(Timestamp(entry.created.saturating_mul(1000)).to_string())
}

/// The facts of a model file, all of them unknown.
fn details<'v>() -> Value<'v> {
    let mut details = Object::new();
    for name in ["parent_model", "format", "family"] {
        details.set(name, text(""));
    }
    details.set("families", Value::Array(Vec::new()));
    for name in ["parameter_size", "quantization_level"] {
        details.set(name, text(""));
    }
    Value::Object(details)
}
