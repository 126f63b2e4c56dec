//! Names of members that some readers take for the name of a member of a tool call.

use crate::json::Value;
use crate::model::dialect::calls::is_watched;
use crate::model::tree::JsonTree;
use crate::model::unreadable::Unreadable;
use crate::model::validator::{fold, is_folded};

/// Whether a member has the name of one that is looked at here except for its case: some readers take it for that.
fn is_look_alike(name: &str) -> bool {
    !is_folded(name) && !is_watched(name) && is_watched(&fold(name))
}

/// Whether a member is what a tool is called with, which has names of its own.
fn has_own_names(name: &str) -> bool {
    matches!(name, "arguments" | "input")
}

/// That no member of a whole answer is a look-alike.
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

/// That no member of an event is a look-alike.
pub(super) fn exact_names(event: &JsonTree<'_>) -> Result<(), Unreadable> {
    if event.has_name(is_look_alike, has_own_names) { Err(Unreadable::Json) } else { Ok(()) }
}
