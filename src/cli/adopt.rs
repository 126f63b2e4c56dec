//! `token-shield token adopt`: API keys that agents have already become handles. Keys are hashed here: the gateway is told their
//! SHA-256 alone. Nothing that stands in the file is printed: a column in the wrong place would show a key.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::door::Door;
use super::key_files::{key_file, signing_key};
use super::limits::Allowed;
use super::print::print;
use super::sign::{Wanted, sign};
use super::values::{agent_name, in_words};
use super::{Failure, Place};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::api::Request;
use crate::control::{Command, Question, Reply};
use crate::crypto::SigningKey;
use crate::guard::settings::Issuer;
use crate::id::{AgentName, HandleId, Principal};
use crate::token::{Scopes, handle};

pub(super) const HELP: &str = "\
The file is CSV with a header line. Columns: key and agent; and, where wanted, principal, class, models and scopes (several
with spaces between), rpm, rps, in_flight, output_tokens. Faults are named by their line; what stands there is never printed.

Example: token-shield token adopt --from keys.csv --until 2027-03-31

    key,agent,models,rpm
    sk-Zm9vYmFyYmF6cXV4,research/summarizer,llama-3.1-8b bge-m3,60";

/// Lines with faults that are named one by one.
const FAULTS_SHOWN: usize = 20;

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
    #[arg(long = "signing-key", alias = "key", value_name = "FILE")]
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

/// The columns of a file.
const COLUMNS: [&str; 10] =
    ["key", "agent", "principal", "class", "models", "scopes", "rpm", "rps", "in_flight", "output_tokens"];

/// A line that was understood.
struct Wish {
    line: u64,
    handle: HandleId,
    agent: AgentName,
    class: Option<String>,
    wanted: Wanted,
}

/// Why a line is not understood; in words that repeat nothing of it.
type Fault = String;

