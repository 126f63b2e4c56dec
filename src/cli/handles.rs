//! `token-shield token issue --handle` and `token renew`. Handles are hashed here: the gateway is told their SHA-256 alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::door::{Door, send};
use super::key_files::{key_file, public_file, signing_key};
use super::print::{done, say_done};
use super::values::{in_words, time};
use super::{Failure, Place};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::Request;
use crate::control::{Command, Question, Reply};
use crate::crypto::{Both, SigningKey, entropy};
use crate::id::HandleId;
use crate::keyring::{Issuer, Keyring};
use crate::token::jwk::{self, Jwk};
use crate::token::{Presented, handle, mint, verify};

#[derive(Args)]
pub(super) struct Renew {
    /// The handle or its id; - reads it from standard input, so that it does not show in the list of processes.
    #[arg(allow_hyphen_values = true)]
    handle: String,
    /// How long the new token lives; as long as the old one where it is not said.
    #[arg(long, value_parser = time)]
    ttl: Option<Duration>,
    /// The signing key; DATA/keys/operator.jwk where it is not said.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Puts a token that was just signed behind a new handle, and prints that.
pub(super) async fn issue(place: &Place, token: String, class: Option<String>) -> Result<(), Failure> {
    let fresh = handle::generate()?;
    let id = handle::adopt(&fresh)?;
    let command = Command::HandleSet { handle: id.to_string(), token, class, until: None };
    let reply = send(place, Request::Command(command)).await?;
    let what = format!("registered a token behind the handle {id}");
    if place.json {
        println!("{}", done(&what, json!({ "id": id.to_string(), "handle": &**fresh }), &reply));
        return Ok(());
    }
    say_done(&what, json!({}), &reply, false);
    println!("{}", *fresh);
    Ok(())
}

fn random() -> Result<u128, Failure> {
    Ok(u128::from_be_bytes(entropy()?))
}

impl Renew {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let given = if self.handle == "-" { std::io::read_to_string(std::io::stdin())? } else { self.handle };
        let given = Zeroizing::new(given.trim().to_owned());
        // The id, or what has it: the handle itself goes nowhere. A key of 43 characters looks like an id.
        let meant: Vec<HandleId> = given.parse().into_iter().chain(handle::id(&given)).collect();
        let file = key_file(&config, self.key);
        let key = signing_key(&file)?;
        let door = Door::open(&self.place.find()?).await?;
        let renewed = first_of(&door, &meant, (&config, &key, &file), self.ttl).await;
        door.close()?;
        let (id, reply) = renewed?;
        say_done(
            &format!("renewed the token behind the handle {id}"),
            json!({ "handle": id.to_string() }),
            &reply,
            self.place.json,
        );
        Ok(())
    }
}

/// That a life that was asked for is allowed: a shorter token than was asked for would end when nobody expects it.
fn within(ttl: Duration, now: Timestamp, ttl_max: Duration, until: Option<Timestamp>) -> Result<(), Failure> {
    if ttl > ttl_max {
        let (most, last) = (in_words(ttl_max), now.plus(ttl_max));
        return Err(format!("--ttl is more than the issuer allows: {most} (ttl_max), until {last} at the latest").into());
    }
    match until.filter(|until| now.plus(ttl) > *until) {
        Some(until) => Err(format!("--ttl is longer than the handle stands: until {until}; leave it out, or name less").into()),
        None => Ok(()),
    }
}

/// Renews the first of these that is a handle; where none is, says what is wrong with the last.
async fn first_of(
    door: &Door,
    meant: &[HandleId],
    with: (&Config, &SigningKey, &Path),
    ttl: Option<Duration>,
) -> Result<(HandleId, Reply), Failure> {
    let mut fault: Failure = "this is a token, not a handle".into();
    for id in meant {
        match renew(door, *id, with, ttl).await {
            Ok(reply) => return Ok((*id, reply)),
            Err(why) => fault = why,
        }
    }
    Err(fault)
}

/// That the token to be renewed was signed by this key, or by one beside it in its public file; that it is for the issuer and
/// the gateway of the config; and that it is that agent's. What a gateway hands over is not signed unseen. The answer is how
/// long tokens of that issuer may live.
fn ours(config: &Config, (key, file): (&SigningKey, &Path), former: &str, agent: &str) -> Result<Duration, Failure> {
    let own = Jwk::of(key.public()?);
    let beside = std::fs::read_to_string(public_file(file)).ok().and_then(|text| jwk::read_set(&text).ok());
    let keys: Vec<Jwk> = std::iter::once(own).chain(beside.into_iter().flatten()).collect();
    let presented = Presented::read(former)?;
    let taken = config.guard.issuers.iter().find_map(|issuer| {
        let keyring = Keyring::new();
        keyring.set_issuers(vec![Issuer { policy: Arc::new(issuer.policy()), keys: keys.clone() }]);
        // As it was when it was signed: it may have run out meanwhile, which is why it is renewed.
        let issued = presented.issued()?;
        verify(&presented, &keyring, &Both, issued).ok().map(|taken| (taken, issuer.ttl_max))
    });
    match taken {
        Some((taken, ttl_max)) if taken.agent().as_str() == agent => Ok(ttl_max),
        _ => {
            Err("the gateway gave a token that this key did not sign for that agent, issuer and gateway: nothing was signed"
                .into())
        }
    }
}

async fn renew(
    door: &Door,
    id: HandleId,
    (config, key, file): (&Config, &SigningKey, &Path),
    ttl: Option<Duration>,
) -> Result<Reply, Failure> {
    let reply = door.send(Request::Question(Question::Handle { handle: id.to_string() })).await?;
    let row = reply.rows.first().ok_or("no such handle is registered")?;
    let text = |name: &str| row.get(name).and_then(serde_json::Value::as_str);
    if text("revoked").is_some() {
        return Err("the handle was revoked and stays so; issue a new handle".into());
    }
    let until = text("until").map(str::parse).transpose()?;
    let former = text("token").ok_or("the gateway gave no token")?;
    let agent = text("agent").ok_or("the gateway gave no agent")?;
    let (ttl_max, now) = (ours(config, (key, file), former, agent)?, SystemClock::start().now());
    ttl.map_or(Ok(()), |ttl| within(ttl, now, ttl_max, until))?;
    eprintln!("renewing a token of {agent}");
    let token = mint::renew(former, key, now, (ttl, until), random()?)?;
    door.send(Request::Command(Command::HandleRenew { handle: id.to_string(), token })).await
}
