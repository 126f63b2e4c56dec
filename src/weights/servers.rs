//! The digests that servers report for the weights that they serve.

use serde::Deserialize;

use crate::audit::format::event::TEXT_BYTES_MAX;
use crate::audit::format::request::ModelDigest;
use crate::weights::{MEASURED, REPORTED, unknown};

/// The answer of Ollama's `/api/tags`.
#[derive(Deserialize)]
struct OllamaTags {
    /// The models of the server.
    models: Vec<Tag>,
}

/// A model in that answer.
#[derive(Deserialize)]
struct Tag {
    #[serde(default)]
    /// The name with its tag.
    name: String,
    #[serde(default)]
    /// The same name. A version may send only one of the two.
    model: String,
    #[serde(default)]
    /// The SHA-256, with or without `sha256:`.
    digest: String,
}

impl Tag {
    /// Whether the model has that name.
    fn is_named(&self, name: &str) -> bool {
        self.name == name || self.model == name
    }
}

/// The answer of `/v1/models`.
#[derive(Deserialize)]
struct List {
    /// The models of the server.
    data: Vec<Listed>,
}

/// A model in that answer.
#[derive(Deserialize)]
struct Listed {
    /// The name of the model.
    id: String,
    /// The digest, on servers that report one.
    digest: Option<String>,
    /// The path or name from which vLLM loaded the model.
    root: Option<String>,
    /// The context of vLLM and SGLang.
    max_model_len: Option<u64>,
    /// The context of other servers.
    context_length: Option<u64>,
    /// The facts that llama.cpp reports.
    meta: Option<Meta>,
}

/// The facts of a model in llama.cpp.
#[derive(Deserialize)]
struct Meta {
    /// The context of one slot.
    n_ctx: Option<u64>,
    /// The context that the model was trained with.
    n_ctx_train: Option<u64>,
}

/// True for `sha256:` and 64 lowercase hexadecimal digits, the form of pins.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    let Some(hex) = text.strip_prefix("sha256:") else { return false };
    hex.len() == 64 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digest of a model in an answer of Ollama's `/api/tags`. A name without a tag means `latest`.
#[must_use]
pub fn ollama(answer: &[u8], model: &str) -> ModelDigest {
    let Ok(tags) = serde_json::from_slice::<OllamaTags>(answer) else { return unknown() };
    // Ollama adds the tag `latest` to a name without a tag.
    let whole = if model.contains(':') { model.to_owned() } else { format!("{model}:latest") };
    let tag = tags.models.into_iter().find(|tag| tag.is_named(model) || tag.is_named(&whole));
    let Some(tag) = tag else { return unknown() };
    let value = if tag.digest.starts_with("sha256:") {
        tag.digest
    } else {
        format!("sha256:{}", tag.digest)
    };
    // Ollama hashes the weights, so its digest counts as measured.
    if is_sha256(&value) { ModelDigest { value, source: MEASURED } } else { unknown() }
}

/// The digest of a model in an answer of `/v1/models`: its `digest`, or vLLM's `root`.
#[must_use]
pub fn listed(answer: &[u8], model: &str) -> ModelDigest {
    let Ok(list) = serde_json::from_slice::<List>(answer) else { return unknown() };
    let Some(entry) = list.data.into_iter().find(|entry| entry.id == model) else {
        return unknown();
    };
    let Some(value) = entry.digest.or(entry.root) else { return unknown() };
    // The value comes from the server and goes into records, so its length and characters are
    // limited.
    if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.contains(char::is_control) {
        return unknown();
    }
    // The server reports this value without a measurement.
    ModelDigest { value, source: REPORTED }
}

/// The context of a model in an answer of `/v1/models`, in tokens.
#[must_use]
pub fn context(answer: &[u8], model: &str) -> Option<u64> {
    let list = serde_json::from_slice::<List>(answer).ok()?;
    let entry = list.data.into_iter().find(|entry| entry.id == model)?;
    let in_meta = entry.meta.and_then(|meta| meta.n_ctx.or(meta.n_ctx_train));
    let context = entry.max_model_len.or(entry.context_length).or(in_meta);
    // Some servers write 0 for an unknown context.
    context.filter(|tokens| *tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_names_the_digest_of_a_tag() {
        let hex = "0a".repeat(32);
        let answer = format!(
            r#"{{"models":[{{"name":"m:1b","digest":"x"}},
                {{"name":"m:latest","model":"m:latest","digest":"{hex}"}}]}}"#
        );
        let measured = ModelDigest { value: format!("sha256:{hex}"), source: MEASURED };
        assert_eq!(ollama(answer.as_bytes(), "m"), measured);
        assert_eq!(ollama(answer.as_bytes(), "m:latest"), measured);
        for (answer, model) in
            [(answer.as_str(), "m:1b"), (&answer, "other"), ("{}", "m"), ("no JSON", "m")]
        {
            assert_eq!(ollama(answer.as_bytes(), model), unknown(), "{model}");
        }
    }

    #[test]
    fn servers_report_the_context_under_different_names() {
        let answer = br#"{"data":[{"id":"a","max_model_len":4096},{"id":"b","meta":{"n_ctx":512,
            "n_ctx_train":8192}},{"id":"c","meta":{"n_ctx_train":8192}},{"id":"d",
            "context_length":0},{"id":"e"}]}"#;
        let expect =
            [("a", Some(4096)), ("b", Some(512)), ("c", Some(8192)), ("d", None), ("e", None)];
        for (model, expect) in expect {
            assert_eq!(context(answer, model), expect, "{model}");
        }
        assert_eq!(context(b"no JSON", "a"), None);
    }

    #[test]
    fn a_list_of_models_may_say_what_stands_behind_a_name() {
        let answer = br#"{"object":"list","data":[{"id":"a","root":"org/a"},
            {"id":"b","root":"r","digest":"sha256:1"},{"id":"c","root":null}]}"#;
        assert_eq!(
            listed(answer, "a"),
            ModelDigest { value: "org/a".to_owned(), source: REPORTED }
        );
        assert_eq!(
            listed(answer, "b"),
            ModelDigest { value: "sha256:1".to_owned(), source: REPORTED }
        );
        for model in ["c", "d"] {
            assert_eq!(listed(answer, model), unknown());
        }
    }
}
