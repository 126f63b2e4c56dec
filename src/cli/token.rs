//! `token-shield token …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, Subcommand};
use serde_json::json;

use super::adopt::{self, Adopt};
use super::delegate::Delegate;
use super::door::{brake, send};
use super::handles::{self, Renew};
use super::key_files::{key_file, public_key, signing_key};
use super::limits::Allowed;
use super::print::{at, done, say_done};
use super::sign::{Wanted, sign};
use super::values::{agent_name, time};
use super::vectors::Vectors;
use super::{Failure, Place};
use crate::app::issuers;
use crate::app::keys::fetch_all;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::control::api::Request;
use crate::control::{Command, Question, taken};
use crate::crypto::Both;
use crate::id::AgentName;
use crate::keyring::Keyring;
use crate::token::constraint::Constraint;
use crate::token::{Presented, handle, inspect, verify};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Sign a token, register it, and print it.
    #[command(
        after_help = "Example: token-shield token issue --agent research/summarizer --principal team:research --model llama-3.1-8b --rpm 60 --ttl 1h"
    )]
    Issue(Box<Issue>),
    /// Read vectors, a JSON object a line, and say of each whether the door would take its token.
    #[command(after_help = "Example: token-shield token verify-vectors vectors.jsonl")]
    VerifyVectors(Vectors),
    /// Sign a narrower token below another, offline, and print the chain.
    #[command(
        after_help = "Example: token-shield token delegate --parent parent.token --holder-key holder.jwk --name reader --ttl 10m --rpm 10"
    )]
    Delegate(Delegate),
    /// Say what a token says, without trusting it.
    #[command(after_help = "Example: token-shield token inspect \"$OPENAI_API_KEY\"")]
    Inspect(Given),
    /// Verify a token with the gateway's own code and keys, by two implementations of each signature.
    #[command(after_help = "Example: token-shield token verify \"$OPENAI_API_KEY\"")]
    Verify(Given),
    /// Sign a newer token and put it behind the same handle.
    #[command(after_help = "Example: token-shield token renew - --ttl 7d < agent.handle")]
    Renew(Renew),
    /// Take API keys that agents have already as handles, each for a token of its own.
    #[command(after_help = adopt::HELP)]
    Adopt(Adopt),
    /// Refuse a token or a handle from now on.
    #[command(after_help = "Example: token-shield token revoke 01JB7Q2FZKX3V9T4M8N6P5R0SD --reason \"leaked\"")]
    Revoke(Revoke),
}

#[derive(Args)]
pub(super) struct Issue {
    /// namespace/name; without a slash the namespace is `default`.
    #[arg(long, value_parser = agent_name)]
    agent: AgentName,
    /// In whose name it acts; `team:NAMESPACE` where it is not said.
    #[arg(long)]
    principal: Option<String>,
    #[command(flatten)]
    allowed: Allowed,
    /// How long it lives.
    #[arg(long, default_value = "1h", value_parser = time)]
    ttl: Duration,
    /// The agent's class, a [class.NAME] of the config.
    #[arg(long)]
    class: Option<String>,
    /// The issuer, where the config has several.
    #[arg(long)]
    issuer: Option<String>,
    /// The public key (FILE.pub) of whoever may delegate this token; it is then no bearer token.
    #[arg(long, value_name = "FILE.pub")]
    holder_key: Option<PathBuf>,
    /// How many tokens a chain may have that begins with this one (2 to 4); with --holder-key.
    #[arg(long, requires = "holder_key", default_value_if("holder_key", ArgPredicate::IsPresent, "2"), value_parser = clap::value_parser!(u64).range(2..=4))]
    max_depth: Option<u64>,
    /// Let tokens below this one be bearer tokens (of 15 minutes at the most); with --holder-key.
    #[arg(long, requires = "holder_key")]
    bearer_children: bool,
    /// The signing key; DATA/keys/operator.jwk where it is not said.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print a handle (ts_…) in the token's place: short, and renewed without a change for its agent (token renew).
    #[arg(long, conflicts_with_all = ["offline", "holder_key"])]
    handle: bool,
    /// Only sign; do not register. Where the gateway or its log is at hand, it is recorded there; elsewhere that is said.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Given {
    /// The token or handle; - reads it from standard input, so that it does not show in the list of processes.
    token: String,
    /// Verify with the config's JWK Sets alone: revocations and standing are not asked.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// A token's id or its jti, a handle's id, the token or handle itself; or - to read one of them from standard input.
    #[arg(allow_hyphen_values = true)]
    token: String,
    /// Why; it stands in the record.
    #[arg(long)]
    reason: String,
    /// Act on the data folder of a gateway that does not run, also where it is found and not named.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: Place,
}

