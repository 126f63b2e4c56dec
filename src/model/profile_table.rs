//! Reads the values of a profile's TOML tables. Each error names the key.

use toml::{Table, Value};

use super::kind::{Rule, rule};

/// The reasons why a text is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileFault {
    /// It is not TOML.
    #[error("the profile is not TOML: {0}")]
    Toml(String),
    /// Its base is not one of [`super::Profile::NAMES`].
    #[error("base = {0:?}: there is no such built-in profile")]
    Base(String),
    /// A key is missing, unknown, or of the wrong type.
    #[error("{key}: {what}")]
    Key {
        /// The key with its table.
        key: String,
        /// The description of the fault.
        what: String,
    },
}

/// A [`ProfileFault::Key`].
pub(super) fn fault(key: impl Into<String>, what: impl Into<String>) -> ProfileFault {
    ProfileFault::Key { key: key.into(), what: what.into() }
}

/// The table under a key, which must be present.
pub(super) fn sub_table<'t>(table: &'t Table, key: &str) -> Result<&'t Table, ProfileFault> {
    match table.get(key) {
        Some(value) => as_table(value, key),
        None => Err(fault(key, "must be a table")),
    }
}

/// A value that must be a table. `key` is for the error.
pub(super) fn as_table<'t>(value: &'t Value, key: &str) -> Result<&'t Table, ProfileFault> {
    match value.as_table() {
        Some(table) => Ok(table),
        None => Err(fault(key, "must be a table")),
    }
}

/// The string under a key, if it is present.
pub(super) fn text_at(table: &Table, key: &str) -> Result<Option<String>, ProfileFault> {
    match table.get(key) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(fault(key, "must be a string")),
        None => Ok(None),
    }
}

/// The array of strings under a key, which must be present.
pub(super) fn texts_at(table: &Table, key: &str) -> Result<Vec<String>, ProfileFault> {
    let Some(Value::Array(items)) = table.get(key) else {
        return Err(fault(key, "must be an array of strings"));
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let Value::String(text) = item else {
            return Err(fault(key, "must be an array of strings"));
        };
        texts.push(text.clone());
    }
    Ok(texts)
}

/// The boolean under a key; `None` if it is absent or of another type.
pub(super) fn flag_at(table: &Table, key: &str) -> Option<bool> {
    table.get(key)?.as_bool()
}

/// The number under a key; `None` if it is absent, negative or of another type.
pub(super) fn size_at(table: &Table, key: &str) -> Option<usize> {
    usize::try_from(table.get(key)?.as_integer()?).ok()
}

/// Parses the rule in a string value. `key` is for the error.
pub(super) fn rule_at(key: &str, value: &Value) -> Result<Rule, ProfileFault> {
    let Some(text) = value.as_str() else { return Err(fault(key, "must be a string")) };
    rule(text).map_err(|error| fault(key, error.to_string()))
}
