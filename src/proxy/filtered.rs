//! The response filters applied to complete answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::guard::egress::answer::ResponseFilters;
use crate::guard::egress::findings::Findings;
use crate::json::{self, Limits, Value};
use crate::model::answer::StreamFilter;
use crate::model::redact::Redactor;
use crate::model::{Operation, refused_call, response_text, tools};
use crate::proxy::beside::beside;
use crate::proxy::exchange::Exchange;
use crate::refusal::{Code, Refusal};

/// A complete answer with its texts filtered.
pub(super) async fn filtered(
    operation: Operation,
    bytes: Bytes,
    status: u16,
    filter: ResponseFilters,
    exchange: &mut Exchange,
) -> Result<Bytes, Refusal> {
    let (length, redactor, error) =
        (bytes.len(), Arc::clone(&exchange.config.redactor), status >= 400);
    let filtered = beside(length, exchange, move || {
        let filtered = looked_through(operation, bytes, filter);
        let bytes = filtered.bytes.map(|bytes| redacted(&redactor, bytes, error));
        FilteredAnswer { bytes, ..filtered }
    });
    let FilteredAnswer { bytes, findings, replaced } = filtered.await?;
    exchange.found(&findings);
    exchange.adjustments.removed = findings.removed;
    if let Some(refusal) = &replaced {
        exchange.replaced(refusal);
    }
    bytes
}

/// A plain text with its references filtered.
///
/// # Errors
/// `upstream-invalid` for a text that is not UTF-8; a refusal of the filters.
pub(super) async fn plain_text(
    bytes: Bytes,
    status: u16,
    filter: ResponseFilters,
    exchange: &mut Exchange,
) -> Result<Bytes, Refusal> {
    let Ok(text) = std::str::from_utf8(&bytes) else { return Err(invalid("no text in UTF-8")) };
    // The filters read texts in JSON. So the text passes them as the only one of a document.
    let mut document = b"{\"text\":".to_vec();
    json::write_string(text, &mut document);
    document.push(b'}');
    let filtered =
        filtered(Operation::Declared, Bytes::from(document), status, filter, exchange).await?;
    let value = json::parse(&filtered, &Limits::deep(2)).map_err(invalid)?;
    match value.member("text") {
        Some(Value::String(text)) => Ok(Bytes::from(text.to_string())),
        Some(_) | None => Err(Code::Internal.into()),
    }
}

/// The bytes of an answer without the gateway's own secrets. `error` is true for an error's body.
fn redacted(redactor: &Redactor, bytes: Bytes, error: bool) -> Bytes {
    match redactor.whole(&bytes, error) {
        Some(redacted) => Bytes::from(redacted),
        None => bytes,
    }
}

/// The refusal for an answer whose form is invalid.
fn invalid(fault: impl fmt::Display) -> Refusal {
    Refusal::new(Code::UpstreamInvalid).because(fault)
}

/// A complete answer after its filters.
struct FilteredAnswer {
    /// The bytes, or why they are not sent.
    bytes: Result<Bytes, Refusal>,
    /// The findings. They are recorded even with a refusal.
    findings: Findings,
    /// The refusal of a tool call that a text has replaced.
    replaced: Option<Refusal>,
}

/// Applies the response filters to the tool calls and the texts of a complete answer.
fn looked_through(
    operation: Operation,
    bytes: Bytes,
    mut filter: ResponseFilters,
) -> FilteredAnswer {
    let text =
        |filter: &ResponseFilters| filter.first().findings().replacement().map(str::to_owned);
    // Under another action the calls are evaluated below, and each finding counts once.
    let replaced = match filter.first().replaces_calls() {
        true => refused_call::whole(operation, &bytes, &mut filter, &text),
        false => None,
    };
    let is_replaced = replaced.is_some();
    let bytes = match replaced {
        Some(replaced) => Bytes::from(replaced),
        None => bytes,
    };
    // After a replacement, no call that is left may be refused.
    let called = tools::whole(&bytes, &mut filter);
    let changed = response_text::whole(&bytes, &mut filter);
    let findings = filter.into_parts().0.into_findings();
    let passes = match (&called, is_replaced && findings.replacement().is_some()) {
        (Ok(true) | Err(_), true) => Ok(()),
        (Ok(_) | Err(_), _) => findings.passes(),
    };
    // A finding that refuses the answer comes before a fault of its form: it is the more exact
    // reason.
    let looked = match (passes, called, changed) {
        (Err(refusal), _, _) => Err(refusal),
        (Ok(()), Err(fault), _) | (Ok(()), Ok(_), Err(fault)) => Err(invalid(fault)),
        (Ok(()), Ok(_), Ok(Some(changed))) => Ok(Bytes::from(changed)),
        (Ok(()), Ok(_), Ok(None)) => Ok(bytes),
    };
    let replaced = is_replaced.then(|| findings.refusal());
    FilteredAnswer { bytes: looked, findings, replaced }
}

/// A stream after its filter.
pub(super) struct Through {
    /// The filtered pieces.
    pieces: Vec<Vec<u8>>,
    /// The filter, with its findings.
    filter: StreamFilter<ResponseFilters>,
    /// Whether a text has replaced a refused tool call.
    is_replaced: bool,
}

/// Filters the pieces of a stream.
///
/// # Errors
/// `upstream-invalid` if a piece cannot be parsed.
pub(super) fn through(
    pieces: Vec<Vec<u8>>,
    mut filter: StreamFilter<ResponseFilters>,
) -> Result<Through, Refusal> {
    let (mut passed, mut is_replaced) = (Vec::with_capacity(pieces.len()), false);
    for piece in pieces {
        let mut out = Vec::with_capacity(piece.len());
        filter.push(&piece, &mut out).map_err(invalid)?;
        passed.push(out);
        // The pieces after the refused call are not sent.
        if let Some(text) = filter.filters().first().findings().replacement().map(str::to_owned) {
            let end = filter.end_with(&text);
            // Held text may have a finding that blocks the answer.
            is_replaced =
                end.is_some() && filter.filters().first().findings().replacement().is_some();
            passed.extend(end);
            break;
        }
    }
    Ok(Through { pieces: passed, filter, is_replaced })
}

/// Records what the filter found, then checks whether the findings allow the answer.
pub(super) fn noted(passed: Through, exchange: &mut Exchange) -> Result<Vec<Vec<u8>>, Refusal> {
    let Through { pieces, filter, is_replaced } = passed;
    let findings = filter.filters().first().findings();
    exchange.found(findings);
    if is_replaced {
        // The usage of the whole answer is known already. The stream ends before its report.
        exchange.replaced(&findings.refusal());
        return Ok(pieces);
    }
    exchange.heard(filter.heard());
    findings.passes()?;
    Ok(pieces)
}
