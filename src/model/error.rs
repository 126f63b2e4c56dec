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

/// The last event of a stream that the gateway ends early.
#[must_use]
pub fn event(dialect: Dialect, refusal: &Refusal, request: &str) -> Vec<u8> {
    let mut out = dialect.error_event_begins().to_vec();
    dialect.write_error(refusal, request, &mut out);
    out.extend_from_slice(b"\n\n");
    out
}
