//! `token-shield token adopt`: existing API keys become handles. The gateway gets only their
//! SHA-256. The file is never printed, because a column in the wrong place would show a key.

mod lines;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use zeroize::Zeroizing;

use super::admin_client::AdminClient;
use super::key_files::{key_file, signing_key};
use super::limits::Allowed;
use super::print::print;
use super::rows::{shown, text};
use super::sign::{TokenContent, issuer, sign};
use super::values::{agent_name, in_words};
use super::{Failure, GatewayArgs};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, Reply};
use crate::crypto::SigningKey;
use crate::guard::settings::Issuer;
use crate::id::{AgentName, Principal};
use crate::token::{Scopes, handle};
use lines::{CsvLine, LineFault, ParsedFile, Wish, understood};

pub(super) const HELP: &str = "\
The file is CSV with a header line. It needs the columns key and agent. It may also have principal,
class, models, scopes, rpm, rps, in_flight and output_tokens. Several models or scopes have spaces
between them. A fault names its line. The content of the line is never printed.

Example: token-shield token adopt --from keys.csv --until 2027-03-31

    key,agent,models,rpm
    sk-Zm9vYmFyYmF6cXV4,research/summarizer,llama-3.1-8b bge-m3,60";

/// The maximum of lines with faults that are listed.
const FAULTS_SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct Adopt {
    /// A CSV file with the columns key and agent, and optional columns: see below.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The time from which the keys are refused: a day (from 00:00 UTC), 2027-03-31, or a time,
    /// 2027-03-31T12:00:00Z.
    #[arg(long, value_parser = moment)]
    until: Timestamp,
    /// The issuer, if the config has several.
    #[arg(long)]
    issuer: Option<String>,
    /// The signing key. Default: DATA/keys/operator.jwk.
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    place: GatewayArgs,
}

/// Reads a day (from 00:00 UTC) or a time (RFC 3339).
fn moment(text: &str) -> Result<Timestamp, String> {
    let read = match text.parse::<jiff::civil::Date>() {
        // The parser takes the day of a time too. Only a day alone has 10 characters.
        Ok(day) if text.len() == 10 => format!("{day}T00:00:00Z").parse::<jiff::Timestamp>(),
        Ok(_) | Err(_) => text.parse(),
    };
    match read {
        Ok(read) => Ok(Timestamp(read.as_millisecond())),
        Err(_) => {
            Err("write a day such as 2027-03-31, or a time such as 2027-03-31T12:00:00Z".to_owned())
        }
    }
}

/// The words of a cell, separated by spaces.
fn words(text: Option<String>) -> Vec<String> {
    let Some(text) = text else { return Vec::new() };
    text.split_whitespace().map(str::to_owned).collect()
}

