//! `token-shield config …`: checks a config file.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::fault::on_path;
use super::target::folder_of;
use super::{Failure, GatewayArgs};
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a config file and the keys, credentials and certificates that it names. Lists all
    /// faults.
    #[command(
        after_help = "Example: token-shield config check /etc/token-shield/token-shield.toml"
    )]
    Check {
        /// Check only the text, for CI. The files that it names are not read.
        #[arg(long)]
        syntax: bool,
        /// The file. Default: the config of the gateway.
        file: Option<PathBuf>,
        #[command(flatten)]
        place: GatewayArgs,
    },
}

impl ConfigCommand {
    /// Checks the file, and prints its faults or warnings.
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Check { syntax, file, place } = self;
        let file = match file {
            Some(file) => file,
            None => place.find()?.config,
        };
        let text = std::fs::read_to_string(&file).map_err(on_path(&file))?;
        // Paths in a config are relative to its folder, as for `serve`.
        let config = crate::config::read(&text, folder_of(&file))
            .map_err(|faults| format!("{}:\n{faults}", file.display()))?;
        let missing = if syntax { Vec::new() } else { crate::app::unusable(&config) };
        if !missing.is_empty() {
            let lines: Vec<String> = missing.iter().map(|fault| format!("  {fault}")).collect();
            return Err(format!(
                "{}: the text has no faults, but some of what it names cannot be used here:\n{}",
                file.display(),
                lines.join("\n")
            )
            .into());
        }
        let warnings = if syntax { config.warnings.clone() } else { all_warnings(&config) };
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        if place.json {
            let (models, upstreams) = (config.guard.models.len(), config.proxy.upstreams.len());
            println!(
                "{}",
                json!({
                    "valid": true, "file": file, "models": models, "upstreams": upstreams,
                    "warnings": warnings,
                })
            );
            return Ok(());
        }
        println!(
            "{}: no faults; models {}, upstreams {}",
            file.display(),
            config.guard.models.len(),
            config.proxy.upstreams.len()
        );
        Ok(())
    }
}

/// The warnings about the text, about short credentials, and about a certificate that expires soon.
fn all_warnings(config: &Config) -> Vec<String> {
    let mut warnings = crate::app::warnings(config);
    warnings.extend(crate::app::soon_expired(config));
    warnings
}
