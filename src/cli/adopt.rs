//! `token-shield token adopt`: existing API keys become handles. The gateway gets only their
//! SHA-256. The file is never printed, because a column in the wrong place would show a key.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::admin_client::AdminClient;
use super::key_files::{key_file, signing_key};
use super::limits::Allowed;
use super::print::print;
use super::sign::{TokenContent, sign};
use super::values::{agent_name, in_words};
use super::{Failure, GatewayArgs};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::AdminRequest;
use crate::control::{Command, Question, Reply};
use crate::crypto::SigningKey;
use crate::guard::settings::Issuer;
use crate::id::{AgentName, HandleId, Principal};
use crate::token::{Scopes, handle};

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
    let day = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == 10);
    let read = match day {
        Some(day) => format!("{day}T00:00:00Z").parse::<jiff::Timestamp>(),
        None => text.parse(),
    };
    read.map(|read| Timestamp(read.as_millisecond())).map_err(|_| {
        "write a day such as 2027-03-31, or a time such as 2027-03-31T12:00:00Z".to_owned()
    })
}

/// One line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CsvLine {
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

/// The columns of a file.
const COLUMNS: [&str; 10] = [
    "key",
    "agent",
    "principal",
    "class",
    "models",
    "scopes",
    "rpm",
    "rps",
    "in_flight",
    "output_tokens",
];

/// A valid line, ready to be adopted.
struct Wish {
    line: u64,
    handle: HandleId,
    agent: AgentName,
    class: Option<String>,
    wanted: TokenContent,
}

/// The reason why a line is not valid. It contains no text of the line.
type LineFault = String;

