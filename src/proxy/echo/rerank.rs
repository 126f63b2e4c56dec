//! The answers of `echo` to `rerank`. The score of a document is the share of the query's words
//! that it contains.

use super::reply::Reply;
use super::request::{EchoRequest, text_in};
use super::words::{self, quoted};
use crate::json::Value;

/// A document with its score.
struct Ranked<'r> {
    /// The index in the request.
    index: usize,
    text: &'r str,
    score: f64,
}

/// Answers `rerank`.
pub(super) fn answer(request: &EchoRequest<'_>) -> Reply {
    let query = match request.member("query") {
        Some(Value::String(query)) => query.as_ref(),
        Some(_) | None => "",
    };
    let mut ranked = Vec::new();
    let mut input = words::count(query);
    for (index, document) in request.items("documents").iter().enumerate() {
        let text = document.as_str().or_else(|| text_in(document, "text")).unwrap_or_default();
        input = input.saturating_add(words::count(text));
        ranked.push(Ranked { index, text, score: score(query, text) });
    }
    // The sort is stable, so documents with equal scores keep their order.
    ranked.sort_by(|one, other| other.score.total_cmp(&one.score));
    let count = request.number("top_n").unwrap_or(u64::MAX);
    ranked.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    let returns = matches!(request.member("return_documents"), Some(Value::Bool(true)));
    let mut results = Vec::new();
    for Ranked { index, text, score } in ranked {
        let document = if returns {
            format!(r#","document":{{"text":{}}}"#, quoted(text))
        } else {
            String::new()
        };
        results.push(format!(r#"{{"index":{index},"relevance_score":{score}{document}}}"#));
    }
    let (id, model, results) = (request.id, quoted(request.model()), results.join(","));
    let usage = format!(r#"{{"prompt_tokens":{input},"total_tokens":{input}}}"#);
    let body =
        format!(r#"{{"id":"rerank-{id}","model":{model},"usage":{usage},"results":[{results}]}}"#);
    Reply::Whole(body.into_bytes())
}

/// The share of the query's words that the text contains, from 0 to 1.
fn score(query: &str, text: &str) -> f64 {
    let (mut found, mut all) = (0_u32, 0_u32);
    for word in query.split_whitespace() {
        all += 1;
        found += u32::from(text.split_whitespace().any(|other| other.eq_ignore_ascii_case(word)));
    }
    f64::from(found) / f64::from(all.max(1))
}
