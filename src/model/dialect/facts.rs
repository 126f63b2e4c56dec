//! The constants that a dialect defines for each of its operations.

use super::Dialect;

/// The facts of one operation.
pub(super) struct OperationFacts {
    /// The dialect of the operation.
    pub(super) dialect: Dialect,
    /// The name in metrics and records.
    pub(super) name: &'static str,
    /// The path, at the gateway and at every server of the dialect.
    pub(super) path: &'static str,
    /// The name of the body's shape in a profile; `None` if there is no body.
    pub(super) shape: Option<&'static str>,
    /// Whether the server writes the answer token by token, so that an output cap and a stream
    /// apply.
    pub(super) writes_tokens: bool,
}
