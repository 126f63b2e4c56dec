//! Errors in OpenAI's form.

use crate::json::write_string;
use crate::model::dialect::write_error_members;
use crate::refusal::Refusal;

/// The bytes of an error event before the error's body.
pub(in crate::model::dialect) const EVENT_BEGINS: &[u8] = b"data: ";

/// Appends the body of an error.
pub(in crate::model::dialect) fn body(refusal: &Refusal, request: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"error\":{\"message\":");
    write_error_members(refusal, kind(refusal.status()), out);
    out.extend_from_slice(b",\"request\":");
    write_string(request, out);
    out.extend_from_slice(b"}}");
}

/// The type of an error with the given HTTP status.
const fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}
