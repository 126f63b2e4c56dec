//! `token-shield token issue --handle`, `token renew` and `token adopt`. Handles and keys are hashed here: the gateway is told
//! their SHA-256 alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::door::{Door, print, say_sealed, send_to};
use super::keys::public_file;
use super::limits::Allowed;
use super::token::{Wanted, key_file, sign, signing_key, time};
use super::{Failure, Place, agent_name};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::Request;
use crate::control::{Command, Question, Reply};
use crate::crypto::{Both, SigningKey, entropy};
use crate::id::{AgentName, HandleId};
use crate::keyring::{Issuer, Keyring};
use crate::token::jwk::{self, Jwk};
use crate::token::{Presented, handle, mint, verify};

pub(super) const ADOPT_HELP: &str = "\
The file is CSV with a header line. Columns: key and agent; and, where wanted, principal, class, models and scopes (several
with spaces between), rpm, rps, in_flight, output_tokens.

Example: token-shield token adopt --from keys.csv --until 2027-03-31

    key,agent,models,rpm
    sk-Zm9vYmFyYmF6cXV4,research/summarizer,llama-3.1-8b bge-m3,60";

#[derive(Args)]
pub(super) struct Renew {
    /// The handle or its id; - reads it from standard input, so that it does not show in the list of processes.
    #[arg(allow_hyphen_values = true)]
    handle: String,
    /// How long the new token lives; as long as the old one where it is not said.
    #[arg(long, value_parser = time)]
    ttl: Option<Duration>,
    /// The signing key; DATA/keys/operator.jwk where it is not said.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Adopt {
    /// A CSV file with the columns key and agent, and those named below where they are wanted.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The day (its first moment, UTC) or moment from which on the keys are refused: 2027-03-31, 2027-03-31T12:00:00Z.
    #[arg(long, value_parser = moment)]
    until: Timestamp,
    /// The issuer, where the config has several.
    #[arg(long)]
    issuer: Option<String>,
    /// The signing key; DATA/keys/operator.jwk where it is not said.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let day = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == 10);
    let read = match day {
        Some(day) => format!("{day}T00:00:00Z").parse::<jiff::Timestamp>(),
        None => text.parse(),
    };
    read.map(|read| Timestamp(read.as_millisecond()))
        .map_err(|_| "write a day such as 2027-03-31, or a moment such as 2027-03-31T12:00:00Z".to_owned())
}