fn words(text: Option<String>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

impl Adopt {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.place.read()?;
        let now = SystemClock::start().now();
        let left = self.left(now)?;
        let key = signing_key(&key_file(&config, self.key.clone()))?;
        let issuer = self.issuer(&config)?;
        if left > issuer.ttl_max {
            let (most, last) = (in_words(issuer.ttl_max), now.plus(issuer.ttl_max));
            return Err(
                format!("--until is later than the issuer allows: {most} from now (ttl_max), {last} at the latest").into()
            );
        }
        // Every line is understood before the first one is sent.
        let wishes = self.read((&config, issuer), left)?;
        let door = Door::open(&self.place.find()?).await?;
        let mut done = 0;
        let outcome = async {
            for wish in wishes {
                let (line, unsaid) = (wish.line, wish.names());
                let adopted = self.one(&door, &config, &key, wish).await;
                done += usize::from(adopted.map_err(|fault| format!("line {line}: {}", without(&fault.to_string(), &unsaid)))?);
            }
            Ok::<_, String>(())
        };
        let outcome = outcome.await;
        door.close()?;
        outcome.map_err(|fault| format!("{}: {fault}; {done} keys are adopted, run it again to go on", self.from.display()))?;
        let note = format!("{} still holds them in the clear", self.from.display());
        if self.place.json {
            println!("{}", serde_json::json!({ "done": format!("{done} keys are adopted"), "adopted": done, "note": note }));
        } else {
            eprintln!("{done} keys are adopted; {note}");
        }
        Ok(())
    }

    /// The issuer whose tokens the keys are to stand for.
    fn issuer<'c>(&self, config: &'c Config) -> Result<&'c Issuer, Failure> {
        let issuers = &config.guard.issuers;
        let issuer = match &self.issuer {
            Some(named) => issuers.iter().find(|issuer| issuer.iss == *named),
            None => issuers.first().filter(|_| issuers.len() == 1),
        };
        Ok(issuer.ok_or("name one of the config's issuers with --issuer")?)
    }

    /// How long the keys may be used from now on.
    fn left(&self, now: Timestamp) -> Result<Duration, Failure> {
        let left = u64::try_from(self.until.seconds() - now.seconds()).ok().filter(|seconds| *seconds > 0);
        Ok(Duration::from_secs(left.ok_or("--until is over already")?))
    }

    /// What is said of a key that was adopted before; the names are those of the books.
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
            "line": wish.line, "handle": id, "expires": expires.min(self.until).to_string(), "sealed": reply.sealed,
        });
        print(&Reply { rows: vec![row], ..reply }, self.place.json)?;
        Ok(true)
    }

    fn read(&self, place: (&Config, &Issuer), ttl: Duration) -> Result<Vec<Wish>, Failure> {
        let shown = self.from.display();
        let text = Zeroizing::new(std::fs::read_to_string(&self.from).map_err(|error| format!("{shown}: {error}"))?);
        let Read { wishes, faults } = understood(&text, |line, number| self.wish(place, line, number, ttl))
            .map_err(|fault| format!("{shown}: line 1: {fault}"))?;
        if faults.is_empty() {
            return Ok(wishes);
        }
        let mut lines: Vec<String> =
            faults.iter().take(FAULTS_SHOWN).map(|(line, fault)| format!("  line {line}: {fault}")).collect();
        if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN).filter(|more| *more > 0) {
            lines.push(format!("  and {more} lines more"));
        }
        Err(format!("{shown}: nothing was adopted; {} lines have faults:\n{}", faults.len(), lines.join("\n")).into())
    }

    fn wish(&self, (config, issuer): (&Config, &Issuer), line: Line, number: u64, ttl: Duration) -> Result<Wish, Fault> {
        let handle = handle::adopt(&line.key).map_err(|fault| fault.to_string())?;
        if line.key.contains('/') && line.key.parse::<AgentName>().is_ok() {
            return Err(
                "the column key holds what looks like an agent's name: are the columns in the order of the header line?".into()
            );
        }
        if looks_like_a_key(&line.agent) {
            return Err("the column agent holds what looks like an API key: are the columns in the order of the header line? \
                        (a name is written NAMESPACE/NAME)"
                .into());
        }
        let agent = agent_name(&line.agent).map_err(|_| {
            "the column agent is not an agent name: NAMESPACE/NAME, parts of [a-z0-9][a-z0-9._-]{0,62}".to_owned()
        })?;
        if !issuer.namespaces.iter().any(|namespace| namespace == "*" || namespace == agent.namespace()) {
            return Err("the column agent is of a namespace that the issuer may not speak for (namespaces)".into());
        }
        let principal = self.principal(issuer, line.principal.filter(|text| !text.is_empty()), &agent)?;
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
            return Err(format!("the column models has more than {} names (token_list)", issuer.token_list));
        }
        let mut known = Scopes::default();
        if !allowed.scopes.iter().all(|scope| known.add(scope)) {
            return Err("the column scopes has a name that is no scope (docs/TOKEN.md)".into());
        }
        let wanted = Wanted {
            principal,
            limits: allowed.limits().map_err(|fault| fault.to_string())?,
            scopes: allowed.scopes,
            issuer: self.issuer.clone(),
            ..Wanted::for_agent(agent.clone(), ttl)
        };
        Ok(Wish { line: number, handle, agent, class, wanted })
    }

    /// The principal of a line, which the issuer must be allowed to speak for.
    fn principal(&self, issuer: &Issuer, named: Option<String>, agent: &AgentName) -> Result<Option<Principal>, Fault> {
        let principal = match &named {
            Some(text) if has_key_prefix(text) => return Err("the column principal holds what looks like an API key".into()),
            Some(text) => text
                .parse::<Principal>()
                .map(Some)
                .map_err(|_| "the column principal is not a principal: 1 to 256 visible ASCII characters".to_owned())?,
            None => None,
        };
        let spoken = principal.as_ref().map_or_else(|| format!("team:{}", agent.namespace()), ToString::to_string);
        if !issuer.principals.include(&spoken) {
            return Err("the issuer may not speak for the line's principal (principals)".into());
        }
        Ok(principal)
    }
}

impl Wish {
    /// Names of the line that are not printed.
    fn names(&self) -> Vec<String> {
        let principal = self.wanted.principal.as_ref().map(ToString::to_string);
        let names = [Some(self.agent.to_string()), principal, self.class.clone()].into_iter().flatten();
        names.chain(self.wanted.scopes.iter().cloned()).collect()
    }
}

/// `text` without these names: what the gateway says of a line may repeat them.
fn without(text: &str, names: &[String]) -> String {
    names.iter().fold(text.to_owned(), |text, name| text.replace(name.as_str(), "…"))
}

/// The lines of a file: those that were understood, and what is wrong with the others, by their numbers.
#[derive(Default)]
struct Read {
    wishes: Vec<Wish>,
    faults: Vec<(u64, Fault)>,
}

