//! `token-shield agent …`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::door::{brake, send};
use super::print::{print, say_done};
use super::values::agent_name;
use super::{Failure, Place};
use crate::control::api::Request;
use crate::control::{Command, Question, Verb as Standing};
use crate::id::AgentName;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Register an agent with its principal and its class.
    #[command(
        after_help = "Example: token-shield agent register research/summarizer \\\n             \
        --principal team:research --class default"
    )]
    Register(Register),
    /// List the registered agents.
    #[command(after_help = "Example: token-shield agent list --json")]
    List(Place),
    /// Show one agent and its tokens.
    #[command(after_help = "Example: token-shield agent show research/summarizer")]
    Show(Show),
    /// Stop an agent, or a whole namespace, until it is resumed.
    #[command(
        after_help = "Examples: token-shield agent suspend research/summarizer --reason \"on leave\"\n          token-shield agent suspend 'research/*' --reason \"the whole team\""
    )]
    Suspend(Stand),
    /// End the suspension of an agent or a namespace.
    #[command(
        after_help = "Example: token-shield agent resume research/summarizer --reason \"back\""
    )]
    Resume(Stand),
    /// Stop an agent for an investigation. Its open streams end within a second.
    #[command(
        after_help = "Example: token-shield agent quarantine research/summarizer --reason \"odd tool calls\""
    )]
    Quarantine(Stand),
    /// End the quarantine of an agent or a namespace.
    #[command(
        after_help = "Example: token-shield agent release research/summarizer --reason \"examined\""
    )]
    Release(Stand),
    /// Stop an agent permanently.
    #[command(
        after_help = "Example: token-shield agent revoke research/summarizer --reason \"retired\""
    )]
    Revoke(Stand),
}

#[derive(Args)]
pub(super) struct Register {
    /// namespace/name. Without a slash, the namespace is `default`.
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// The principal in whose name it acts.
    #[arg(long)]
    principal: Option<String>,
    /// A [class.NAME] of the config.
    #[arg(long)]
    class: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Show {
    /// namespace/name. Without a slash, the namespace is `default`.
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Stand {
    /// namespace/name, or 'namespace/*' (with the quotes) for all its agents, also later ones.
    agent: String,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a stopped gateway, even if it was found and not named.
    #[arg(long)]
    offline: bool,
    /// Accept a name that is not registered, such as a delegated agent's.
    #[arg(long)]
    unregistered: bool,
    #[command(flatten)]
    place: Place,
}

impl Verb {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Register(Register { agent, principal, class, place }) => {
                let command = Command::AgentRegister { agent: agent.to_string(), principal, class };
                let reply = send(&place, Request::Command(command)).await?;
                say_done(
                    &format!("registered {agent}"),
                    json!({ "agent": agent.as_str() }),
                    &reply,
                    place.json,
                );
                Ok(())
            }
            Self::List(place) => {
                let reply = send(&place, Request::Question(Question::Agents)).await?;
                print(&reply, place.json)
            }
            Self::Show(Show { agent, place }) => {
                let reply =
                    send(&place, Request::Question(Question::Agent { agent: agent.to_string() }))
                        .await?;
                print(&reply, place.json)
            }
            Self::Suspend(stand) => stand.run(Standing::Suspend, "suspended").await,
            Self::Resume(stand) => stand.run(Standing::Resume, "resumed").await,
            Self::Quarantine(stand) => stand.run(Standing::Quarantine, "quarantined").await,
            Self::Release(stand) => stand.run(Standing::Release, "released").await,
            Self::Revoke(stand) => stand.run(Standing::Revoke, "revoked").await,
        }
    }
}

impl Stand {
    async fn run(self, verb: Standing, done: &str) -> Result<(), Failure> {
        let (reason, unregistered) = (self.reason, self.unregistered);
        let command = match self.agent.strip_suffix("/*") {
            Some(namespace) => Command::NamespaceStanding {
                namespace: namespace.to_owned(),
                verb,
                reason,
                unregistered,
            },
            None => Command::AgentStanding { agent: self.agent, verb, reason, unregistered },
        };
        let reply = brake(&self.place, self.offline, Request::Command(command)).await?;
        let row = reply.rows.first().cloned().unwrap_or_default();
        let text =
            |member: &str| row.get(member).and_then(serde_json::Value::as_str).map(str::to_owned);
        let namespace = text("namespace").map(|namespace| format!("{namespace}/*"));
        let name = text("agent").or(namespace).unwrap_or_default();
        say_done(&format!("{done} {name}"), row, &reply, self.place.json);
        Ok(())
    }
}