/// Puts a token that was just signed behind a new handle, and prints that.
pub(super) async fn issue(config: &Config, token: String, class: Option<String>) -> Result<(), Failure> {
    let fresh = handle::generate()?;
    let id = handle::adopt(&fresh)?;
    let command = Command::HandleSet { handle: id.to_string(), token, class, until: None };
    let reply = send_to(config, Request::Command(command)).await?;
    say_sealed(&format!("registered a token behind the handle {id}"), &reply);
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
        let door = Door::open(&config).await?;
        let renewed = first_of(&door, &meant, (&config, &key, &file), self.ttl).await;
        door.close()?;
        let (id, reply) = renewed?;
        say_sealed(&format!("renewed the token behind the handle {id}"), &reply);
        Ok(())
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
/// the gateway of the config; and that it is that agent's. What a gateway hands over is not signed unseen.
fn ours(config: &Config, (key, file): (&SigningKey, &Path), former: &str, agent: &str) -> Result<(), Failure> {
    let own = Jwk::of(key.public()?);
    let beside = std::fs::read_to_string(public_file(file)).ok().and_then(|text| jwk::read_set(&text).ok());
    let keys: Vec<Jwk> = std::iter::once(own).chain(beside.into_iter().flatten()).collect();
    let presented = Presented::read(former)?;
    let taken = config.guard.issuers.iter().find_map(|issuer| {
        let keyring = Keyring::new();
        keyring.set_issuers(vec![Issuer { policy: Arc::new(issuer.policy()), keys: keys.clone() }]);
        // As it was when it was signed: it may have run out meanwhile, which is why it is renewed.
        let issued = presented.issued()?;
        verify(&presented, &keyring, &Both, issued).ok()
    });
    match taken {
        Some(taken) if taken.agent().as_str() == agent => Ok(()),
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
    ours(config, (key, file), former, agent)?;
    eprintln!("renewing a token of {agent}");
    let token = mint::renew(former, key, SystemClock::start().now(), (ttl, until), random()?)?;
    door.send(Request::Command(Command::HandleRenew { handle: id.to_string(), token })).await
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Zeroizing<String>,
    agent: String,
    principal: Option<String>,
    class: Option<String>,
    models: Option<String>,
    scopes: Option<String>,
    rpm: Option<u64>,
    rps: Option<u64>,
    in_flight: Option<u64>,
    output_tokens: Option<u64>,
}

/// A line that was understood.
struct Wish {
    line: u64,
    handle: HandleId,
    agent: AgentName,
    class: Option<String>,
    wanted: Wanted,
}

fn words(text: Option<String>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

impl Adopt {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let now = SystemClock::start().now();
        self.left(now)?;
        let key = signing_key(&key_file(&config, self.key.clone()))?;
        // Every line is understood before the first one is sent.
        let wishes = self.read(lifetime(&config, self.issuer.as_deref()))?;
        let door = Door::open(&config).await?;
        let mut done = 0;
        let outcome = async {
            for wish in wishes {
                let line = wish.line;
                done += usize::from(self.one(&door, &config, &key, wish).await.map_err(|fault| format!("line {line}: {fault}"))?);
            }
            Ok::<_, String>(())
        };
        let outcome = outcome.await;
        door.close()?;
        outcome.map_err(|fault| format!("{}: {fault}; {done} keys are adopted, run it again to go on", self.from.display()))?;
        eprintln!("{done} keys are adopted; {} still holds them in the clear", self.from.display());
        Ok(())
    }

    /// How long the keys may be used from now on.
    fn left(&self, now: Timestamp) -> Result<Duration, Failure> {
        let left = u64::try_from(self.until.seconds() - now.seconds()).ok().filter(|seconds| *seconds > 0);
        Ok(Duration::from_secs(left.ok_or("--until is over already")?))
    }

    /// What is said of a key that was adopted before.
    fn left_as_it_is(&self, wish: &Wish, row: &serde_json::Value) -> String {
        let text = |name: &str| row.get(name).and_then(serde_json::Value::as_str);
        if text("revoked").is_some() {
            return "revoked before, and left so".to_owned();
        }
        let same = text("agent") == Some(wish.agent.as_str()) && text("until") == Some(self.until.to_string().as_str());
        if same {
            return "adopted before".to_owned();
        }
        let (agent, until) = (text("agent").unwrap_or("-"), text("until").unwrap_or("-"));
        format!("WARNING: adopted before for {agent} until {until}, and left so: revoke it to change that")
    }

    /// Adopts one key; false where it was adopted before.
    async fn one(&self, door: &Door, config: &Config, key: &SigningKey, mut wish: Wish) -> Result<bool, Failure> {
        let id = wish.handle.to_string();
        let known = door.send(Request::Question(Question::Handle { handle: id.clone() })).await?;
        if let Some(row) = known.rows.first() {
            eprintln!("line {}: {}", wish.line, self.left_as_it_is(&wish, row));
            return Ok(false);
        }
        // The file may be long: what is left is asked anew for each line.
        let now = SystemClock::start().now();
        wish.wanted.ttl = wish.wanted.ttl.min(self.left(now)?);
        let expires = now.plus(wish.wanted.ttl);
        let token = sign(config, key, wish.wanted)?;
        let until = Some(self.until.to_string());
        let command = Command::HandleSet { handle: id.clone(), token, class: wish.class, until };
        let reply = door.send(Request::Command(command)).await?;
        let row = serde_json::json!({
            "agent": wish.agent.as_str(), "handle": id, "expires": expires.min(self.until).to_string(), "sealed": reply.sealed,
        });
        print(&Reply { rows: vec![row], ..reply }, self.place.json)?;
        Ok(true)
    }

    fn read(&self, ttl: Duration) -> Result<Vec<Wish>, Failure> {
        let shown = self.from.display();
        let text = Zeroizing::new(std::fs::read_to_string(&self.from).map_err(|error| format!("{shown}: {error}"))?);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let headers = reader.headers().map_err(|fault| format!("{shown}: {fault}"))?.clone();
        let mut wishes: Vec<Wish> = Vec::new();
        for record in reader.records() {
            // The library's own words would repeat the line, and a key with it.
            let at = |line: u64| format!("{shown}: line {line}");
            let record = record.map_err(|fault| {
                let line = fault.position().map_or(0, csv::Position::line);
                format!("{}: it has not as many fields as the header line, or is not UTF-8", at(line))
            })?;
            let line = record.position().map_or(0, csv::Position::line);
            let read: Line =
                record.deserialize(Some(&headers)).map_err(|fault| format!("{}: {}", at(line), column(&fault, &headers)))?;
            let wish = self.wish(read, line, ttl).map_err(|fault| format!("{}: {fault}", at(line)))?;
            if let Some(other) = wishes.iter().find(|other| other.handle == wish.handle) {
                return Err(format!("{}: the key of line {} again", at(line), other.line).into());
            }
            wishes.push(wish);
        }
        Ok(wishes)
    }

    fn wish(&self, line: Line, number: u64, ttl: Duration) -> Result<Wish, Failure> {
        let handle = handle::adopt(&line.key)?;
        let agent = agent_name(&line.agent)?;
        let allowed = Allowed {
            models: words(line.models),
            scopes: words(line.scopes),
            rpm: line.rpm,
            rps: line.rps,
            in_flight: line.in_flight,
            output_tokens: line.output_tokens,
            ..Allowed::default()
        };
        let wanted = Wanted {
            principal: line.principal.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?,
            limits: allowed.limits()?,
            scopes: allowed.scopes,
            issuer: self.issuer.clone(),
            ..Wanted::for_agent(agent.clone(), ttl)
        };
        Ok(Wish { line: number, handle, agent, class: line.class.filter(|text| !text.is_empty()), wanted })
    }
}

/// What is wrong with a line, without its text.
fn column(fault: &csv::Error, headers: &csv::StringRecord) -> String {
    let csv::ErrorKind::Deserialize { err, .. } = fault.kind() else { return "it cannot be read".to_owned() };
    match (err.kind(), err.field().and_then(|place| headers.get(usize::try_from(place).ok()?))) {
        (csv::DeserializeErrorKind::Message(what), _) => what.clone(),
        (_, Some(name)) => format!("the column {name} is not a number"),
        (_, None) => "a column is missing".to_owned(),
    }
}

/// How long a token of that issuer may live.
fn lifetime(config: &Config, issuer: Option<&str>) -> Duration {
    let issuers = &config.guard.issuers;
    let named = issuers.iter().find(|known| issuer.is_none_or(|issuer| known.iss == issuer));
    named.map_or(Duration::MAX, |known| known.ttl_max)
}