/// What may be said of a token or handle on the terminal: its id. What else was given may be a name or a secret, and is not
/// repeated.
fn id_of(given: &str) -> Option<String> {
    let own = handle::id(given).filter(|_| given.starts_with(handle::PREFIX)).map(|id| id.to_string());
    own.or_else(|| Presented::read(given).ok().map(|presented| presented.id().to_string()))
}

impl Verb {
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
                            println!("{}token {} of {}", if place > 0 { "\n" } else { "" }, place + 1, tokens.len());
                        }
                        for (name, value) in lines {
                            println!("{name:22} {value}");
                        }
                    }
                }
                eprintln!("nothing of this was verified; token-shield token verify does that");
                Ok(())
            }
            Self::Renew(renew) => renew.run().await,
            Self::Adopt(adopt) => adopt.run().await,
            Self::Delegate(delegate) => delegate.run(),
            Self::VerifyVectors(vectors) => vectors.run(),
            Self::Verify(given) => given.verify().await,
            Self::Revoke(Revoke { token, reason, offline, place }) => {
                let token = if token == "-" { std::io::read_to_string(std::io::stdin())?.trim().to_owned() } else { token };
                let id = id_of(&token);
                let command = Command::TokenRevoke { token, reason };
                let reply = brake(&place, offline, Request::Command(command)).await?;
                let what = format!("revoked {}", id.as_deref().unwrap_or("what was named"));
                say_done(&what, json!({ "token": id }), &reply, place.json);
                Ok(())
            }
        }
    }
}

impl Issue {
    async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let key = signing_key(&key_file(&config, self.key))?;
        let known = |name: &String| config.guard.models.iter().any(|model| model.name == *name || model.aliases.contains(name));
        for model in self.allowed.models.iter().filter(|model| !known(model)) {
            eprintln!("note: the config has no model {model:?}");
        }
        let holder = self.holder_key.as_deref().map(public_key).transpose()?;
        let mut limits = self.allowed.limits()?;
        if self.bearer_children {
            limits.push(Constraint::bearer_children()?);
        }
        let wanted = Wanted {
            principal: self.principal.map(|principal| principal.parse()).transpose()?,
            scopes: self.allowed.scopes,
            limits,
            issuer: self.issuer,
            holder: holder.map(|holder| (holder, self.max_depth.unwrap_or(2))),
            ..Wanted::for_agent(self.agent.clone(), self.ttl)
        };
        let token = sign(&config, &key, wanted)?;
        if self.handle {
            return handles::issue(&self.place, token, self.class).await;
        }
        if !self.offline {
            let command = Command::TokenRegister { token: token.clone(), class: self.class };
            let reply = send(&self.place, Request::Command(command)).await?;
            let (what, agent) = (format!("registered a token of {}", self.agent), self.agent.as_str());
            if self.place.json {
                println!("{}", done(&what, json!({ "agent": agent, "token": token }), &reply));
                return Ok(());
            }
            say_done(&what, json!({}), &reply, false);
        } else {
            let recorded = recorded(&self.place, &config, &token).await;
            if self.place.json {
                let row = json!({ "done": "signed", "agent": self.agent.as_str(), "token": token, "recorded": recorded });
                println!("{row}");
                return Ok(());
            }
        }
        println!("{token}");
        Ok(())
    }
}

/// Records that a token was signed and not registered, and gives the record's index. Whoever has the signing key can sign without
/// this program, so a token that cannot be recorded is signed all the same: that is said.
async fn recorded(place: &Place, config: &Config, token: &str) -> Option<u64> {
    if !config.audit.dir.exists() && !config.proxy.admin.exists() {
        eprintln!("note: not recorded: neither the gateway nor its log is here");
        return None;
    }
    match send(place, Request::Command(Command::TokenSigned { token: token.to_owned() })).await {
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
    fn read(&self) -> Result<String, Failure> {
        if self.token == "-" { Ok(std::io::read_to_string(std::io::stdin())?) } else { Ok(self.token.clone()) }
    }

    /// Asks the gateway, or the books where none runs; `--offline` goes by the config's JWK Sets alone.
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
            let verified = verify(&presented, &keyring, &Both, SystemClock::start().now())?;
            taken(&verified)
        } else {
            let asked = Question::Token { token: text.trim().to_owned() };
            let reply = send(&self.place, Request::Question(asked)).await?;
            reply.rows.into_iter().next().ok_or("the gateway gave no row")?
        };
        if self.place.json {
            println!("{row}");
        } else {
            let member = |name: &str| row.get(name).and_then(serde_json::Value::as_str).unwrap_or("-").to_owned();
            println!("valid: {} for {} until {}", member("agent"), member("principal"), member("expires"));
        }
        Ok(())
    }
}
