//! Names of members that some clients read as the name of a member of a tool call.

use crate::json::Value;
use crate::model::dialect::calls::is_watched;
use crate::model::fold::{fold, is_folded};
use crate::model::tree::JsonTree;
use crate::model::unreadable::Unreadable;

/// Whether a name differs only in case from a name that the call readers look at. Some clients do
/// not distinguish them.
fn is_look_alike(name: &str) -> bool {
    !is_folded(name) && !is_watched(name) && is_watched(&fold(name))
}

/// Whether a member contains the arguments of a call, or the caller's tools and metadata, which a
/// response repeats. The names inside them belong to the tool or to the caller.
fn has_own_names(name: &str) -> bool {
    matches!(name, "arguments" | "format" | "input" | "metadata" | "tools")
}

/// Returns an error if a member of a whole answer has a similar name.
pub(super) fn exact(value: &Value<'_>) -> Result<(), Unreadable> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Array(items) => items.iter().try_for_each(exact)?,
        Value::Object(object) => {
            for (name, value) in object.iter() {
                if is_look_alike(name) {
                    return Err(Unreadable::Json);
                }
                if !has_own_names(name) {
                    exact(value)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns an error if a member of an event has a similar name.
pub(super) fn exact_names(event: &JsonTree<'_>) -> Result<(), Unreadable> {
    if event.has_name(is_look_alike, has_own_names) { Err(Unreadable::Json) } else { Ok(()) }
}
