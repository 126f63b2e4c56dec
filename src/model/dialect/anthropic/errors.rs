//! Errors in Anthropic's form.

use crate::json::write_string;
use crate::model::dialect::write_error_members;
use crate::refusal::Refusal;

/// The bytes of an error event before the error's body.
pub(in crate::model::dialect) const EVENT_BEGINS: &[u8] = b"event: error\ndata: ";

/// Appends the body of an error.
pub(in crate::model::dialect) fn body(refusal: &Refusal, request: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"error\",\"error\":{\"message\":");
    write_error_members(refusal, kind(refusal.status()), out);
    out.extend_from_slice(b"},\"request_id\":");
    write_string(request, out);
    out.push(b'}');
}

/// The type of an error with the given HTTP status.
const fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}
