//! The values of the header `anthropic-beta`. Only those go to a model server that its profile
//! lists.

use http::{HeaderMap, HeaderValue};

use crate::model::{Dialect, Operation, Profile};

/// The header with the requested beta features (Anthropic API, "Beta headers").
pub const HEADER: &str = "anthropic-beta";
/// The maximum number of values that are read. A client sends about ten.
const VALUES_MAX: usize = 32;
/// The maximum length of one value in bytes.
const VALUE_BYTES_MAX: usize = 64;

/// The beta features that a caller requests.
#[derive(Default)]
pub struct Betas {
    /// The values, in the caller's order.
    asked: Vec<String>,
}

/// The values after the profile of a server is applied.
pub(super) struct SentBetas {
    /// The header for the server, if any value passes.
    pub(super) header: Option<HeaderValue>,
    /// The values that the server does not get, as the answer names them.
    pub(super) dropped: Vec<String>,
}

impl Betas {
    /// Reads the values of all headers of that name. A value that is no plain name is ignored.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let mut asked = Vec::new();
        for header in headers.get_all(HEADER) {
            let Ok(list) = header.to_str() else { continue };
            for value in list.split(',').map(str::trim) {
                if is_name(value) && asked.len() < VALUES_MAX {
                    asked.push(value.to_owned());
                }
            }
        }
        Self { asked }
    }

    /// The values for the server of `profile`. Only Anthropic's operations have them.
    pub(super) fn sent(&self, operation: Operation, profile: &Profile) -> SentBetas {
        let mut sent = SentBetas { header: None, dropped: Vec::new() };
        if operation.dialect() != Dialect::Anthropic {
            return sent;
        }
        let mut passes: Vec<&str> = Vec::new();
        for value in &self.asked {
            if profile.takes_beta(value) {
                passes.push(value);
            } else {
                sent.dropped.push(format!("{HEADER}.{value}"));
            }
        }
        if !passes.is_empty() {
            // The values are plain names, so they form a valid header.
            sent.header = HeaderValue::try_from(passes.join(",")).ok();
        }
        sent
    }
}

/// Whether a value is a plain name. Any other text could change a header or a log line.
fn is_name(value: &str) -> bool {
    (1..=VALUE_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(operation: Operation, profile: &str, lists: &[&'static str]) -> SentBetas {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(HEADER, HeaderValue::from_static(list));
        }
        let profile = Profile::named(profile).expect("a profile");
        Betas::read(&headers).sent(operation, &profile)
    }

    #[test]
    fn only_listed_values_go_to_the_server() {
        let lists = ["interleaved-thinking-2025-05-14, mcp-client-2025-04-04", "output-128k-1"];
        let found = sent(Operation::Messages, "vllm", &lists);
        let header = found.header.expect("a header");
        assert_eq!(header, "interleaved-thinking-2025-05-14,output-128k-1");
        assert_eq!(found.dropped, ["anthropic-beta.mcp-client-2025-04-04"]);
    }

    #[test]
    fn other_dialects_get_none() {
        let found = sent(Operation::ChatCompletions, "vllm", &["output-128k-1"]);
        assert!(found.header.is_none() && found.dropped.is_empty());
    }

    #[test]
    fn values_that_are_no_names_are_not_shown() {
        let found = sent(Operation::Messages, "vllm", &["a b, x=1, output-128k-1;q, "]);
        assert!(found.header.is_none() && found.dropped.is_empty());
    }
}
