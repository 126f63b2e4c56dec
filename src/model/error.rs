//! Refusals in the caller's dialect, so that unmodified SDKs raise their typed errors.

use crate::refusal::Refusal;

use super::Dialect;

/// The body of an error answer.
#[must_use]
pub fn body(dialect: Dialect, refusal: &Refusal, request: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    dialect.write_error(refusal, request, &mut out);
    out
}

/// The last events of a stream that the gateway ends early. `after` is the number of the last event
/// that was sent, if the events have numbers.
#[must_use]
pub fn event(dialect: Dialect, refusal: &Refusal, request: &str, after: Option<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    dialect.write_error_event(refusal, request, after, &mut out);
    out
}
