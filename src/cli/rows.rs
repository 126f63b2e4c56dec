//! Members of rows: the JSON objects in the replies of a gateway.

use serde_json::Value;

use crate::control::Reply;

/// The text of a member. `None` if the row has no such member, or it is not a text.
pub(super) fn text<'r>(row: &'r Value, name: &str) -> Option<&'r str> {
    row.get(name)?.as_str()
}

/// The text of a member for people. A hyphen if there is none.
pub(super) fn shown<'r>(row: &'r Value, name: &str) -> &'r str {
    text(row, name).unwrap_or("-")
}

/// A copy of a reply's first row. Null if the reply has no rows.
pub(super) fn first(reply: &Reply) -> Value {
    match reply.rows.first() {
        Some(row) => row.clone(),
        None => Value::Null,
    }
}
