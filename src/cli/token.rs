//! `token-shield token …`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::door::{say_sealed, send, send_to};
use super::{Failure, Place};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::control::Command;
use crate::control::api::Request;
use crate::crypto::{Both, SigningKey, entropy};
use crate::id::{AgentName, Principal};
use crate::keyring::{Issuer, Keyring};
use crate::secret::private_file;
use crate::token::{IssuerPolicy, Presented, inspect, jwk, mint, verify};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Sign a token, register it, and print it.
    #[command(
        after_help = "Example: token-shield token issue --agent research/summarizer --principal team:research --model llama-3.1-8b --rpm 60 --ttl 1h"
    )]
    Issue(Box<Issue>),
    /// Say what a token says, without trusting it.
    #[command(after_help = "Example: token-shield token inspect \"$OPENAI_API_KEY\"")]
    Inspect(Given),
    /// Verify a token with the gateway's own code and keys, by two implementations of each signature.
    #[command(after_help = "Example: token-shield token verify --data ./data \"$OPENAI_API_KEY\"")]
    Verify(Given),
    /// Refuse a token from now on.
    #[command(after_help = "Example: token-shield token revoke 01JB7Q2FZKX3V9T4M8N6P5R0SD --reason \"leaked\"")]
    Revoke(Revoke),
}

#[derive(Args)]
pub(super) struct Issue {
    /// namespace/name; without a slash the namespace is `default`.
    #[arg(long)]
    agent: String,
    /// In whose name it acts; `team:NAMESPACE` where it is not said.
    #[arg(long)]
    principal: Option<String>,
    /// A model that it may use; repeatable. Without any: every model that its namespace sees.
    #[arg(long = "model")]
    models: Vec<String>,
    /// A scope (docs/TOKEN.md); repeatable. Without any: inference.* and models.read.
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// How long it lives.
    #[arg(long, default_value = "1h", value_parser = time)]
    ttl: Duration,
    /// Requests a minute.
    #[arg(long)]
    rpm: Option<u64>,
    /// Requests a second.
    #[arg(long)]
    rps: Option<u64>,
    /// Requests at once.
    #[arg(long)]
    in_flight: Option<u64>,
    /// Tokens an answer.
    #[arg(long)]
    output_tokens: Option<u64>,
    /// The agent's class, a [class.NAME] of the config.
    #[arg(long)]
    class: Option<String>,
    /// The issuer, where the config has several.
    #[arg(long)]
    issuer: Option<String>,
    /// The signing key; DATA/keys/operator.jwk where it is not said.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Only sign; do not register.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Given {
    /// The token, or - to read it from standard input.
    token: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// The token's id or its jti.
    token: String,
    /// Why; it stands in the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    place: Place,
}

fn time(text: &str) -> Result<Duration, String> {
    crate::config::duration(text).ok_or_else(|| "write a time with its unit, such as 30m, 1h or 7d".to_owned())
}

/// What a token shall be for.
pub(super) struct Wanted {
    pub(super) agent: AgentName,
    pub(super) principal: Option<Principal>,
    pub(super) models: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) ttl: Duration,
    pub(super) limits: [Option<u64>; 4],
    pub(super) issuer: Option<String>,
}

/// Signs a token for the gateway of `config`.
pub(super) fn sign(config: &Config, key: &SigningKey, wanted: Wanted) -> Result<String, Failure> {
    let issuers = &config.guard.issuers;
    let issuer = match &wanted.issuer {
        Some(named) => issuers.iter().find(|issuer| issuer.iss == *named),
        None => issuers.first().filter(|_| issuers.len() == 1),
    };
    let issuer = issuer.ok_or("name one of the config's issuers with --issuer")?;
    if wanted.ttl > issuer.ttl_max {
        return Err(format!("the issuer's tokens live at most {} s (ttl_max)", issuer.ttl_max.as_secs()).into());
    }
    let now = SystemClock::start().now();
    let principal = match wanted.principal {
        Some(principal) => principal,
        None => format!("team:{}", wanted.agent.namespace()).parse()?,
    };
    let [rps, rpm, in_flight, output_tokens] = wanted.limits;
    let scopes = if wanted.scopes.is_empty() { vec!["inference.*".to_owned(), "models.read".to_owned()] } else { wanted.scopes };
    let request = mint::Request {
        iss: issuer.iss.clone(),
        aud: issuer.aud.clone(),
        principal,
        agent: wanted.agent,
        scopes,
        models: wanted.models,
        model_prefix: None,
        not_before: None,
        rps,
        rpm,
        in_flight,
        output_tokens,
        issued: now,
        expires: now.plus(wanted.ttl),
        jti: mint::label(now, u128::from_be_bytes(entropy()?)),
    };
    Ok(mint::mint(&request, key)?)
}

