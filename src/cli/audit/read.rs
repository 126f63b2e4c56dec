//! `audit show`, `tail`, `query` and `usage`: the content of the log, for people with its keys.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::Failure;
use super::super::target::LogArgs;
use super::{RecordKeyArgs, now, parse_duration, spinner};
use crate::audit::format::key::Opener;
use crate::audit::read::reader::{self, DecryptedRecord, Epoch, StoredRecord};
use crate::audit::read::tiles::{epoch_name, is_pruned};
use crate::clock::Timestamp;

/// The interval at which a followed log is checked for new records.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(in crate::cli) struct ShowRecords {
    /// Records: an index of the newest epoch, or NAME/EPOCH#INDEX, as in an answer's audit-record.
    #[arg(required = true)]
    records: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

#[derive(Args)]
pub(in crate::cli) struct Tail {
    /// The log's folder, instead of --dir.
    #[arg(value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    /// The number of last records.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: u64,
    /// Continue with new records.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

#[derive(Args)]
pub(in crate::cli) struct Query {
    /// The log's folder, instead of --dir.
    #[arg(value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    /// Only records of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only records of this principal.
    #[arg(long)]
    principal: Option<String>,
    /// Only records of this kind.
    #[arg(long)]
    kind: Option<String>,
    /// Only records with this decision: `allowed`, `refused`, or a code.
    #[arg(long)]
    decision: Option<String>,
    /// Only records of this request.
    #[arg(long)]
    request: Option<String>,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

#[derive(Args)]
struct Window {
    /// Only records from this time on: a time (RFC 3339), or an age (`30d`, `12h`).
    #[arg(long)]
    since: Option<String>,
    /// Only records before this time.
    #[arg(long)]
    until: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct UsageReport {
    /// The log's folder, instead of --dir.
    #[arg(value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    /// The columns to sum up by: any of principal, agent, model, operation, upstream, day.
    #[arg(long, value_delimiter = ',', default_value = "principal,model")]
    by: Vec<String>,
    #[command(flatten)]
    window: Window,
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

/// A time, or the time before an age.
fn moment(text: &str) -> Result<String, Failure> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(at.as_millisecond()).to_string());
    }
    let ago = parse_duration(text).ok_or_else(|| {
        format!("{text:?} is not a time: write 2026-11-21T08:00:00Z, or 30d, 12h, 90m")
    })?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp(now().0.saturating_sub(ago).max(0)).to_string())
}

impl Window {
    /// Reads the bounds of the window.
    fn read(&self) -> Result<TimeBounds, Failure> {
        Ok(TimeBounds {
            since: bound(self.since.as_deref())?,
            until: bound(self.until.as_deref())?,
        })
    }
}

/// [`moment`] for an option that may be absent.
fn bound(text: Option<&str>) -> Result<Option<String>, Failure> {
    match text {
        Some(text) => Ok(Some(moment(text)?)),
        None => Ok(None),
    }
}

/// The bounds of a window. The texts of times sort as the times.
struct TimeBounds {
    /// The first time in the window.
    since: Option<String>,
    /// The first time after the window.
    until: Option<String>,
}

impl TimeBounds {
    /// Whether the time is before the window.
    fn begin_after(&self, at: &str) -> bool {
        match &self.since {
            Some(since) => at < since.as_str(),
            None => false,
        }
    }

    /// Whether the time is after the window.
    fn end_before(&self, at: &str) -> bool {
        match &self.until {
            Some(until) => at >= until.as_str(),
            None => false,
        }
    }
}

