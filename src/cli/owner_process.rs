//! The process that a command of root starts as the data folder's owner. It has the log open, and
//! executes requests.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::admin_client::AdminClient;
use super::as_owner::own_name;
use super::target::GatewayTarget;
use crate::control::{Operator, api};

/// The owner's process: requests on standard input, answers on standard output, a line each.
#[derive(Args)]
pub(super) struct OwnerProcess {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    data: Option<PathBuf>,
}

impl OwnerProcess {
    /// Executes requests until standard input ends, and closes the log.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let target = GatewayTarget { config: self.config, data: self.data, named: true };
        let client = AdminClient::of_owner(&target).await?;
        let AdminClient::Offline(_, control) = &client else {
            return Err("the log is not open".into());
        };
        // The record names the user who gave the command, and not the owner.
        let operator = Operator(own_name());
        for line in std::io::stdin().lines() {
            let answer = api::perform(control, &operator, serde_json::from_str(&line?)?).await;
            println!("{}", serde_json::to_string(&answer)?);
        }
        client.close()
    }
}
