//! The commands that run a gateway or connect to one.

use clap::Subcommand;

use super::target::{GatewayArgs, GatewayTarget, folder_of};
use super::{
    Failure, agent, as_owner, audit, backup, config, dev, egress, keys, model, owner,
    owner_process, principal, serve, token, upgrade,
};
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum GatewayCommand {
    /// Run a gateway from a config file.
    #[command(
        after_help = "Example: token-shield serve --config /etc/token-shield/token-shield.toml\n\n\
        Without --config and --data, the config is found as for every other command: \
        TOKEN_SHIELD_CONFIG or\n\
        TOKEN_SHIELD_DATA. Without these: ./token-shield.toml, ./data or\n\
        /etc/token-shield/token-shield.toml, if exactly one of these exists."
    )]
    Serve(serve::Serve),
    /// Replace the running gateway with a new process or a newer version, without a gap.
    #[command(
        after_help = "Example: token-shield upgrade --config /etc/token-shield/token-shield.toml"
    )]
    Upgrade(upgrade::Upgrade),
    /// Run a gateway for development: loopback, its own keys, the model echo, and a server that it
    /// finds.
    #[command(after_help = "Example: token-shield dev --upstream http://127.0.0.1:11434\n\n\
        dev needs no config. It ignores TOKEN_SHIELD_CONFIG, ./token-shield.toml and \
        /etc/token-shield. It\n\
        writes DATA/token-shield.toml at each start, and refuses a folder with a config that it \
        did not\n\
        write. ./data must belong to the caller or to root, and no folder above it may be writable \
        by\n\
        everybody. A folder that --data or TOKEN_SHIELD_DATA names is not checked in this way.")]
    Dev(dev::Dev),
    /// Generate, list, retire and revoke signing keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Issue, inspect, verify and revoke tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Register, show and stop agents.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Suspend and release principals, with everything that acts for them.
    #[command(subcommand)]
    Principal(principal::PrincipalCommand),
    /// Show whether an endpoint is controlled.
    #[command(subcommand)]
    Egress(egress::EgressCommand),
    /// List models and their weights, and accept new weights.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Explain why a request was refused, or how it ended.
    #[command(after_help = "Example: token-shield why rq_01M7ZCSCBP0W7RN1HB4TR71MDN")]
    Why(audit::why::Why),
    /// Accept the current time after the clock stepped back.
    #[command(subcommand)]
    Clock(audit::keep::ClockCommand),
    /// Copy the log, keys and config into a folder, and verify the copy. The gateway may run.
    #[command(
        after_help = "Example: token-shield backup /mnt/backups/2026-11-21 \\\n             \
        --config /etc/token-shield/token-shield.toml"
    )]
    Backup(backup::Backup),
    /// Verify a backup, and restore it into a data folder without a log.
    #[command(
        after_help = "Example: token-shield restore /mnt/backups/2026-11-21 \\\n             \
        --config /etc/token-shield/token-shield.toml"
    )]
    Restore(backup::restore::Restore),
    /// Check a config file.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Execute requests on standard input for root, as the data folder's owner.
    #[command(hide = true, name = owner::PROCESS)]
    OwnerProcess(owner_process::OwnerProcess),
    /// Run another command for root, as the data folder's owner.
    #[command(hide = true, name = as_owner::AS_OWNER)]
    AsOwner(as_owner::AsOwner),
}

impl GatewayCommand {
    /// Executes the command on a new runtime.
    pub(super) fn run(self) -> Result<(), Failure> {
        // First: a change of the uid must happen before this process has threads and open files.
        if let Self::AsOwner(command) = self {
            return command.run();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match self {
                Self::Serve(serve) => serve.run().await,
                Self::Upgrade(upgrade) => upgrade.run(),
                Self::Dev(dev) => dev.run().await,
                Self::Keys(verb) => verb.run().await,
                Self::Token(verb) => verb.run().await,
                Self::Agent(verb) => verb.run().await,
                Self::Principal(verb) => verb.run().await,
                Self::Egress(verb) => verb.run().await,
                Self::Model(verb) => verb.run().await,
                Self::Why(why) => why.run().await,
                Self::Clock(verb) => verb.run().await,
                Self::Backup(backup) => backup.run().await,
                Self::Restore(restore) => restore.run(),
                Self::Config(verb) => verb.run(),
                Self::OwnerProcess(state) => state.run().await,
                Self::AsOwner(command) => command.run(),
            }
        })
    }
}

impl GatewayTarget {
    /// Reads the config.
    ///
    /// # Errors
    /// If it cannot be read or has faults.
    pub(super) fn read(&self) -> Result<Config, Failure> {
        let path = &self.config;
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = "name a config with --config FILE, or a data folder that `token-shield dev` \
                made with --data DIR";
            format!("{}: {error}; {hint}", path.display())
        })?;
        crate::config::read(&text, folder_of(path))
            .map_err(|faults| format!("{}:\n{faults}", path.display()).into())
    }
}

impl GatewayArgs {
    /// Reads the config of the gateway that the command is for.
    ///
    /// # Errors
    /// If there is none, or its config cannot be read.
    pub(super) fn read(&self) -> Result<Config, Failure> {
        self.find()?.read()
    }
}
