//! Typed members of events with calls. A member of a type that the dialect does not define is an
//! error, because some clients still use its value.

use super::ToolCallFault;
use crate::model::tree::JsonView;

/// A member that is present and not null.
pub(in crate::model) fn member<'t>(of: JsonView<'t>, key: &str) -> Option<JsonView<'t>> {
    let value = of.get(key)?;
    if value.is_null() { None } else { Some(value) }
}

/// A member that is an object.
///
/// # Errors
/// When it has another type.
pub(in crate::model) fn object<'t>(
    of: JsonView<'t>,
    key: &str,
) -> Result<Option<JsonView<'t>>, ToolCallFault> {
    match member(of, key) {
        Some(value) if !value.is_object() => Err(ToolCallFault::Odd),
        found => Ok(found),
    }
}

/// A member that is an array.
///
/// # Errors
/// When it has another type.
pub(in crate::model) fn array<'t>(
    of: JsonView<'t>,
    key: &str,
) -> Result<Option<JsonView<'t>>, ToolCallFault> {
    match member(of, key) {
        Some(value) if !value.is_array() => Err(ToolCallFault::Odd),
        found => Ok(found),
    }
}

/// A member that is a string.
///
/// # Errors
/// When it has another type.
pub(in crate::model) fn text<'t>(
    of: JsonView<'t>,
    key: &str,
) -> Result<Option<&'t str>, ToolCallFault> {
    let Some(value) = member(of, key) else { return Ok(None) };
    match value.as_str() {
        Some(text) => Ok(Some(text)),
        None => Err(ToolCallFault::Odd),
    }
}

/// The member `index` of an object, if it is present.
///
/// # Errors
/// When it is no unsigned integer.
pub(in crate::model) fn number(of: JsonView<'_>) -> Result<Option<u64>, ToolCallFault> {
    let Some(value) = member(of, "index") else { return Ok(None) };
    match value.as_u64() {
        Some(index) => Ok(Some(index)),
        None => Err(ToolCallFault::Odd),
    }
}
