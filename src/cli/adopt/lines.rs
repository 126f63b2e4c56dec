//! The lines of a file of API keys. No message repeats the content of a line, because it may be a
//! key.

use std::collections::HashMap;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::cli::sign::TokenContent;
use crate::id::{AgentName, HandleId};

/// One line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CsvLine {
    pub(super) key: Zeroizing<String>,
    pub(super) agent: String,
    pub(super) principal: Option<String>,
    pub(super) class: Option<String>,
    pub(super) models: Option<String>,
    pub(super) scopes: Option<String>,
    pub(super) rpm: Option<u64>,
    pub(super) rps: Option<u64>,
    pub(super) in_flight: Option<u64>,
    pub(super) output_tokens: Option<u64>,
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
pub(super) struct Wish {
    pub(super) line: u64,
    pub(super) handle: HandleId,
    pub(super) agent: AgentName,
    pub(super) class: Option<String>,
    pub(super) wanted: TokenContent,
}

/// The reason why a line is not valid. It contains no text of the line.
pub(super) type LineFault = String;

impl Wish {
    /// The names of the line, which are not printed.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec![self.agent.to_string()];
        if let Some(principal) = &self.wanted.principal {
            names.push(principal.to_string());
        }
        names.extend(self.class.clone());
        names.extend(self.wanted.scopes.iter().cloned());
        names
    }
}

/// The lines of a file: the valid ones, and the faults of the others by line number.
#[derive(Default)]
pub(super) struct ParsedFile {
    pub(super) wishes: Vec<Wish>,
    pub(super) faults: Vec<FaultyLine>,
}

/// A line that is not valid.
pub(super) struct FaultyLine {
    /// Its number in the file, from 1.
    pub(super) line: u64,
    pub(super) why: LineFault,
}

/// Reads every line of a file, in time proportional to its length.
///
/// # Errors
/// If the first line does not name the columns.
pub(super) fn understood(
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
                line_of(fault.position()),
                Err("it does not have as many fields as the header line, or is not UTF-8"
                    .to_owned()),
            ),
            Ok(record) => {
                let read = record
                    .deserialize::<CsvLine>(Some(&headers))
                    .map_err(|fault| column(&fault, &headers));
                (line_of(record.position()), read)
            }
        };
        match read.and_then(|read| wish(read, line)) {
            Err(why) => lines.faults.push(FaultyLine { line, why }),
            Ok(wish) => match seen.insert(wish.handle, line) {
                Some(other) => {
                    let why = format!("the key of line {other} again");
                    lines.faults.push(FaultyLine { line, why });
                }
                None => lines.wishes.push(wish),
            },
        }
    }
    Ok(lines)
}

/// The number of a line. 0 if the reader does not know it.
fn line_of(position: Option<&csv::Position>) -> u64 {
    position.map_or(0, csv::Position::line)
}

/// How often the header line names a column.
fn count(headers: &csv::StringRecord, name: &str) -> usize {
    headers.iter().filter(|header| *header == name).count()
}

/// Checks that the first line names the columns, each once. Without a header line, the first key
/// would count as a name.
fn columns(headers: &csv::StringRecord) -> Result<(), LineFault> {
    let known = COLUMNS.join(", ");
    if count(headers, "key") == 0 && count(headers, "agent") == 0 {
        return Err(format!(
            "it is not the header line, which must name the columns key and agent, and may name \
                others of {known}"
        ));
    }
    if let Some(missing) = ["key", "agent"].into_iter().find(|name| count(headers, name) == 0) {
        return Err(format!("the header line has no column {missing}"));
    }
    if let Some(twice) = COLUMNS.into_iter().find(|name| count(headers, name) > 1) {
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
    match column_of(err, headers) {
        Some(name) => format!("the column {name} is not a whole number, 0 or more"),
        None => "a column is missing".to_owned(),
    }
}

/// The column that a fault is about. `None` if the fault is about no single column.
fn column_of<'h>(fault: &csv::DeserializeError, headers: &'h csv::StringRecord) -> Option<&'h str> {
    headers.get(usize::try_from(fault.field()?).ok()?)
}
