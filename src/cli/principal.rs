//! `token-shield principal …`: stop everything that acts in one name.

use clap::{Args, Subcommand};

use super::door::{brake, send};
use super::print::{print, say_done};
use super::{Failure, Place};
use crate::control::api::Request;
use crate::control::{Command, Question, Verb as Standing};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Stop everything that acts for a principal, until it is released. Open streams end within a
    /// second.
    #[command(
        after_help = "Example: token-shield principal suspend team:research --reason \"budget under review\""
    )]
    Suspend(Stand),
    /// End the suspension of a principal, so that its agents may act again.
    #[command(
        after_help = "Example: token-shield principal release team:research --reason \"reviewed\""
    )]
    Release(Stand),
    /// List the principals that are stopped.
    #[command(after_help = "Example: token-shield principal list --json")]
    List(Place),
}

#[derive(Args)]
pub(super) struct Stand {
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
    place: Place,
}

impl Verb {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Suspend(stand) => stand.run(Standing::Suspend, "suspended").await,
            Self::Release(stand) => stand.run(Standing::Release, "released").await,
            Self::List(place) => {
                let reply = send(&place, Request::Question(Question::Principals)).await?;
                print(&reply, place.json)
            }
        }
    }
}

impl Stand {
    async fn run(self, verb: Standing, done: &str) -> Result<(), Failure> {
        let Self { principal, reason, offline, unregistered, place } = self;
        let command =
            Command::PrincipalStanding { principal: principal.clone(), verb, reason, unregistered };
        let reply = brake(&place, offline, Request::Command(command)).await?;
        let row = reply.rows.first().cloned().unwrap_or_default();
        say_done(&format!("{done} {principal}"), row, &reply, place.json);
        Ok(())
    }
}
