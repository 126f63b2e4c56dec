//! The list of models in the caller's dialect.

use crate::clock::Timestamp;
use crate::json::{Object, Value, write};

use super::Dialect;

/// A model that a caller may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name to ask for it.
    pub id: String,
    /// Seconds since 1970; zero where nobody knows.
    pub created: i64,
    /// Who serves it.
    pub owner: String,
}

/// The list.
#[must_use]
pub fn list(dialect: Dialect, entries: &[ModelEntry]) -> Vec<u8> {
    let mut list = Object::new();
    let items = Value::Array(entries.iter().map(|entry| object(dialect, entry)).collect());
    match dialect {
        Dialect::OpenAi => {
            list.set("object", Value::from_text("list"));
            list.set("data", items);
        }
        Dialect::Anthropic => {
            let id = |entry: Option<&ModelEntry>| entry.map_or(Value::Null, |entry| Value::from_text(entry.id.clone()));
            list.set("data", items);
            list.set("has_more", Value::Bool(false));
            list.set("first_id", id(entries.first()));
            list.set("last_id", id(entries.last()));
        }
    }
    print(Value::Object(list))
}

/// One model.
#[must_use]
pub fn one(dialect: Dialect, entry: &ModelEntry) -> Vec<u8> {
    print(object(dialect, entry))
}

fn object(dialect: Dialect, entry: &ModelEntry) -> Value<'_> {
    let mut object = Object::new();
    match dialect {
        Dialect::OpenAi => {
            object.set("id", Value::from_text(entry.id.as_str()));
            object.set("object", Value::from_text("model"));
            object.set("created", Value::Number(entry.created.to_string().into()));
            object.set("owned_by", Value::from_text(entry.owner.as_str()));
        }
        Dialect::Anthropic => {
            object.set("type", Value::from_text("model"));
            object.set("id", Value::from_text(entry.id.as_str()));
            object.set("display_name", Value::from_text(entry.id.as_str()));
            object.set("created_at", Value::from_text(Timestamp(entry.created.saturating_mul(1000)).to_string()));
        }
    }
    Value::Object(object)
}

fn print(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&value, &mut out);
    out
}
