//! `token-shield token …`: issues, delegates, shows, verifies and revokes tokens.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, Subcommand};
use serde_json::json;

use super::admin_client::{send, send_stop};
use super::adopt::{self, Adopt};
use super::delegate::Delegate;
use super::handles::{self, Renew};
use super::key_files::{key_file, named_public_key, signing_key};
use super::limits::Allowed;
use super::print::{at, done, say_done};
use super::rows::shown;
use super::sign::{TokenContent, sign};
use super::values::{agent_name, time};
use super::vectors::Vectors;
use super::{Failure, GatewayArgs};
use crate::app::issuers;
use crate::app::keys::fetch_all;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, accepted_view};
use crate::crypto::Both;
use crate::id::AgentName;
use crate::keyring::Keyring;
use crate::token::constraint::Constraint;
use crate::token::{Presented, handle, inspect, verify};

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Sign a token, register it, and print it.
    #[command(
        after_help = "Example: token-shield token issue --agent research/summarizer --principal \
            team:research \\\n             \
        --model llama-3.1-8b --rpm 60 --ttl 1h"
    )]
    Issue(Box<Issue>),
    /// Read test vectors, one JSON object a line, and report whether the gateway would accept each
    /// token.
    #[command(after_help = "Example: token-shield token verify-vectors vectors.jsonl")]
    VerifyVectors(Vectors),
    /// Delegate a token: sign a narrower one offline, and print the chain.
    #[command(
        after_help = "Example: token-shield token delegate --parent parent.token --holder-key \
            holder.jwk \\\n             \
        --name reader --ttl 10m --rpm 10"
    )]
    Delegate(Delegate),
    /// Show the content of a token, without verifying it.
    #[command(after_help = "Example: token-shield token inspect \"$OPENAI_API_KEY\"")]
    Inspect(Given),
    /// Verify a token with the gateway's code and keys, and with two implementations of each
    /// signature.
    #[command(after_help = "Example: token-shield token verify \"$OPENAI_API_KEY\"")]
    Verify(Given),
    /// Replace the token of a handle with a newer one.
    #[command(after_help = "Example: token-shield token renew - --ttl 7d < agent.handle")]
    Renew(Renew),
    /// Turn existing API keys of agents into handles, each with its own token.
    #[command(after_help = adopt::HELP)]
    Adopt(Adopt),
    /// Refuse a token or a handle permanently.
    #[command(after_help = "Example: token-shield token revoke 01JB7Q2FZKX3V9T4M8N6P5R0SD \
            --reason \"leaked\"")]
    Revoke(RevokeToken),
}

#[derive(Args)]
pub(super) struct Issue {
    /// namespace/name. Without a slash, the namespace is `default`.
    #[arg(long, value_parser = agent_name)]
    agent: AgentName,
    /// The principal in whose name it acts. Default: `team:NAMESPACE`.
    #[arg(long)]
    principal: Option<String>,
    #[command(flatten)]
    allowed: Allowed,
    /// The lifetime.
    #[arg(long, default_value = "1h", value_parser = time)]
    ttl: Duration,
    /// The agent's class, a [class.NAME] of the config.
    #[arg(long)]
    class: Option<String>,
    /// The issuer, if the config has several.
    #[arg(long)]
    issuer: Option<String>,
    /// The public key of the holder who may delegate this token. It is then not a bearer token.
    #[arg(long, value_name = "FILE.pub")]
    holder_key: Option<PathBuf>,
    /// The most tokens in a chain that begins with this one (2 to 4). Needs --holder-key.
    #[arg(
        long,
        requires = "holder_key",
        default_value_if("holder_key", ArgPredicate::IsPresent, "2"),
        value_parser = clap::value_parser!(u64).range(2..=4)
    )]
    max_depth: Option<u64>,
    /// Allow bearer tokens (of at most 15 minutes) below this one. Needs --holder-key.
    #[arg(long, requires = "holder_key")]
    bearer_children: bool,
    /// The signing key. Default: DATA/keys/operator.jwk.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print a handle (ts_…) instead of the token. It is short, and `token renew` does not change
    /// it.
    #[arg(long, conflicts_with_all = ["offline", "holder_key"])]
    handle: bool,
    /// Only sign, do not register. If the gateway or its log is available, the token is recorded.
    /// Otherwise a note says that it is not.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct Given {
    /// The token or handle. - reads it from standard input, so that the process list does not show
    /// it.
    token: String,
    /// Verify only with the config's JWK Sets, without revocations and status.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(super) struct RevokeToken {
    /// A token's id or its jti, a handle's id, or the token or handle itself. - reads it from
    /// standard input.
    #[arg(allow_hyphen_values = true)]
    token: String,
    /// The reason, for the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a stopped gateway, even if it was found and not named.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

/// The id of a token or handle, which may be printed. Any other input may be a secret, and is not
/// repeated.
fn id_of(given: &str) -> Option<String> {
    if given.starts_with(handle::PREFIX)
        && let Some(id) = handle::id(given)
    {
        return Some(id.to_string());
    }
    let presented = Presented::read(given).ok()?;
    Some(presented.id().to_string())
}

/// Whether the config has a model with this name or alias.
fn is_known(config: &Config, name: &str) -> bool {
    config.guard.models.iter().any(|model| model.is_named(name))
}

