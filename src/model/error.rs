//! A refusal in the caller's dialect, so that unmodified SDKs raise their typed errors.

use crate::json::write_string;
use crate::refusal::Refusal;

use super::Dialect;

/// The body of an answer that says no.
#[must_use]
pub fn body(dialect: Dialect, refusal: &Refusal, request: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    match dialect {
        Dialect::OpenAi => {
            out.extend_from_slice(b"{\"error\":{\"message\":");
            told(refusal, kind(dialect, refusal.code.status()), &mut out);
            out.extend_from_slice(b",\"request\":");
            write_string(request, &mut out);
            out.extend_from_slice(b"}}");
        }
        Dialect::Anthropic => {
            out.extend_from_slice(b"{\"type\":\"error\",\"error\":{\"message\":");
            told(refusal, kind(dialect, refusal.code.status()), &mut out);
            out.extend_from_slice(b"},\"request_id\":");
            write_string(request, &mut out);
            out.push(b'}');
        }
    }
    out
}

/// The last event of a stream that is cut.
#[must_use]
pub fn event(dialect: Dialect, refusal: &Refusal, request: &str) -> Vec<u8> {
    let front: &[u8] = match dialect {
        Dialect::OpenAi => b"data: ",
        Dialect::Anthropic => b"event: error\ndata: ",
    };
    let mut out = front.to_vec();
    out.extend_from_slice(&body(dialect, refusal, request));
    out.extend_from_slice(b"\n\n");
    out
}

/// Message, type, param and code: the members that both dialects share.
fn told(refusal: &Refusal, kind: &str, out: &mut Vec<u8>) {
    write_string(&refusal.message, out);
    out.extend_from_slice(b",\"type\":");
    write_string(kind, out);
    out.extend_from_slice(b",\"param\":");
    match &refusal.param {
        Some(param) => write_string(param, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"code\":");
    write_string(refusal.code.as_str(), out);
}

/// The dialect's own word for errors of that HTTP status.
const fn kind(dialect: Dialect, status: u16) -> &'static str {
    match (status, dialect) {
        (401, _) => "authentication_error",
        (403, _) => "permission_error",
        (404, _) => "not_found_error",
        (429, _) => "rate_limit_error",
        (413, Dialect::Anthropic) => "request_too_large",
        (503, Dialect::Anthropic) => "overloaded_error",
        (504, Dialect::Anthropic) => "timeout_error",
        (500.., Dialect::Anthropic) => "api_error",
        (500.., Dialect::OpenAi) => "server_error",
        (_, _) => "invalid_request_error",
    }
}
