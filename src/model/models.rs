//! Models and model lists in the caller's dialect.

use crate::json::{Value, write};

use super::Dialect;

pub use super::dialect::ModelEntry;

/// The list of models.
#[must_use]
pub fn list(dialect: Dialect, entries: &[ModelEntry]) -> Vec<u8> {
    print(&dialect.model_list(entries))
}

/// One model.
#[must_use]
pub fn one(dialect: Dialect, entry: &ModelEntry) -> Vec<u8> {
    print(&dialect.model(entry))
}

/// The value as JSON bytes.
fn print(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}
