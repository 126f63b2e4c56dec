//! The commands that run a gateway or talk to one.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, agent, audit, backup, config, dev, egress, keys, model, serve, token};
use crate::id::{AgentName, NameFault};

#[derive(Subcommand)]
pub(super) enum Noun {
    /// Run a gateway from a config file.
    #[command(after_help = "Example: token-shield serve --config /etc/token-shield/token-shield.toml")]
    Serve(serve::Serve),
    /// Run a gateway on embedded defaults: loopback, own keys, the model echo, and a server that is found.
    #[command(after_help = "Example: token-shield dev --upstream http://127.0.0.1:11434")]
    Dev(dev::Dev),
    /// Make, list, retire and revoke signing keys.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Issue, inspect, verify and revoke tokens.
    #[command(subcommand)]
    Token(token::Verb),
    /// Register, show and stop agents.
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Say which endpoints are controlled.
    #[command(subcommand)]
    Egress(egress::Verb),
    /// List models and their weights, and accept other weights.
    #[command(subcommand)]
    Model(model::Verb),
    /// Say why a request was refused, or what became of it.
    #[command(after_help = "Example: token-shield why rq_01M7ZCSCBP0W7RN1HB4TR71MDN")]
    Why(audit::why::Why),
    /// Say that the wall clock is right, after it has stepped back.
    #[command(subcommand)]
    Clock(audit::keep::Clock),
    /// Copy the log, keys and config into a folder, beside a running gateway too; the copy is verified.
    #[command(after_help = "Example: token-shield backup /mnt/backups/2026-11-21 --data /var/lib/token-shield")]
    Backup(backup::Backup),
    /// Put a backup into a data folder that has no log; the backup is verified first.
    #[command(after_help = "Example: token-shield restore /mnt/backups/2026-11-21 --data /var/lib/token-shield")]
    Restore(backup::Restore),
    /// Check a config file.
    #[command(subcommand)]
    Config(config::Verb),
}

impl Noun {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match self {
                Self::Serve(serve) => serve.run().await,
                Self::Dev(dev) => dev.run().await,
                Self::Keys(verb) => verb.run().await,
                Self::Token(verb) => verb.run().await,
                Self::Agent(verb) => verb.run().await,
                Self::Egress(verb) => verb.run().await,
                Self::Model(verb) => verb.run().await,
                Self::Why(why) => why.run().await,
                Self::Clock(verb) => verb.run().await,
                Self::Backup(backup) => backup.run(),
                Self::Restore(restore) => restore.run(),
                Self::Config(verb) => verb.run(),
            }
        })
    }
}

/// Where a gateway's state is.
#[derive(Args, Clone)]
pub(super) struct Place {
    /// The data folder; its config is DIR/token-shield.toml.
    #[arg(long, value_name = "DIR", default_value = "./data", conflicts_with = "config")]
    pub(super) data: PathBuf,
    /// The gateway's config file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print results as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// An agent's name; without a slash its namespace is `default`.
pub(super) fn agent_name(text: &str) -> Result<AgentName, NameFault> {
    if text.contains('/') { text.parse() } else { format!("default/{text}").parse() }
}

impl Place {
    pub(super) fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.data.join("token-shield.toml"))
    }

    /// Reads the config that the place has.
    pub(super) fn read(&self) -> Result<crate::config::Config, Failure> {
        let path = self.file();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            format!(
                "{}: {error}; name a config with --config FILE, or a data folder that `token-shield dev` made with --data DIR",
                path.display()
            )
        })?;
        let base = path.parent().unwrap_or(std::path::Path::new("."));
        crate::config::read(&text, base).map_err(|faults| format!("{}:\n{faults}", path.display()).into())
    }
}
