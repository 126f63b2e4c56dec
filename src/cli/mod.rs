//! The command line: `token-shield NOUN VERB`. Results on standard output, everything else on standard error; exit 0 done,
//! 1 refused or invalid, 2 usage.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where results are printed")]

mod agent;
mod audit;
mod config;
mod delegate;
mod dev;
mod door;
mod handles;
mod keys;
mod limits;
mod logs;
mod probe;
mod rotate;
mod serve;
mod token;
mod vectors;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::id::{AgentName, NameFault};

/// What went wrong, for a person to read.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(name = "token-shield", version, about = "An authentication gateway in front of inference servers.")]
struct Cli {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
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
    /// Verify the audit log.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Check a config file.
    #[command(subcommand)]
    Config(config::Verb),
}

/// Where a gateway's state is.
#[derive(Args, Clone)]
struct Place {
    /// The data folder; its config is DIR/token-shield.toml.
    #[arg(long, value_name = "DIR", default_value = "./data", conflicts_with = "config")]
    data: PathBuf,
    /// The gateway's config file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print results as JSON.
    #[arg(long)]
    json: bool,
}

/// An agent's name; without a slash its namespace is `default`.
fn agent_name(text: &str) -> Result<AgentName, NameFault> {
    if text.contains('/') { text.parse() } else { format!("default/{text}").parse() }
}

impl Place {
    fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.data.join("token-shield.toml"))
    }

    /// Reads the config that the place has.
    fn read(&self) -> Result<crate::config::Config, Failure> {
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

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("token-shield: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.noun {
            Noun::Serve(serve) => serve.run().await,
            Noun::Dev(dev) => dev.run().await,
            Noun::Keys(verb) => verb.run().await,
            Noun::Token(verb) => verb.run().await,
            Noun::Agent(verb) => verb.run().await,
            Noun::Audit(verb) => verb.run(),
            Noun::Config(verb) => verb.run(),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("token-shield: {failure}");
            ExitCode::FAILURE
        }
    }
}