/// The words of a cell, separated by spaces.
fn words(text: Option<String>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

impl Adopt {
    /// Adopts all keys of the file.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let now = SystemClock::start().now();
        let left = self.left(now)?;
        let key = signing_key(&key_file(&config, self.key.clone()))?;
        let issuer = self.issuer(&config)?;
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
        let wishes = self.read((&config, issuer), left)?;
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
                serde_json::json!({ "done": format!("{done} keys are \
                    adopted"), "adopted": done, "note": note })
            );
        } else {
            eprintln!("{done} keys are adopted; {note}");
        }
        Ok(())
    }

    /// The issuer of the tokens for the keys.
    fn issuer<'c>(&self, config: &'c Config) -> Result<&'c Issuer, Failure> {
        let issuers = &config.guard.issuers;
        let issuer = match &self.issuer {
            Some(named) => issuers.iter().find(|issuer| issuer.iss == *named),
            None => issuers.first().filter(|_| issuers.len() == 1),
        };
        Ok(issuer.ok_or("name one of the config's issuers with --issuer")?)
    }

    /// The time for which the keys may be used.
    fn left(&self, now: Timestamp) -> Result<Duration, Failure> {
        let left =
            u64::try_from(self.until.seconds() - now.seconds()).ok().filter(|seconds| *seconds > 0);
        Ok(Duration::from_secs(left.ok_or("--until is in the past")?))
    }

    /// The message about a key that was adopted before. The names come from the gateway's state.
    fn left_as_it_is(&self, wish: &Wish, row: &serde_json::Value) -> String {
        let text = |name: &str| row.get(name).and_then(serde_json::Value::as_str);
        if text("revoked").is_some() {
            return "revoked before, not changed".to_owned();
        }
        let same = text("agent") == Some(wish.agent.as_str())
            && text("until") == Some(self.until.to_string().as_str());
        if same {
            return "adopted before".to_owned();
        }
        let (agent, until) = (text("agent").unwrap_or("-"), text("until").unwrap_or("-"));
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
            "line": wish.line, "handle": id, "expires": expires.min(self.until).to_string(), "sealed": reply.sealed,
        });
        print(&Reply { rows: vec![row], ..reply }, self.place.json)?;
        Ok(true)
    }

    /// Reads and checks the whole file. No key is adopted if a line has a fault.
    fn read(&self, place: (&Config, &Issuer), ttl: Duration) -> Result<Vec<Wish>, Failure> {
        let shown = self.from.display();
        // The text has keys in plain text, so the memory is cleared after use.
        let text = Zeroizing::new(
            std::fs::read_to_string(&self.from).map_err(|error| format!("{shown}: {error}"))?,
        );
        let ParsedFile { wishes, faults } =
            understood(&text, |line, number| self.wish(place, line, number, ttl))
                .map_err(|fault| format!("{shown}: line 1: {fault}"))?;
        if faults.is_empty() {
            return Ok(wishes);
        }
        let mut lines: Vec<String> = faults
            .iter()
            // A wrong column makes every line a fault.
            .take(FAULTS_SHOWN)
            .map(|(line, fault)| format!("  line {line}: {fault}"))
            .collect();
        if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN).filter(|more| *more > 0) {
            lines.push(format!("  and {more} more lines"));
        }
        Err(format!(
            "{shown}: nothing was adopted; {} lines have faults:\n{}",
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
        (config, issuer): (&Config, &Issuer),
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
        let principal =
            self.principal(issuer, line.principal.filter(|text| !text.is_empty()), &agent)?;
        let class = line.class.filter(|text| !text.is_empty());
        if class.as_ref().is_some_and(|class| !config.guard.classes.contains_key(class)) {
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

    /// The principal of a line. The issuer must be allowed to speak for it.
    fn principal(
        &self,
        issuer: &Issuer,
        named: Option<String>,
        agent: &AgentName,
    ) -> Result<Option<Principal>, LineFault> {
        let principal = match &named {
            Some(text) if has_key_prefix(text) => {
                return Err("the column principal holds what looks like an API key".into());
            }
            Some(text) => text.parse::<Principal>().map(Some).map_err(|_| {
                "the column principal is not a principal: 1 to 256 visible ASCII characters"
                    .to_owned()
            })?,
            None => None,
        };
        // The default principal of an agent is its team.
        let spoken = principal
            .as_ref()
            .map_or_else(|| format!("team:{}", agent.namespace()), ToString::to_string);
        // The gateway has the same rule. Here a file fails before its first key.
        if !issuer.principals.include(&spoken) {
            return Err("the issuer may not speak for the line's principal (principals)".into());
        }
        Ok(principal)
    }
}

impl Wish {
    /// The names of the line, which are not printed.
    fn names(&self) -> Vec<String> {
        let principal = self.wanted.principal.as_ref().map(ToString::to_string);
        let names =
            [Some(self.agent.to_string()), principal, self.class.clone()].into_iter().flatten();
        names.chain(self.wanted.scopes.iter().cloned()).collect()
    }
}

/// `text` without these names. The gateway's answer about a line may repeat them.
fn without(text: &str, names: &[String]) -> String {
    names.iter().fold(text.to_owned(), |text, name| text.replace(name.as_str(), "…"))
}

/// The lines of a file: the valid ones, and the faults of the others by line number.
#[derive(Default)]
struct ParsedFile {
    wishes: Vec<Wish>,
    faults: Vec<(u64, LineFault)>,
}

/// Reads every line of a file, in time proportional to its length.
///
/// # Errors
/// If the first line does not name the columns.
fn understood(
    text: &str,
    mut wish: impl FnMut(CsvLine, u64) -> Result<Wish, LineFault>,
) -> Result<ParsedFile, LineFault> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let headers =
        reader.headers().map_err(|_| "the header line cannot be read".to_owned())?.clone();
    // Before the lines: without a header line, the first key would be a column name.
    columns(&headers)?;
    let (mut lines, mut seen) = (ParsedFile::default(), HashMap::new());
    for record in reader.records() {
        // The library's messages would repeat the line, and so a key.
        let (line, read) = match record {
            Err(fault) => (
                fault.position().map_or(0, csv::Position::line),
                Err("it does not have as many fields as the header line, or is not UTF-8"
                    .to_owned()),
            ),
            Ok(record) => {
                let read = record
                    .deserialize::<CsvLine>(Some(&headers))
                    .map_err(|fault| column(&fault, &headers));
                (record.position().map_or(0, csv::Position::line), read)
            }
        };
        match read.and_then(|read| wish(read, line)) {
            Err(fault) => lines.faults.push((line, fault)),
            Ok(wish) => match seen.insert(wish.handle, line) {
                Some(other) => lines.faults.push((line, format!("the key of line {other} again"))),
                None => lines.wishes.push(wish),
            },
        }
    }
    Ok(lines)
}

/// Checks that the first line names the columns, each once. Without a header line, the first key
/// would count as a name.
fn columns(headers: &csv::StringRecord) -> Result<(), LineFault> {
    let known = COLUMNS.join(", ");
    let named = |name: &str| headers.iter().filter(|header| *header == name).count();
    if named("key") == 0 && named("agent") == 0 {
        return Err(format!(
            "it is not the header line, which must name the columns key and agent, and may name \
                others of {known}"
        ));
    }
    if let Some(missing) = ["key", "agent"].into_iter().find(|name| named(name) == 0) {
        return Err(format!("the header line has no column {missing}"));
    }
    if let Some(twice) = COLUMNS.into_iter().find(|name| named(name) > 1) {
        return Err(format!("the header line names the column {twice} twice"));
    }
    match headers.iter().position(|header| !COLUMNS.contains(&header)) {
        Some(place) => Err(format!("the column {} has a name that is none of {known}", place + 1)),
        None => Ok(()),
    }
}

/// The fault of a line, without its text.
fn column(fault: &csv::Error, headers: &csv::StringRecord) -> LineFault {
    let csv::ErrorKind::Deserialize { err, .. } = fault.kind() else {
        return "it cannot be read".to_owned();
    };
    match err.field().and_then(|place| headers.get(usize::try_from(place).ok()?)) {
        Some(name) => format!("the column {name} is not a whole number, 0 or more"),
        None => "a column is missing".to_owned(),
    }
}

/// The prefixes of API keys of well-known services, in lower case.
const KEY_PREFIXES: [&str; 12] =
    ["sk-", "sk_", "pk-", "pk_", "ts_", "hf_", "gsk_", "xai-", "key-", "ghp_", "eyj", "bearer"];
/// The length from which a mixed run of letters and digits counts as a key.
const KEY_RUN: usize = 16;

/// Whether a text begins with a prefix of an API key. Case does not matter.
fn has_key_prefix(text: &str) -> bool {
    KEY_PREFIXES.iter().any(|prefix| {
        text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

/// Whether a text in the place of a name looks like an API key: it has such a prefix, or a long
/// mixed run of letters and digits. A text with a slash is a name.
fn looks_like_a_key(text: &str) -> bool {
    let mixed = |piece: &str| {
        let digits = piece.bytes().filter(u8::is_ascii_digit).count();
        piece.len() >= KEY_RUN && digits > 0 && digits < piece.len()
    };
    !text.contains('/')
        && (has_key_prefix(text)
            || text.split(|character: char| !character.is_ascii_alphanumeric()).any(mixed))
}

#[cfg(test)]
mod tests;
