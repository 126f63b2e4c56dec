//! `token-shield model …`: lists models with their weights, and accepts new weights.

use clap::{Args, Subcommand};
use serde_json::json;

use super::admin_client::send;
use super::print::{print, say_done};
use super::{Failure, GatewayArgs};
use crate::control::api::AdminRequest;
use crate::control::{Command, Question};

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// List the models at each server, with the digest of the weights that answer.
    #[command(after_help = "Example: token-shield model list --json")]
    List(GatewayArgs),
    /// Accept the present weights of a model. Its pinned weights stay accepted too.
    #[command(
        after_help = "Example: token-shield model accept llama-3.1-8b --reason \"new quantization, \
            approved in CHG-4711\""
    )]
    Accept(Accept),
}

#[derive(Args)]
pub(super) struct Accept {
    /// The model's name in the config.
    model: String,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    place: GatewayArgs,
}

impl ModelCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(place) => {
                let reply = send(&place, AdminRequest::Question(Question::Models)).await?;
                print(&reply, place.json)
            }
            Self::Accept(Accept { model, reason, place }) => {
                let command = Command::ModelAccept { model: model.clone(), reason };
                let reply = send(&place, AdminRequest::Command(command)).await?;
                say_done(
                    &format!("accepted the weights of {model}"),
                    json!({ "model": model }),
                    &reply,
                    place.json,
                );
                Ok(())
            }
        }
    }
}
