//! The command line: `token-shield NOUN VERB`. Results go to standard output, everything else to
//! standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a running gateway, 4 a log
//! whose end is not proven (docs/CLI.md).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where results are printed")]

#[cfg(feature = "gateway")]
mod admin_client;
#[cfg(feature = "gateway")]
mod adopt;
#[cfg(feature = "gateway")]
mod agent;
#[cfg(feature = "gateway")]
mod as_owner;
mod audit;
#[cfg(feature = "gateway")]
mod backup;
#[cfg(feature = "gateway")]
mod config;
#[cfg(feature = "gateway")]
mod confirm;
#[cfg(feature = "gateway")]
mod delegate;
#[cfg(feature = "gateway")]
mod dev;
#[cfg(feature = "gateway")]
mod egress;
mod fault;
#[cfg(feature = "gateway")]
mod gateway;
#[cfg(feature = "gateway")]
mod handles;
#[cfg(feature = "gateway")]
mod key_files;
#[cfg(feature = "gateway")]
mod keys;
#[cfg(feature = "gateway")]
mod limits;
#[cfg(feature = "gateway")]
mod logs;
mod manual;
#[cfg(feature = "gateway")]
mod model;
#[cfg(feature = "gateway")]
mod owner;
#[cfg(feature = "gateway")]
mod owner_process;
#[cfg(feature = "gateway")]
mod principal;
#[cfg(feature = "gateway")]
mod print;
#[cfg(feature = "gateway")]
mod probe;
#[cfg(feature = "gateway")]
mod ready;
#[cfg(feature = "gateway")]
mod rotate;
#[cfg(feature = "gateway")]
mod rows;
#[cfg(feature = "gateway")]
mod serve;
#[cfg(feature = "gateway")]
mod sign;
mod target;
#[cfg(feature = "gateway")]
mod token;
#[cfg(feature = "gateway")]
mod upgrade;
#[cfg(feature = "gateway")]
mod values;
#[cfg(feature = "gateway")]
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "gateway")]
use target::GatewayArgs;

/// An error with a message for people.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(
    name = "token-shield",
    version,
    about = "An authentication gateway in front of inference servers."
)]
struct Cli {
    #[command(subcommand)]
    noun: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    #[cfg(feature = "gateway")]
    #[command(flatten)]
    Gateway(gateway::GatewayCommand),
    /// Verify and read the audit log, and make proofs.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print the completion script for a shell.
    #[command(
        after_help = "Example: token-shield completions bash > /etc/bash_completion.d/token-shield"
    )]
    Completions(manual::Completions),
    /// Write a manual page for each command.
    #[command(after_help = "Example: token-shield man /usr/local/share/man/man1")]
    Man(manual::Man),
    /// Print the version.
    #[command(after_help = "Example: token-shield version --json")]
    Version(manual::ShowVersion),
    /// Print the reference of docs/CLI.md.
    #[command(hide = true)]
    Reference,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    // Read before clap: an error of the command line must have the form that the caller wants.
    let json = std::env::args_os().any(|word| word == "--json");
    // `parse` would print errors itself, always as text.
    let read = match Cli::try_parse() {
        Ok(read) => read,
        Err(error) => return fault::misread(&error, json),
    };
    let done = match read.noun {
        #[cfg(feature = "gateway")]
        CliCommand::Gateway(noun) => noun.run(),
        CliCommand::Audit(verb) => verb.run(),
        CliCommand::Completions(completions) => {
            completions.run();
            Ok(())
        }
        CliCommand::Man(man) => man.run(),
        CliCommand::Version(version) => {
            version.run();
            Ok(())
        }
        CliCommand::Reference => {
            print!("{}", manual::reference());
            Ok(())
        }
    };
    // The error is printed here, once, for every command.
    let line = match &done {
        Err(failure) => fault::line(failure, json),
        Ok(()) => String::new(),
    };
    let said = if line.is_empty() { None } else { Some(line.as_str()) };
    #[cfg(feature = "gateway")]
    logs::finish(said);
    #[cfg(not(feature = "gateway"))]
    said.iter().for_each(|line| eprintln!("{line}"));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fault::exit(&failure),
    }
}