/// Passes every record of a window to `take`, decrypted if the keys allow it.
fn all(
    epochs: &[Epoch],
    vault: &dyn Opener,
    window: &TimeBounds,
    mut take: impl FnMut(DecryptedRecord) -> ControlFlow<()>,
) -> Result<(), Failure> {
    let mut fault = None;
    for epoch in epochs {
        if epoch.signed > 0 && is_pruned(&epoch.folder) {
            eprintln!(
                "{}: its {} records were pruned, and are not included",
                epoch_name(epoch.number),
                epoch.signed
            );
        }
        let ended = reader::each(epoch, 0, |found| {
            // The envelope is enough to skip a record that is too early.
            match crate::audit::format::envelope::Envelope::read(found.bytes) {
                Ok(envelope) if window.begin_after(envelope.at) => {
                    return ControlFlow::Continue(());
                }
                // Times in a log never decrease, so no later record can be in the window.
                Ok(envelope) if window.end_before(envelope.at) => {
                    return ControlFlow::Break(());
                }
                Ok(_) | Err(_) => {}
            }
            match found.tell(vault) {
                Ok(told) => take(told),
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = fault {
            return Err(error.into());
        }
        if ended.is_break() {
            break;
        }
    }
    Ok(())
}

impl ShowRecords {
    /// Prints the named records.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        for name in &self.records {
            let (epoch, index) = reader::named(&epochs, name)?;
            let bytes = reader::one(epoch, index)?;
            println!(
                "{}",
                StoredRecord { epoch: epoch.number, index, bytes: &bytes }.tell(&*vault)?.line()
            );
        }
        Ok(())
    }
}

impl Tail {
    /// Prints the last records. With `--follow` it does not end.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(self.folder.clone())?;
        let mut next = None;
        loop {
            // Both are read again each time. A new epoch or a new record key may exist.
            let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
            let Some(newest) = epochs.last() else { return Ok(()) };
            let (number, from) = match next {
                Some(next) => next,
                None => (newest.number, size(newest)?.saturating_sub(self.lines)),
            };
            // The epoch may have been closed since the last read. Its last records come before the
            // next epoch's.
            for epoch in &epochs {
                if epoch.number < number {
                    continue;
                }
                let from = if epoch.number == number { from } else { 0 };
                next = Some((epoch.number, tell(epoch, from, &*vault)?));
            }
            if !self.follow {
                return Ok(());
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// Prints the records of an epoch from an index on. Returns the index after the last one.
fn tell(epoch: &Epoch, from: u64, vault: &dyn Opener) -> Result<u64, Failure> {
    let (mut end, mut fault) = (from, None);
    let _ = reader::each(epoch, from, |found| match found.tell(vault) {
        Ok(told) => {
            println!("{}", told.line());
            end = found.index + 1;
            ControlFlow::Continue(())
        }
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(end), |error| Err(error.into()))
}

/// The number of records of an epoch, also those after its checkpoint.
fn size(epoch: &Epoch) -> Result<u64, Failure> {
    let mut end = epoch.signed;
    let _ = reader::each(epoch, epoch.signed, |found| {
        end = found.index + 1;
        ControlFlow::Continue(())
    })?;
    Ok(end)
}

impl Query {
    /// Prints the records that match all filters.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(self.folder.clone())?;
        let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        all(&epochs, &*vault, &self.window.read()?, |told| {
            if self.matches(&told) {
                println!("{}", told.line());
            }
            ControlFlow::Continue(())
        })
    }

    /// Whether a record matches all filters.
    fn matches(&self, told: &DecryptedRecord) -> bool {
        self.has_decision(told)
            && self.has_kind(told)
            && has(told, "agent", self.agent.as_deref())
            && has(told, "principal", self.principal.as_deref())
            && has(told, "request", self.request.as_deref())
    }

    /// Whether a record has the wanted decision.
    fn has_decision(&self, told: &DecryptedRecord) -> bool {
        let Some(wanted) = self.decision.as_deref() else { return true };
        // A refusal has the word `refused` and a code. Both are accepted.
        has(told, "decision", Some(wanted)) || has(told, "code", Some(wanted))
    }

    /// Whether a record is of the wanted kind.
    fn has_kind(&self, told: &DecryptedRecord) -> bool {
        match &self.kind {
            Some(kind) => *kind == told.kind,
            None => true,
        }
    }
}

/// Whether a member of a record's payload has the wanted text. Without a wanted text, the payload
/// is not read.
fn has(told: &DecryptedRecord, member: &str, wanted: Option<&str>) -> bool {
    wanted.is_none() || told.text(member).as_deref() == wanted
}

/// A sum of requests and tokens.
#[derive(Default)]
struct Sum {
    requests: u64,
    refused: u64,
    input: u64,
    output: u64,
    /// Requests without a complete report of their tokens: `usage_source` is `running` or `bound`.
    unreported: u64,
}

impl UsageReport {
    /// Prints the sums.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(self.folder.clone())?;
        const COLUMNS: [&str; 6] = ["principal", "agent", "model", "operation", "upstream", "day"];
        if let Some(unknown) = self.by.iter().find(|column| !COLUMNS.contains(&column.as_str())) {
            return Err(format!("--by {unknown}: write any of {}", COLUMNS.join(", ")).into());
        }
        let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        let (mut sums, mut closed): (BTreeMap<Vec<String>, Sum>, u64) = (BTreeMap::new(), 0);
        let bar = spinner(self.log.json, "records");
        all(&epochs, &*vault, &self.window.read()?, |told| {
            bar.inc(1);
            // An admission is not counted: its outcome has the usage.
            if told.kind != "outcome" && told.kind != "refusal" {
                return ControlFlow::Continue(());
            }
            // The record is counted, because its number is known without a key.
            if told.payload.is_none() {
                closed += 1;
            }
            let row = self.by.iter().map(|name| column(&told, name)).collect();
            let sum = sums.entry(row).or_default();
            if told.kind == "refusal" {
                sum.refused += 1;
            } else {
                sum.requests += 1;
                sum.input += told.number("usage.input").unwrap_or(0);
                sum.output += told.number("usage.output").unwrap_or(0);
                let source = told.text("usage_source");
                sum.unreported += u64::from(source.is_some_and(|source| source != "reported"));
            }
            ControlFlow::Continue(())
        })?;
        bar.finish_and_clear();
        self.print(&sums);
        if closed > 0 {
            eprintln!(
                "token-shield: {closed} records could not be decrypted (forgotten, or \
                    --record-keys FILE is missing); \
                 they are counted under \"-\""
            );
        }
        Ok(())
    }

    /// Prints the sums as JSON lines, as CSV or as text.
    fn print(&self, sums: &BTreeMap<Vec<String>, Sum>) {
        if self.csv {
            println!(
                "{},requests,refused,input_tokens,output_tokens,unreported",
                self.by.join(",")
            );
        }
        for (row, sum) in sums {
            let Sum { requests, refused, input, output, unreported } = sum;
            if self.log.json {
                let mut object = serde_json::Map::new();
                for (name, text) in std::iter::zip(&self.by, row) {
                    object.insert(name.clone(), text.as_str().into());
                }
                for (name, number) in [
                    ("requests", requests),
                    ("refused", refused),
                    ("input_tokens", input),
                    ("output_tokens", output),
                    ("unreported", unreported),
                ] {
                    object.insert(name.to_owned(), (*number).into());
                }
                println!("{}", serde_json::Value::Object(object));
            } else if self.csv {
                println!(
                    "{},{requests},{refused},{input},{output},{unreported}",
                    row.iter().map(|text| cell(text)).collect::<Vec<_>>().join(",")
                );
            } else {
                println!(
                    "{}   {requests} requests ({unreported} unreported), {refused} refused, \
                        {input} tokens in, {output} out",
                    row.join("   ")
                );
            }
        }
    }
}

/// The cell of a record in a column of the report. A hyphen if the record has no such member.
fn column(told: &DecryptedRecord, name: &str) -> String {
    let member = match name {
        "day" => return told.at.get(..10).unwrap_or_default().to_owned(),
        "upstream" => "upstream.name",
        other => other,
    };
    told.text(member).unwrap_or_else(|| "-".to_owned())
}

/// A cell of a CSV table (RFC 4180). Agents and signers of tokens choose names, so a name can have
/// the form of a formula. Such text gets an apostrophe before it (OWASP, CSV injection).
fn cell(text: &str) -> String {
    // A lone "-" is this report's mark for a missing value.
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text != "-";
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}
