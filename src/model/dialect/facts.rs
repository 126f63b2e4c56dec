//! What a dialect states of each of its operations.

use super::Dialect;

/// The facts of one operation.
pub(super) struct OperationFacts {
    /// Whose API it belongs to.
    pub(super) dialect: Dialect,
    /// Its name in metrics and records.
    pub(super) name: &'static str,
    /// Its path, at the gateway and at every server that speaks the dialect.
    pub(super) path: &'static str,
    /// The shape of its body in a profile; `None` where it has no body.
    pub(super) shape: Option<&'static str>,
    /// Whether its answer is written token by token, so that an output cap and a stream make sense.
    pub(super) writes_tokens: bool,
}
