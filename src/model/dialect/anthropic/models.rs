//! Models and model lists in Anthropic's form.

use crate::clock::Timestamp;
use crate::json::{Object, Value};
use crate::model::dialect::ModelEntry;

/// The list of models. It is always complete, so it has no second page.
pub(in crate::model::dialect) fn list(entries: &[ModelEntry]) -> Value<'_> {
    let mut list = Object::new();
    list.set("data", Value::Array(entries.iter().map(one).collect()));
    list.set("has_more", Value::Bool(false));
    list.set("first_id", id(entries.first()));
    list.set("last_id", id(entries.last()));
    Value::Object(list)
}

/// The id of an entry; null for an empty list.
fn id(entry: Option<&ModelEntry>) -> Value<'_> {
    match entry {
        Some(entry) => Value::from_text(entry.id.as_str()),
        None => Value::Null,
    }
}

/// One model.
pub(in crate::model::dialect) fn one(entry: &ModelEntry) -> Value<'_> {
    let mut object = Object::new();
    object.set("type", Value::from_text("model"));
    object.set("id", Value::from_text(entry.id.as_str()));
    object.set("display_name", Value::from_text(entry.id.as_str()));
    object.set(
        "created_at",
        Value::from_text(Timestamp(entry.created.saturating_mul(1000)).to_string()),
    );
    Value::Object(object)
}
