//! `token-shield token issue --handle` and `token renew`. Handles are hashed in this process: the
//! gateway gets only their SHA-256.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::admin_client::{AdminClient, send};
use super::key_files::{key_file, public_file, public_keys, signing_key};
use super::print::{done, say_done};
use super::rows::text;
use super::values::{in_words, time};
use super::{Failure, GatewayArgs};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, Reply};
use crate::crypto::{Both, SigningKey, entropy};
use crate::id::HandleId;
use crate::keyring::{IssuerKeys, Keyring};
use crate::token::jwk::Jwk;
use crate::token::{Presented, handle, mint, verify};

#[derive(Args)]
pub(super) struct Renew {
    /// The handle or its id. - reads it from standard input, so that the process list does not show
    /// it.
    #[arg(allow_hyphen_values = true)]
    handle: String,
    /// The lifetime of the new token. Default: that of the old one.
    #[arg(long, value_parser = time)]
    ttl: Option<Duration>,
    /// The signing key. Default: DATA/keys/operator.jwk.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    place: GatewayArgs,
}

/// Registers a new handle with a token that was just signed, and prints the handle.
pub(super) async fn issue(
    place: &GatewayArgs,
    token: String,
    class: Option<String>,
) -> Result<(), Failure> {
    // Made in this process. The gateway never gets the handle, only its hash.
    let fresh = handle::generate()?;
    let id = handle::adopt(&fresh)?;
    let command = Command::HandleSet { handle: id.to_string(), token, class, until: None };
    // The handle is printed after its registration, so a printed handle always works.
    let reply = send(place, AdminRequest::Command(command)).await?;
    let what = format!("registered a token with the handle {id}");
    if place.json {
        println!("{}", done(&what, json!({ "id": id.to_string(), "handle": &**fresh }), &reply));
        return Ok(());
    }
    say_done(&what, json!({}), &reply, false);
    println!("{}", *fresh);
    Ok(())
}

/// A random number for a token's id.
fn random() -> Result<u128, Failure> {
    Ok(u128::from_be_bytes(entropy()?))
}

impl Renew {
    /// Renews the token of the handle.
    ///
    /// # Errors
    /// If there is no such handle, or the token in it is not of this key, agent and gateway.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let given = if self.handle == "-" {
            std::io::read_to_string(std::io::stdin())?
        } else {
            self.handle
        };
        let given = Zeroizing::new(given.trim().to_owned());
        // Only ids are sent, never the handle itself. A key of 43 characters has the form of an id.
        let meant: Vec<HandleId> = given.parse().into_iter().chain(handle::id(&given)).collect();
        let file = key_file(&config, self.key);
        let key = signing_key(&file)?;
        let client = AdminClient::open(&self.place.find()?).await?;
        let signer = HandleSigner { config: &config, key: &key, file: &file };
        let renewed = signer.first_of(&client, &meant, self.ttl).await;
        client.close()?;
        let (id, reply) = renewed?;
        say_done(
            &format!("renewed the token of the handle {id}"),
            json!({ "handle": id.to_string() }),
            &reply,
            self.place.json,
        );
        Ok(())
    }
}

/// Checks that a requested lifetime is allowed. A silently shortened token would end unexpectedly.
fn within(
    ttl: Duration,
    now: Timestamp,
    ttl_max: Duration,
    until: Option<Timestamp>,
) -> Result<(), Failure> {
    if ttl > ttl_max {
        let (most, last) = (in_words(ttl_max), now.plus(ttl_max));
        return Err(format!(
            "--ttl is more than the issuer allows: {most} (ttl_max), until {last} at the latest"
        )
        .into());
    }
    match until.filter(|until| now.plus(ttl) > *until) {
        Some(until) => Err(format!(
            "--ttl is longer than the handle is valid: until {until}; omit it, or use a shorter one"
        )
        .into()),
        None => Ok(()),
    }
}

/// Signs the new tokens of handles.
struct HandleSigner<'s> {
    config: &'s Config,
    key: &'s SigningKey,
    /// The file of the key. Its public half is in a file beside it.
    file: &'s Path,
}

impl HandleSigner<'_> {
    /// Renews the first of these that is registered. If none is, returns the fault of the last one.
    async fn first_of(
        &self,
        client: &AdminClient,
        meant: &[HandleId],
        ttl: Option<Duration>,
    ) -> Result<(HandleId, Reply), Failure> {
        let mut fault: Failure = "this is a token, not a handle".into();
        for id in meant {
            let question = Question::Handle { handle: id.to_string() };
            match client.send(AdminRequest::Question(question)).await {
                Ok(reply) => match reply.rows.first() {
                    Some(row) => return Ok((*id, self.renew(client, *id, row, ttl).await?)),
                    None => fault = "no such handle is registered".into(),
                },
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    /// Signs a new token for the handle of a row, and registers it.
    async fn renew(
        &self,
        client: &AdminClient,
        id: HandleId,
        row: &Value,
        ttl: Option<Duration>,
    ) -> Result<Reply, Failure> {
        if text(row, "revoked").is_some() {
            return Err("the handle is revoked for ever; issue a new handle".into());
        }
        let until: Option<Timestamp> = match text(row, "until") {
            Some(until) => Some(until.parse()?),
            None => None,
        };
        let former = text(row, "token").ok_or("the gateway gave no token")?;
        let agent = text(row, "agent").ok_or("the gateway gave no agent")?;
        let (ttl_max, now) = (self.ours(former, agent)?, SystemClock::start().now());
        // The checks come before the signature. A signed token cannot be taken back without a
        // revocation.
        if let Some(ttl) = ttl {
            within(ttl, now, ttl_max, until)?;
        }
        eprintln!("renewing a token of {agent}");
        let term = mint::RenewalTerm { lifetime: ttl, latest: until };
        let token = mint::renew(former, self.key, now, term, random()?)?;
        let command = Command::HandleRenew { handle: id.to_string(), token };
        client.send(AdminRequest::Command(command)).await
    }

    /// Checks a token that the gateway returned, before it is signed again. It must be signed by
    /// this key, or by one in the key's public file. It must be for the issuer and the gateway of
    /// the config, and for that agent. Returns the longest lifetime of the issuer's tokens.
    ///
    /// A compromised gateway could otherwise obtain a signature under any content.
    fn ours(&self, former: &str, agent: &str) -> Result<Duration, Failure> {
        let mut keys = vec![Jwk::of(self.key.public()?)];
        // After a rotation, the handle's token may still be of the old key.
        if let Some(beside) = public_keys(&public_file(self.file)) {
            keys.extend(beside);
        }
        let presented = Presented::read(former)?;
        for issuer in &self.config.guard.issuers {
            // At the time of its signature: it may have expired since, and therefore needs a
            // renewal.
            let Some(issued) = presented.issued() else { break };
            let keyring = Keyring::new();
            let policy = Arc::new(issuer.policy());
            keyring.set_issuers(vec![IssuerKeys { policy, keys: keys.clone() }]);
            // The first issuer whose policy the token fits decides.
            if let Ok(taken) = verify(&presented, &keyring, &Both, issued) {
                if taken.agent().as_str() == agent {
                    return Ok(issuer.ttl_max);
                }
                break;
            }
        }
        Err("the gateway gave a token that this key did not sign for that agent, issuer and \
            gateway: no token was signed"
            .into())
    }
}