impl TokenCommand {
    /// Executes the command.
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Issue(issue) => issue.run().await,
            Self::Inspect(given) => {
                let text = given.read()?;
                if given.place.json {
                    println!("{}", inspect::document(text.trim())?);
                } else {
                    let tokens = inspect::lines(text.trim())?;
                    for (place, lines) in tokens.iter().enumerate() {
                        if tokens.len() > 1 {
                            println!(
                                "{}token {} of {}",
                                if place > 0 { "\n" } else { "" },
                                place + 1,
                                tokens.len()
                            );
                        }
                        for (name, value) in lines {
                            println!("{name:22} {value}");
                        }
                    }
                }
                eprintln!("this was not verified; use token-shield token verify for that");
                Ok(())
            }
            Self::Renew(renew) => renew.run().await,
            Self::Adopt(adopt) => adopt.run().await,
            Self::Delegate(delegate) => delegate.run(),
            Self::VerifyVectors(vectors) => vectors.run(),
            Self::Verify(given) => given.verify().await,
            Self::Revoke(RevokeToken { token, reason, offline, place }) => {
                let token = if token == "-" {
                    std::io::read_to_string(std::io::stdin())?.trim().to_owned()
                } else {
                    token
                };
                // Before the command: the input may be a secret, and only its id may be printed.
                let id = id_of(&token);
                let command = Command::TokenRevoke { token, reason };
                let reply = send_stop(&place, offline, AdminRequest::Command(command)).await?;
                let what = format!("revoked {}", id.as_deref().unwrap_or("what was named"));
                say_done(&what, json!({ "token": id }), &reply, place.json);
                Ok(())
            }
        }
    }
}

impl Issue {
    /// Signs a token, registers it, and prints it or its handle.
    async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let key = signing_key(&key_file(&config, self.key))?;
        for model in &self.allowed.models {
            // The model may be added to the config later, so this is only a note.
            if !is_known(&config, model) {
                eprintln!("note: the config has no model {model:?}");
            }
        }
        let holder = named_public_key(self.holder_key.as_deref())?;
        let mut limits = self.allowed.limits()?;
        // Without this constraint, each child needs a holder's key.
        if self.bearer_children {
            limits.push(Constraint::bearer_children()?);
        }
        let principal = match &self.principal {
            Some(principal) => Some(principal.parse()?),
            None => None,
        };
        let wanted = TokenContent {
            principal,
            scopes: self.allowed.scopes,
            limits,
            issuer: self.issuer,
            holder: holder.map(|holder| (holder, self.max_depth.unwrap_or(2))),
            ..TokenContent::for_agent(self.agent.clone(), self.ttl)
        };
        let token = sign(&config, &key, wanted)?;
        if self.handle {
            return handles::issue(&self.place, token, self.class).await;
        }
        if !self.offline {
            let command = Command::TokenRegister { token: token.clone(), class: self.class };
            let reply = send(&self.place, AdminRequest::Command(command)).await?;
            let (what, agent) =
                (format!("registered a token of {}", self.agent), self.agent.as_str());
            if self.place.json {
                println!("{}", done(&what, json!({ "agent": agent, "token": token }), &reply));
                return Ok(());
            }
            say_done(&what, json!({}), &reply, false);
        } else {
            let recorded = recorded(&self.place, &config, &token).await;
            if self.place.json {
                let row = json!({
                    "done": "signed", "agent": self.agent.as_str(), "token": token,
                    "recorded": recorded,
                });
                println!("{row}");
                return Ok(());
            }
        }
        println!("{token}");
        Ok(())
    }
}

/// Records that a token was signed and not registered, and returns the record's index. The owner of
/// the signing key could sign without this program. So a token is printed with a note even if it
/// cannot be recorded.
async fn recorded(place: &GatewayArgs, config: &Config, token: &str) -> Option<u64> {
    if !config.audit.dir.exists() && !config.proxy.admin.exists() {
        eprintln!("note: not recorded: the gateway and its log are not on this machine");
        return None;
    }
    match send(place, AdminRequest::Command(Command::TokenSigned { token: token.to_owned() })).await
    {
        Ok(reply) => {
            let index = reply.sealed.first().copied();
            index.iter().for_each(|index| eprintln!("recorded as #{index} {}", at(&reply)));
            index
        }
        Err(fault) => {
            eprintln!("note: not recorded: {fault}");
            None
        }
    }
}

impl Given {
    /// The token or handle, from the argument or from standard input.
    fn read(&self) -> Result<String, Failure> {
        if self.token == "-" {
            Ok(std::io::read_to_string(std::io::stdin())?)
        } else {
            Ok(self.token.clone())
        }
    }

    /// Verifies with the gateway, or with its state if it does not run. `--offline` uses only the
    /// config's JWK Sets.
    async fn verify(&self) -> Result<(), Failure> {
        let text = self.read()?;
        let row = if self.offline {
            let config = self.place.read()?;
            let keyring = Keyring::new();
            keyring.set_issuers(issuers(&config)?);
            for fault in fetch_all(&config, &keyring).await {
                eprintln!("warning: {fault}");
            }
            let presented = Presented::read(text.trim())?;
            // Two independent implementations must agree on each signature.
            let verified = verify(&presented, &keyring, &Both, SystemClock::start().now())?;
            accepted_view(&verified)
        } else {
            let asked = Question::Token { token: text.trim().to_owned() };
            let reply = send(&self.place, AdminRequest::Question(asked)).await?;
            match reply.rows.into_iter().next() {
                Some(row) => row,
                None => return Err("the gateway gave no row".into()),
            }
        };
        if self.place.json {
            println!("{row}");
        } else {
            println!(
                "valid: {} for {} until {}",
                shown(&row, "agent"),
                shown(&row, "principal"),
                shown(&row, "expires")
            );
        }
        Ok(())
    }
}
