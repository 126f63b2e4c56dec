//! `token-shield principal …`: stops everything that acts for one principal.

use clap::{Args, Subcommand};

use super::admin_client::{send, send_stop};
use super::print::{print, say_done};
use super::rows::first;
use super::{Failure, GatewayArgs};
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, StatusVerb};

#[derive(Subcommand)]
pub(super) enum PrincipalCommand {
    /// Stop everything that acts for a principal, until it is released. Open streams end within a
    /// second.
    #[command(
        after_help = "Example: token-shield principal suspend team:research --reason \"budget \
            under review\""
    )]
    Suspend(ChangePrincipal),
    /// End the suspension of a principal, so that its agents may act again.
    #[command(
        after_help = "Example: token-shield principal release team:research --reason \"reviewed\""
    )]
    Release(ChangePrincipal),
    /// List the principals that are stopped.
    #[command(after_help = "Example: token-shield principal list --json")]
    List(GatewayArgs),
}

#[derive(Args)]
pub(super) struct ChangePrincipal {
    /// The principal: a token's sub.
    principal: String,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a stopped gateway, even if it was found and not named.
    #[arg(long)]
    offline: bool,
    /// Accept a principal without a registered agent, token or handle.
    #[arg(long)]
    unregistered: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

impl PrincipalCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Suspend(stand) => stand.run(StatusVerb::Suspend, "suspended").await,
            Self::Release(stand) => stand.run(StatusVerb::Release, "released").await,
            Self::List(place) => {
                let reply = send(&place, AdminRequest::Question(Question::Principals)).await?;
                print(&reply, place.json)
            }
        }
    }
}

impl ChangePrincipal {
    /// A change of a principal's status.
    async fn run(self, verb: StatusVerb, done: &str) -> Result<(), Failure> {
        let Self { principal, reason, offline, unregistered, place } = self;
        let command =
            Command::PrincipalStatus { principal: principal.clone(), verb, reason, unregistered };
        let reply = send_stop(&place, offline, AdminRequest::Command(command)).await?;
        say_done(&format!("{done} {principal}"), first(&reply), &reply, place.json);
        Ok(())
    }
}
