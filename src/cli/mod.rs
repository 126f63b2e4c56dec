//! The command line: `token-shield NOUN VERB`. Results on standard output, everything else on standard error; exit 0 done,
//! 1 refused or invalid, 2 usage.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where results are printed")]

#[cfg(feature = "gateway")]
mod agent;
mod audit;
#[cfg(feature = "gateway")]
mod backup;
#[cfg(feature = "gateway")]
mod config;
#[cfg(feature = "gateway")]
mod delegate;
#[cfg(feature = "gateway")]
mod dev;
#[cfg(feature = "gateway")]
mod door;
#[cfg(feature = "gateway")]
mod egress;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "gateway")]
mod handles;
#[cfg(feature = "gateway")]
mod keys;
#[cfg(feature = "gateway")]
mod limits;
#[cfg(feature = "gateway")]
mod logs;
#[cfg(feature = "gateway")]
mod model;
#[cfg(feature = "gateway")]
mod probe;
#[cfg(feature = "gateway")]
mod rotate;
#[cfg(feature = "gateway")]
mod serve;
#[cfg(feature = "gateway")]
mod token;
#[cfg(feature = "gateway")]
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "gateway")]
use gateway::{Place, agent_name};

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
    #[cfg(feature = "gateway")]
    #[command(flatten)]
    Gateway(gateway::Noun),
    /// Verify the audit log, read it, and hand out proofs.
    #[command(subcommand)]
    Audit(audit::Verb),
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().noun {
        #[cfg(feature = "gateway")]
        Noun::Gateway(noun) => noun.run(),
        Noun::Audit(verb) => verb.run(),
    };
    let failure = done.err().map(|failure| failure.to_string());
    #[cfg(feature = "gateway")]
    logs::finish(failure.as_deref());
    #[cfg(not(feature = "gateway"))]
    failure.iter().for_each(|failure| eprintln!("token-shield: {failure}"));
    if failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