/// Reads every line of a file, in time that is proportional to it.
///
/// # Errors
/// When the first line does not name the columns.
fn understood(text: &str, mut wish: impl FnMut(Line, u64) -> Result<Wish, Fault>) -> Result<Read, Fault> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|_| "the header line cannot be read".to_owned())?.clone();
    columns(&headers)?;
    let (mut lines, mut seen) = (Read::default(), HashMap::new());
    for record in reader.records() {
        // The library's own words would repeat the line, and a key with it.
        let (line, read) = match record {
            Err(fault) => (
                fault.position().map_or(0, csv::Position::line),
                Err("it has not as many fields as the header line, or is not UTF-8".to_owned()),
            ),
            Ok(record) => {
                let read = record.deserialize::<Line>(Some(&headers)).map_err(|fault| column(&fault, &headers));
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

/// That the first line names the columns, each once: without it the first key would be taken for names.
fn columns(headers: &csv::StringRecord) -> Result<(), Fault> {
    let known = COLUMNS.join(", ");
    let named = |name: &str| headers.iter().filter(|header| *header == name).count();
    if named("key") == 0 && named("agent") == 0 {
        return Err(format!("it is not the header line, which names the columns key and agent, and those wanted of {known}"));
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

/// What is wrong with a line, without its text.
fn column(fault: &csv::Error, headers: &csv::StringRecord) -> Fault {
    let csv::ErrorKind::Deserialize { err, .. } = fault.kind() else { return "it cannot be read".to_owned() };
    match err.field().and_then(|place| headers.get(usize::try_from(place).ok()?)) {
        Some(name) => format!("the column {name} is not a whole number from 0 on"),
        None => "a column is missing".to_owned(),
    }
}

/// What API keys of well-known services begin with.
const KEY_PREFIXES: [&str; 12] = ["sk-", "sk_", "pk-", "pk_", "ts_", "hf_", "gsk_", "xai-", "key-", "ghp_", "eyj", "bearer"];
/// Letters and digits in one piece that no name has.
const KEY_RUN: usize = 16;

fn has_key_prefix(text: &str) -> bool {
    KEY_PREFIXES.iter().any(|prefix| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

/// True of what stands where a name belongs and looks like an API key: it begins like one, or has a long piece of letters and
/// digits mixed. What has a slash is a name.
fn looks_like_a_key(text: &str) -> bool {
    let mixed = |piece: &str| {
        let digits = piece.bytes().filter(u8::is_ascii_digit).count();
        piece.len() >= KEY_RUN && digits > 0 && digits < piece.len()
    };
    !text.contains('/') && (has_key_prefix(text) || text.split(|character: char| !character.is_ascii_alphanumeric()).any(mixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_the_place_of_names_are_seen() {
        for key in
            ["sk-Zm9vYmFyYmF6cXV4", "sk-proj-x", "TS_abc", "Bearer x", "0123456789abcdef0123456789abcdef", "a1b2c3d4e5f6a7b8.x"]
        {
            assert!(looks_like_a_key(key), "{key}");
        }
        for name in [
            "summarizer",
            "research/summarizer",
            "summarizer-2026-production-eu1",
            "fleet/0123456789abcdef0123",
            "llama-3.1-8b-instruct",
        ] {
            assert!(!looks_like_a_key(name), "{name}");
        }
    }

    #[test]
    fn a_long_file_takes_time_in_proportion() {
        use std::fmt::Write as _;
        let mut text = "key,agent\n".to_owned();
        for number in 0..100_000 {
            let _ = writeln!(text, "sk-{number:032x},fleet/agent-{number}");
        }
        let clock = SystemClock::start();
        let wish = |line: Line, number| {
            let agent = agent_name(&line.agent).map_err(|fault| fault.to_string())?;
            let wanted = Wanted::for_agent(agent.clone(), Duration::from_secs(60));
            let handle = handle::adopt(&line.key).map_err(|fault| fault.to_string())?;
            Ok(Wish { line: number, handle, agent, class: None, wanted })
        };
        let Read { wishes, faults } = understood(&text, wish).expect("columns");
        assert_eq!((wishes.len(), faults.len()), (100_000, 0));
        // Half a second here; comparing each with each took 46.
        assert!(clock.monotonic() < Duration::from_secs(20), "{:?}", clock.monotonic());
    }
}