impl Adopt {
    /// Adopts all keys of the file.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let now = SystemClock::start().now();
        let left = self.left(now)?;
        let key = signing_key(&key_file(&config, self.key.clone()))?;
        let issuer = issuer(&config, self.issuer.as_deref())?;
        // Each key gets a token, and a token may not live longer than the issuer allows.
        if left > issuer.ttl_max {
            let (most, last) = (in_words(issuer.ttl_max), now.plus(issuer.ttl_max));
            return Err(format!(
                "--until is later than the issuer allows: {most} from now (ttl_max), \
                    {last} at the latest"
            )
            .into());
        }
        // All lines are checked before the first one is sent.
        let wishes = self.read(&config, issuer, left)?;
        let client = AdminClient::open(&self.place.find()?).await?;
        let mut done = 0;
        let outcome = async {
            for wish in wishes {
                // An error could repeat names, and with swapped columns a name is a key.
                let (line, unsaid) = (wish.line, wish.names());
                let adopted = self.one(&client, &config, &key, wish).await;
                done += usize::from(adopted.map_err(|fault| {
                    format!("line {line}: {}", without(&fault.to_string(), &unsaid))
                })?);
            }
            Ok::<_, String>(())
        };
        let outcome = outcome.await;
        client.close()?;
        outcome.map_err(|fault| {
            format!(
                "{}: {fault}; {done} keys are adopted; run the command again to continue",
                self.from.display()
            )
        })?;
        let note = format!("{} still contains the keys in plain text", self.from.display());
        if self.place.json {
            println!(
                "{}",
                serde_json::json!({
                    "done": format!("{done} keys are adopted"), "adopted": done, "note": note,
                })
            );
        } else {
            eprintln!("{done} keys are adopted; {note}");
        }
        Ok(())
    }

    /// The time for which the keys may be used.
    fn left(&self, now: Timestamp) -> Result<Duration, Failure> {
        match u64::try_from(self.until.seconds() - now.seconds()) {
            Ok(left) if left > 0 => Ok(Duration::from_secs(left)),
            Ok(_) | Err(_) => Err("--until is in the past".into()),
        }
    }

    /// The message about a key that was adopted before. The names come from the gateway's state.
    fn left_as_it_is(&self, wish: &Wish, row: &serde_json::Value) -> String {
        if text(row, "revoked").is_some() {
            return "revoked before, not changed".to_owned();
        }
        let same = text(row, "agent") == Some(wish.agent.as_str())
            && text(row, "until") == Some(self.until.to_string().as_str());
        if same {
            return "adopted before".to_owned();
        }
        let (agent, until) = (shown(row, "agent"), shown(row, "until"));
        format!(
            "WARNING: adopted before for {agent} until {until}, not changed: to change this, \
                revoke it"
        )
    }

    /// Adopts one key. `false` if it was adopted before.
    async fn one(
        &self,
        client: &AdminClient,
        config: &Config,
        key: &SigningKey,
        mut wish: Wish,
    ) -> Result<bool, Failure> {
        let id = wish.handle.to_string();
        // A second run continues where the first one stopped, so each key is looked up first.
        let known =
            client.send(AdminRequest::Question(Question::Handle { handle: id.clone() })).await?;
        if let Some(row) = known.rows.first() {
            eprintln!("line {}: {}", wish.line, self.left_as_it_is(&wish, row));
            return Ok(false);
        }
        // A long file takes time, so the remaining time is computed again for each line.
        let now = SystemClock::start().now();
        wish.wanted.ttl = wish.wanted.ttl.min(self.left(now)?);
        let expires = now.plus(wish.wanted.ttl);
        let token = sign(config, key, wish.wanted)?;
        let until = Some(self.until.to_string());
        let command = Command::HandleSet { handle: id.clone(), token, class: wish.class, until };
        let reply = client.send(AdminRequest::Command(command)).await?;
        let row = serde_json::json!({
            "line": wish.line, "handle": id, "expires": expires.min(self.until).to_string(),
            "sealed": reply.sealed,
        });
        print(&Reply { rows: vec![row], ..reply }, self.place.json)?;
        Ok(true)
    }

    /// Reads and checks the whole file. No key is adopted if a line has a fault.
    fn read(&self, config: &Config, issuer: &Issuer, ttl: Duration) -> Result<Vec<Wish>, Failure> {
        let shown = self.from.display();
        // The text has keys in plain text, so the memory is cleared after use.
        let text = Zeroizing::new(
            std::fs::read_to_string(&self.from).map_err(|error| format!("{shown}: {error}"))?,
        );
        let ParsedFile { wishes, faults } =
            understood(&text, |line, number| self.wish(config, issuer, line, number, ttl))
                .map_err(|fault| format!("{shown}: line 1: {fault}"))?;
        if faults.is_empty() {
            return Ok(wishes);
        }
        let mut lines = Vec::new();
        // A wrong column makes every line a fault.
        for fault in faults.iter().take(FAULTS_SHOWN) {
            lines.push(format!("  line {}: {}", fault.line, fault.why));
        }
        if faults.len() > FAULTS_SHOWN {
            lines.push(format!("  and {} more lines", faults.len() - FAULTS_SHOWN));
        }
        Err(format!(
            "{shown}: no key was adopted; {} lines have faults:\n{}",
            faults.len(),
            lines.join("\n")
        )
        .into())
    }

    /// Checks one line.
    ///
    /// # Errors
    /// The first fault of the line, by column.
    fn wish(
        &self,
        config: &Config,
        issuer: &Issuer,
        line: CsvLine,
        number: u64,
        ttl: Duration,
    ) -> Result<Wish, LineFault> {
        let handle = handle::adopt(&line.key).map_err(|fault| fault.to_string())?;
        // Swapped columns are found before a name is printed, because it could be a key.
        if line.key.contains('/') && line.key.parse::<AgentName>().is_ok() {
            return Err(
                "the column key holds what looks like an agent's name: are the columns in the \
                    order of the header line?"
                    .into(),
            );
        }
        if looks_like_a_key(&line.agent) {
            return Err(
                "the column agent holds what looks like an API key: are the columns in the \
                order of the header line? \
                        (a name has the form NAMESPACE/NAME)"
                    .into(),
            );
        }
        let agent = agent_name(&line.agent).map_err(|_| {
            "the column agent is not an agent name: NAMESPACE/NAME, parts of \
                [a-z0-9][a-z0-9._-]{0,62}"
                .to_owned()
        })?;
        if !issuer
            .namespaces
            .iter()
            .any(|namespace| namespace == "*" || namespace == agent.namespace())
        {
            return Err(
                "the column agent has a namespace that the issuer may not speak for (namespaces)"
                    .into(),
            );
        }
        let named = line.principal.filter(|text| !text.is_empty());
        let principal = principal_of(issuer, named.as_deref(), &agent)?;
        let class = line.class.filter(|text| !text.is_empty());
        if let Some(class) = &class
            && !config.guard.classes.contains_key(class)
        {
            return Err("the column class is not a [class.NAME] of the config".into());
        }
        let allowed = Allowed {
            models: words(line.models),
            scopes: words(line.scopes),
            rpm: line.rpm,
            rps: line.rps,
            in_flight: line.in_flight,
            output_tokens: line.output_tokens,
            ..Allowed::default()
        };
        if allowed.models.iter().any(|model| looks_like_a_key(model)) {
            return Err("the column models holds what looks like an API key".into());
        }
        if allowed.models.len() > issuer.token_list {
            return Err(format!(
                "the column models has more than {} names (token_list)",
                issuer.token_list
            ));
        }
        let mut known = Scopes::default();
        if !allowed.scopes.iter().all(|scope| known.add(scope)) {
            return Err("the column scopes has a name that is no scope (docs/TOKEN.md)".into());
        }
        let wanted = TokenContent {
            principal,
            limits: allowed.limits().map_err(|fault| fault.to_string())?,
            scopes: allowed.scopes,
            issuer: self.issuer.clone(),
            ..TokenContent::for_agent(agent.clone(), ttl)
        };
        Ok(Wish { line: number, handle, agent, class, wanted })
    }
}

