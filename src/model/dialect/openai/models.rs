//! Models and model lists in OpenAI's form.

use crate::json::{Object, Value};
use crate::model::dialect::ModelEntry;

/// The list of models.
pub(in crate::model::dialect) fn list(entries: &[ModelEntry]) -> Value<'_> {
    let mut list = Object::new();
    list.set("object", Value::from_text("list"));
    list.set("data", Value::Array(entries.iter().map(one).collect()));
    Value::Object(list)
}

/// One model.
pub(in crate::model::dialect) fn one(entry: &ModelEntry) -> Value<'_> {
    let mut object = Object::new();
    object.set("id", Value::from_text(entry.id.as_str()));
    object.set("object", Value::from_text("model"));
    object.set("created", Value::Number(entry.created.to_string().into()));
    object.set("owned_by", Value::from_text(entry.owner.as_str()));
    Value::Object(object)
}
