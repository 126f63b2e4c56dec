//! `token-shield agent …`: registers, lists, shows, stops and resumes agents.

use clap::{Args, Subcommand};
use serde_json::json;

use super::admin_client::{send, send_stop};
use super::print::{print, say_done};
use super::rows::{first, text};
use super::values::agent_name;
use super::{Failure, GatewayArgs};
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, StatusVerb};
use crate::id::AgentName;

#[derive(Subcommand)]
pub(super) enum AgentCommand {
    /// Register an agent with its principal and its class.
    #[command(
        after_help = "Example: token-shield agent register research/summarizer \\\n             \
        --principal team:research --class default"
    )]
    Register(Register),
    /// List the registered agents.
    #[command(after_help = "Example: token-shield agent list --json")]
    List(GatewayArgs),
    /// Show one agent and its tokens.
    #[command(after_help = "Example: token-shield agent show research/summarizer")]
    Show(ShowAgent),
    /// Stop an agent, or a whole namespace, until it is resumed.
    #[command(
        after_help = "Examples: token-shield agent suspend research/summarizer --reason \"on \
            leave\"\n          token-shield agent suspend 'research/*' --reason \"the whole team\""
    )]
    Suspend(ChangeAgent),
    /// End the suspension of an agent or a namespace.
    #[command(
        after_help = "Example: token-shield agent resume research/summarizer --reason \"back\""
    )]
    Resume(ChangeAgent),
    /// Stop an agent for an investigation. Its open streams end within a second.
    #[command(
        after_help = "Example: token-shield agent quarantine research/summarizer --reason \"odd \
            tool calls\""
    )]
    Quarantine(ChangeAgent),
    /// End the quarantine of an agent or a namespace.
    #[command(
        after_help = "Example: token-shield agent release research/summarizer --reason \"examined\""
    )]
    Release(ChangeAgent),
    /// Stop an agent permanently.
    #[command(
        after_help = "Example: token-shield agent revoke research/summarizer --reason \"retired\""
    )]
    Revoke(ChangeAgent),
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
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct ShowAgent {
    /// namespace/name. Without a slash, the namespace is `default`.
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct ChangeAgent {
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
    place: GatewayArgs,
}

impl AgentCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Register(Register { agent, principal, class, place }) => {
                let command = Command::AgentRegister { agent: agent.to_string(), principal, class };
                let reply = send(&place, AdminRequest::Command(command)).await?;
                say_done(
                    &format!("registered {agent}"),
                    json!({ "agent": agent.as_str() }),
                    &reply,
                    place.json,
                );
                Ok(())
            }
            Self::List(place) => {
                let reply = send(&place, AdminRequest::Question(Question::Agents)).await?;
                print(&reply, place.json)
            }
            Self::Show(ShowAgent { agent, place }) => {
                let reply = send(
                    &place,
                    AdminRequest::Question(Question::Agent { agent: agent.to_string() }),
                )
                .await?;
                print(&reply, place.json)
            }
            Self::Suspend(stand) => stand.run(StatusVerb::Suspend, "suspended").await,
            Self::Resume(stand) => stand.run(StatusVerb::Resume, "resumed").await,
            Self::Quarantine(stand) => stand.run(StatusVerb::Quarantine, "quarantined").await,
            Self::Release(stand) => stand.run(StatusVerb::Release, "released").await,
            Self::Revoke(stand) => stand.run(StatusVerb::Revoke, "revoked").await,
        }
    }
}

impl ChangeAgent {
    /// Changes the status of an agent or of a namespace. `done` is the word for the message.
    async fn run(self, verb: StatusVerb, done: &str) -> Result<(), Failure> {
        let (reason, unregistered) = (self.reason, self.unregistered);
        // The suffix names a whole namespace. A `*` is not valid in an agent's name.
        let command = match self.agent.strip_suffix("/*") {
            Some(namespace) => Command::NamespaceStatus {
                namespace: namespace.to_owned(),
                verb,
                reason,
                unregistered,
            },
            None => Command::AgentStatus { agent: self.agent, verb, reason, unregistered },
        };
        // All changes of status use the rule for stops, so that they reach the right gateway.
        let reply = send_stop(&self.place, self.offline, AdminRequest::Command(command)).await?;
        // The gateway completes a short name (`summarizer`), so the output uses its name.
        let row = first(&reply);
        let name = match (text(&row, "agent"), text(&row, "namespace")) {
            (Some(agent), _) => agent.to_owned(),
            (None, Some(namespace)) => format!("{namespace}/*"),
            (None, None) => String::new(),
        };
        say_done(&format!("{done} {name}"), row, &reply, self.place.json);
        Ok(())
    }
}
