//! The document about refusals.

use super::{Code, Retry};

/// The table as Markdown: docs/REFUSALS.md is this text.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Refusals\n\n\
         For client authors and operators: every refusal code, its status, and whether a retry \
         helps.\n\n\
         This page is generated from `src/refusal.rs`, and a test keeps it equal. Each refusal \
         carries\n`token-shield-request: rq_…`. If a retry cannot help, it also carries \
         `x-should-retry: false`; the\nOpenAI and Anthropic SDKs obey this header. The body has \
         the shape of the caller's dialect. The code\nis in `error.code`; Anthropic bodies also \
         have `error.type`.\n\n\
         | code | stage | status | retry | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::Later => "later",
        };
        text.push_str(&format!(
            "| `{code}` | {} | {} | {retry} | {} |\n",
            code.stage().as_str(),
            code.status(),
            code.meaning()
        ));
    }
    text
}
