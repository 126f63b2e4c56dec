//! Errors in Ollama's form.

use crate::json::write_string;
use crate::refusal::Refusal;

/// Appends the body of an error. Ollama's clients read `error`, a text, and ignore other members.
pub(in crate::model::dialect) fn body(refusal: &Refusal, request: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"error\":");
    write_string(&refusal.message, out);
    out.extend_from_slice(b",\"param\":");
    match &refusal.param {
        Some(param) => write_string(param, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"code\":");
    write_string(refusal.code.as_str(), out);
    out.extend_from_slice(b",\"request\":");
    write_string(request, out);
    out.push(b'}');
}