impl Verb {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Issue(issue) => issue.run().await,
            Self::Inspect(given) => {
                let lines = inspect::lines(given.read()?.trim())?;
                if given.place.json {
                    let object: serde_json::Map<_, _> = lines.into_iter().map(|(name, value)| (name, value.into())).collect();
                    println!("{}", serde_json::Value::Object(object));
                } else {
                    for (name, value) in lines {
                        println!("{name:22} {value}");
                    }
                }
                eprintln!("nothing of this was verified; token-shield token verify does that");
                Ok(())
            }
            Self::Verify(given) => given.verify(),
            Self::Revoke(Revoke { token, reason, place }) => {
                let reply = send(&place, Request::Command(Command::TokenRevoke { token: token.clone(), reason })).await?;
                say_sealed(&format!("revoked {token}"), &reply);
                Ok(())
            }
        }
    }
}

impl Issue {
    async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let path = self.key.unwrap_or_else(|| config.data.join("keys/operator.jwk"));
        let key = jwk::read_private(&private_file(&path)?).map_err(|fault| format!("{}: {fault}", path.display()))?;
        let agent: AgentName =
            if self.agent.contains('/') { self.agent.parse()? } else { format!("default/{}", self.agent).parse()? };
        let wanted = Wanted {
            agent: agent.clone(),
            principal: self.principal.map(|principal| principal.parse()).transpose()?,
            models: self.models,
            scopes: self.scopes,
            ttl: self.ttl,
            limits: [self.rps, self.rpm, self.in_flight, self.output_tokens],
            issuer: self.issuer,
        };
        let token = sign(&config, &key, wanted)?;
        if !self.offline {
            let command = Command::TokenRegister { token: token.clone(), class: self.class };
            let reply = send_to(&config, Request::Command(command)).await?;
            say_sealed(&format!("registered a token of {agent}"), &reply);
        }
        println!("{token}");
        Ok(())
    }
}

impl Given {
    fn read(&self) -> Result<String, Failure> {
        if self.token == "-" { Ok(std::io::read_to_string(std::io::stdin())?) } else { Ok(self.token.clone()) }
    }

    /// Verifies with the keys of the config's JWK Sets; standing is the running gateway's to say.
    fn verify(&self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let keyring = Keyring::new();
        let mut issuers = Vec::new();
        for issuer in &config.guard.issuers {
            let keys = match &issuer.jwks {
                Some(path) => {
                    jwk::read_set(&std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?)?
                }
                None => Vec::new(),
            };
            let policy = IssuerPolicy {
                iss: issuer.iss.clone(),
                aud: issuer.aud.clone(),
                namespaces: issuer.namespaces.clone(),
                ttl_max: issuer.ttl_max,
                post_quantum: issuer.post_quantum,
            };
            issuers.push(Issuer { policy: Arc::new(policy), keys });
        }
        keyring.set_issuers(issuers);
        let text = self.read()?;
        let presented = Presented::read(text.trim())?;
        let verified = verify(&presented, &keyring, &Both, SystemClock::start().now())?;
        if self.place.json {
            println!(
                "{}",
                serde_json::json!({"valid": true, "id": verified.id().to_string(), "agent": verified.agent().as_str(), "expires": verified.expires().to_string()})
            );
        } else {
            println!("valid: {} for {} until {}", verified.agent(), verified.principal(), verified.expires());
        }
        Ok(())
    }
}
