//! The lines that `dev` prints: what to type so that a client uses the gateway.

use std::sync::Arc;

use super::probe::FoundServer;
use crate::model::{Operation, Profile};

/// What the lines name.
pub(super) struct ReadyLines<'l> {
    /// The gateway's URL, without a path.
    pub(super) url: &'l str,
    /// The token, as a shell reads it.
    pub(super) token: &'l str,
    /// The model.
    pub(super) model: &'l str,
    /// The profile of the model's server.
    pub(super) profile: Option<Arc<Profile>>,
}

/// The first model that is no embedding or reranking model by its name; `echo` without one.
pub(super) fn chat_model(found: &[FoundServer]) -> &str {
    for server in found {
        for model in &server.models {
            // Servers do not report what a model is for.
            let name = model.to_ascii_lowercase();
            if !name.contains("embed") && !name.contains("rerank") {
                return model;
            }
        }
    }
    "echo"
}

/// The profile of the server of the first chat model.
pub(super) fn profile_of(found: &[FoundServer]) -> Option<Arc<Profile>> {
    let model = chat_model(found);
    let server = found.iter().find(|server| server.models.iter().any(|known| known == model));
    // The built-in model has the operations of that profile.
    let name = server.map_or("generic", |server| server.profile.as_str());
    Profile::named(name)
}

impl ReadyLines<'_> {
    /// Prints a line for each kind of client whose operation the server has.
    pub(super) fn print(&self) {
        for line in self.lines() {
            println!("{line}");
        }
    }

    /// The lines.
    fn lines(&self) -> Vec<String> {
        let Self { url, token, profile, .. } = self;
        let model = shell_word(self.model);
        let has = |operation| profile.as_ref().is_some_and(|profile| profile.has(operation));
        let mut lines = Vec::new();
        if has(Operation::ChatCompletions) {
            lines.push(format!(
                "  OpenAI   export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=\"{token}\""
            ));
        }
        if has(Operation::Messages) {
            let variables = format!("ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=\"{token}\"");
            lines.push(format!("  Anthropic export {variables}"));
            // Claude Code also asks for a small model.
            lines.push(format!(
                "  Claude   {variables} ANTHROPIC_DEFAULT_HAIKU_MODEL={model} \
                    claude --model {model}"
            ));
        }
        if has(Operation::Responses) {
            lines.push(format!(
                "  Codex    SHIELD_TOKEN=\"{token}\" codex -m {model} -c model_provider=shield -c \
                    'model_providers.shield={{name=\"shield\",base_url=\"{url}/v1\",\
                    env_key=\"SHIELD_TOKEN\",wire_api=\"responses\"}}'"
            ));
        }
        if has(Operation::OllamaChat) {
            lines.push(format!("  Ollama   export OLLAMA_HOST={url} OLLAMA_API_KEY=\"{token}\""));
        }
        lines
    }
}

/// A text as one word of a shell. The names of models come from a server.
fn shell_word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@+".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(profile: &str, models: &[&str]) -> FoundServer {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        let authority = "127.0.0.1:1".to_owned();
        FoundServer { name: "a server", authority, profile: profile.to_owned(), models }
    }

    #[test]
    fn the_first_chat_model_is_named() {
        assert_eq!(chat_model(&[]), "echo");
        let found =
            [server("generic", &["bge-rerank"]), server("ollama", &["nomic-Embed", "qwen"])];
        assert_eq!(chat_model(&found), "qwen");
        assert_eq!(profile_of(&found).expect("a profile").name(), "ollama");
    }

    #[test]
    fn a_name_of_a_model_is_one_word() {
        assert_eq!(shell_word("org/model-7b:q4"), "org/model-7b:q4");
        assert_eq!(shell_word("$(touch x) it's"), r"'$(touch x) it'\''s'");
    }

    #[track_caller]
    fn clients(profile: &str, expect: &[&str]) {
        let found = [server(profile, &["m"])];
        let lines = ReadyLines {
            url: "http://127.0.0.1:8700",
            token: "$(cat dev.token)",
            model: "m",
            profile: profile_of(&found),
        }
        .lines();
        let names: Vec<&str> =
            lines.iter().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
        assert_eq!(names, expect, "{profile}");
    }

    #[test]
    fn a_line_is_printed_for_each_dialect_of_the_server() {
        clients("vllm", &["OpenAI", "Anthropic", "Claude", "Codex"]);
        clients("ollama", &["OpenAI", "Anthropic", "Claude", "Codex", "Ollama"]);
        clients("tgi", &["OpenAI"]);
    }
}
