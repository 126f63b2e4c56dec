//! What a server understands: for each operation its fields and what becomes of them. Data, in `config/profiles`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::model::Operation;
use crate::model::walk::Shape;
use crate::model::{anthropic, openai};

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// It passes if it has the shape.
    Pass(Shape),
    /// It is left out.
    Drop,
    /// It is refused, whatever the class says of unknown fields.
    Refuse,
    /// It carries state or work at a place that is not this server's: refused as such if it is set.
    Reach(crate::model::ReachKind),
}

/// A server's profile.
pub struct Profile {
    name: String,
    fields: HashMap<&'static str, HashMap<&'static str, Rule>>,
    /// What the cap on output tokens is called.
    pub(super) cap: &'static str,
    /// True where streams report usage on demand.
    pub(super) stream_usage: bool,
}

/// Why a profile cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFault {
    /// Not TOML.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// An operation, a rule or a profile that does not exist.
    #[error("{0}: {1:?} is not known")]
    Unknown(String, String),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    extends: Option<String>,
    cap: Option<String>,
    stream_usage: Option<bool>,
    #[serde(default)]
    fields: HashMap<String, HashMap<String, String>>,
}

const TEXTS: [(&str, &str); 6] = [
    ("generic", include_str!("../../config/profiles/generic.toml")),
    ("vllm", include_str!("../../config/profiles/vllm.toml")),
    ("llama.cpp", include_str!("../../config/profiles/llama.cpp.toml")),
    ("ollama", include_str!("../../config/profiles/ollama.toml")),
    ("tgi", include_str!("../../config/profiles/tgi.toml")),
    ("sglang", include_str!("../../config/profiles/sglang.toml")),
];

static NAMED: LazyLock<HashMap<&'static str, Arc<Profile>>> = LazyLock::new(|| {
    // A file that does not read is left out, so that nothing can name it; a test reads them all.
    TEXTS.iter().filter_map(|(name, text)| Profile::read(name, text).ok().map(|profile| (*name, Arc::new(profile)))).collect()
});

fn rule(name: &str) -> Option<Rule> {
    use crate::model::ReachKind;
    let shape = match name {
        "drop" => return Some(Rule::Drop),
        "refuse" => return Some(Rule::Refuse),
        "background" => return Some(Rule::Reach(ReachKind::Background)),
        "foreign" => return Some(Rule::Reach(ReachKind::ForeignState)),
        "hosted" => return Some(Rule::Reach(ReachKind::HostedTool)),
        "open" => Shape::Open,
        "text" => Shape::Text,
        "number" => Shape::Number,
        "count" => Shape::Count,
        "whole" => Shape::Whole,
        "truth" => Shape::Truth,
        "texts" => Shape::Texts,
        "text-or-texts" => Shape::TextOrTexts,
        "numbers" => Shape::Numbers,
        "scalars" => Shape::Scalars,
        "input" => Shape::Input,
        "messages" => Shape::With(openai::messages),
        "tools" => Shape::With(openai::tools),
        "functions" => Shape::With(openai::functions),
        "tool-choice" => Shape::With(openai::tool_choice),
        "response-format" => Shape::With(openai::response_format),
        "stream-options" => Shape::With(openai::stream_options),
        "anthropic-messages" => Shape::With(anthropic::messages),
        "anthropic-content" => Shape::With(anthropic::content),
        "anthropic-tools" => Shape::With(anthropic::tools),
        "anthropic-tool-choice" => Shape::With(anthropic::tool_choice),
        "anthropic-thinking" => Shape::With(anthropic::thinking),
        "anthropic-mcp" => Shape::With(anthropic::mcp_servers),
        _ => return None,
    };
    Some(Rule::Pass(shape))
}

const OPERATIONS: [&str; 4] = ["chat", "completions", "embeddings", "messages"];

impl Profile {
    /// The built-in profiles.
    pub const NAMES: [&'static str; 6] = ["generic", "vllm", "llama.cpp", "ollama", "tgi", "sglang"];

    /// A built-in profile.
    #[must_use]
    pub fn named(name: &str) -> Option<Arc<Self>> {
        NAMED.get(name).cloned()
    }

    /// Reads a profile. Its names live as long as the program: there are a few, and each is read once.
    ///
    /// # Errors
    /// When it is not TOML or names an operation, rule or profile that does not exist.
    pub fn read(name: &str, text: &str) -> Result<Self, ProfileFault> {
        let file: File = toml::from_str(text)?;
        let unknown = |what: &str| ProfileFault::Unknown(name.to_owned(), what.to_owned());
        let mut profile = match &file.extends {
            None => Self { name: String::new(), fields: HashMap::new(), cap: "max_tokens", stream_usage: true },
            Some(base) => {
                let (base, text) = TEXTS.iter().find(|(known, _)| known == base && *known != name).ok_or_else(|| unknown(base))?;
                Self::read(base, text)?
            }
        };
        name.clone_into(&mut profile.name);
        profile.stream_usage = file.stream_usage.unwrap_or(profile.stream_usage);
        if let Some(cap) = file.cap {
            profile.cap = cap.leak();
        }
        for (operation, fields) in file.fields {
            let operation = OPERATIONS.into_iter().find(|known| *known == operation).ok_or_else(|| unknown(&operation))?;
            let table = profile.fields.entry(operation).or_default();
            for (field, named) in fields {
                table.insert(field.leak(), rule(&named).ok_or_else(|| unknown(&named))?);
            }
        }
        Ok(profile)
    }

    /// The profile's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rule(&self, operation: Operation, field: &str) -> Option<(&'static str, Rule)> {
        self.fields.get(operation.as_str())?.get_key_value(field).map(|(name, rule)| (*name, *rule))
    }

    /// Every field that an operation knows.
    pub(super) fn known(&self, operation: Operation) -> impl Iterator<Item = &'static str> {
        self.fields.get(operation.as_str()).into_iter().flat_map(|fields| fields.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_reads() {
        for (name, text) in TEXTS {
            let profile = Profile::read(name, text).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert!(profile.rule(Operation::ChatCompletions, "messages").is_some(), "{name}");
            for never in ["chat_template", "kv_transfer_params", "vllm_xargs", "prompt_embeds", "lora", "request_id", "priority", "cache_salt", "api_base"] {
                let passes = matches!(profile.rule(Operation::ChatCompletions, never), Some((_, Rule::Pass(_))));
                assert!(!passes, "{name} passes {never}");
            }
        }
        assert!(Profile::NAMES.iter().all(|name| Profile::named(name).is_some()));
    }
}