/// The principal of a line. The issuer must be allowed to speak for it.
fn principal_of(
    issuer: &Issuer,
    named: Option<&str>,
    agent: &AgentName,
) -> Result<Option<Principal>, LineFault> {
    let principal = match named {
        Some(text) => Some(read_principal(text)?),
        None => None,
    };
    // The default principal of an agent is its team.
    let spoken = match &principal {
        Some(principal) => principal.to_string(),
        None => format!("team:{}", agent.namespace()),
    };
    // The gateway has the same rule. Here a file fails before its first key.
    if !issuer.principals.include(&spoken) {
        return Err("the issuer may not speak for the line's principal (principals)".into());
    }
    Ok(principal)
}

/// Reads the column `principal`.
fn read_principal(text: &str) -> Result<Principal, LineFault> {
    if has_key_prefix(text) {
        return Err("the column principal holds what looks like an API key".into());
    }
    text.parse().map_err(|_| {
        "the column principal is not a principal: 1 to 256 visible ASCII characters".to_owned()
    })
}

/// `text` without these names. The gateway's answer about a line may repeat them.
fn without(text: &str, names: &[String]) -> String {
    let mut text = text.to_owned();
    for name in names {
        text = text.replace(name.as_str(), "…");
    }
    text
}

/// The prefixes of API keys of well-known services, in lower case.
const KEY_PREFIXES: [&str; 12] =
    ["sk-", "sk_", "pk-", "pk_", "ts_", "hf_", "gsk_", "xai-", "key-", "ghp_", "eyj", "bearer"];
/// The length from which a mixed run of letters and digits counts as a key.
const KEY_RUN: usize = 16;

/// Whether a text begins with a prefix of an API key. Case does not matter.
fn has_key_prefix(text: &str) -> bool {
    for prefix in KEY_PREFIXES {
        if let Some(start) = text.get(..prefix.len())
            && start.eq_ignore_ascii_case(prefix)
        {
            return true;
        }
    }
    false
}

/// Whether a piece of a text has letters and digits, and the length of a key.
fn is_mixed_run(piece: &str) -> bool {
    let digits = piece.bytes().filter(u8::is_ascii_digit).count();
    piece.len() >= KEY_RUN && digits > 0 && digits < piece.len()
}

/// Whether a text in the place of a name looks like an API key: it has such a prefix, or a long
/// mixed run of letters and digits. A text with a slash is a name.
fn looks_like_a_key(text: &str) -> bool {
    !text.contains('/')
        && (has_key_prefix(text)
            || text.split(|character: char| !character.is_ascii_alphanumeric()).any(is_mixed_run))
}

#[cfg(test)]
mod tests;
