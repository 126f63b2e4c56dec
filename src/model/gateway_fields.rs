//! The table `gateway` of a profile: the fields that the gateway writes, and what it must know of
//! the server.

use toml::Table;

use super::Operation;
use super::profile_table::{ProfileFault, fault, flag_at, text_at, texts_at};

/// The fields that the gateway itself writes.
#[derive(Clone, Debug, Default)]
pub(super) struct GatewayFields {
    /// The server's name for the cap on output tokens.
    pub(super) output_cap: String,
    /// All names that a caller may use for the cap.
    pub(super) output_cap_names: Vec<String>,
    /// True if the server knows `stream_options.include_usage`.
    pub(super) include_usage: bool,
    /// True if the server searches for images in text (`![](URL)`) and fetches them.
    pub(super) markdown_images: bool,
    /// The field for the request's id, if the server has one.
    pub(super) request_id: Option<String>,
    /// The field for the prompt cache's salt, if the server has one.
    pub(super) cache_salt: Option<String>,
    /// The ends of the names of models that the server forwards to a service outside.
    pub(super) cloud_models: Vec<String>,
}

impl GatewayFields {
    /// All names that a caller may use for the cap on output tokens of an operation.
    pub(super) fn cap_names(&self, operation: Operation) -> Vec<&str> {
        match operation.dialect().output_cap() {
            Some(name) => vec![name],
            None => self.output_cap_names.iter().map(String::as_str).collect(),
        }
    }

    /// The server's name for the cap on output tokens of an operation.
    pub(super) fn cap_name(&self, operation: Operation) -> &str {
        match operation.dialect().output_cap() {
            Some(name) => name,
            None => &self.output_cap,
        }
    }
}

/// Reads the table `gateway`.
pub(super) fn read_gateway(table: &Table) -> Result<GatewayFields, ProfileFault> {
    const KEYS: [&str; 7] = [
        "output_cap",
        "output_cap_names",
        "include_usage",
        "markdown_images",
        "request_id",
        "cache_salt",
        "cloud_models",
    ];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(fault(
            format!("gateway.{key}"),
            format!("the gateway writes only {}", KEYS.join(", ")),
        ));
    }
    let gateway = GatewayFields {
        output_cap: text_at(table, "output_cap")?
            .ok_or_else(|| fault("gateway.output_cap", "is missing"))?,
        output_cap_names: texts_at(table, "output_cap_names")?,
        include_usage: flag_at(table, "include_usage")
            .ok_or_else(|| fault("gateway.include_usage", "must be true or false"))?,
        markdown_images: flag_at(table, "markdown_images").unwrap_or(false),
        request_id: text_at(table, "request_id")?,
        cache_salt: text_at(table, "cache_salt")?,
        cloud_models: match table.get("cloud_models") {
            Some(_) => texts_at(table, "cloud_models")?,
            None => Vec::new(),
        },
    };
    // The gateway replaces the caller's cap in all these fields. A cap under a name that is not
    // listed would remain beside the gateway's.
    if !gateway.output_cap_names.contains(&gateway.output_cap) {
        return Err(fault("gateway.output_cap_names", "must hold output_cap itself"));
    }
    Ok(gateway)
}
