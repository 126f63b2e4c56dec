//! The output of commands. On a terminal: tables and sentences for people. Otherwise: one JSON
//! object in each line for programs.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde_json::{Map, Value};

use super::Failure;
use super::fault::visible;
use crate::config::Config;
use crate::control::{GatewayIdentity, Reply};

/// Prints the rows of a reply: a table on a terminal, otherwise one JSON object in each line.
pub(super) fn print(reply: &Reply, json: bool) -> Result<(), Failure> {
    if json || !std::io::stdout().is_terminal() {
        reply.rows.iter().for_each(|row| println!("{row}"));
    // Output into a pipe is read by a program, so it has the same form as with --json.
    } else {
        print!("{}", tables(&reply.rows));
    }
    Ok(())
}

/// Prints what was done: on standard error, a sentence with the records, the gateway, its folder
/// and its process. With `json`, one object with `members` on standard output.
pub(super) fn say_done(what: &str, members: Value, reply: &Reply, json: bool) {
    if json {
        println!("{}", done(what, members, reply));
        return;
    }
    let indices: Vec<String> = reply.sealed.iter().map(|index| format!("#{index}")).collect();
    eprintln!("{what}, sealed as {} {}", indices.join(" "), at(reply));
    if let Some(note) = &reply.note {
        eprintln!("note: {}", visible(note));
    }
}

/// What was done, as a JSON object.
pub(super) fn done(what: &str, members: Value, reply: &Reply) -> Value {
    let mut object = Map::new();
    object.insert("done".to_owned(), what.into());
    if let Value::Object(members) = members {
        object.extend(members);
    }
    object.insert("sealed".to_owned(), reply.sealed.clone().into());
    let gateway = reply.gateway.as_ref();
    object.insert(
        "gateway".to_owned(),
        gateway.map_or(Value::Null, |about| serde_json::to_value(about).unwrap_or_default()),
    );
    object.insert("note".to_owned(), reply.note.clone().into());
    Value::Object(object)
}

/// The reply for a change in the data folder of a gateway that does not run.
pub(super) fn resting(config: &Config) -> Reply {
    let data = std::fs::canonicalize(&config.data).unwrap_or_else(|_| config.data.clone());
    let gateway = Some(GatewayIdentity { name: config.name.clone(), data, pid: None });
    Reply { sealed: Vec::new(), rows: Vec::new(), note: None, gateway }
}

/// Names the gateway of a reply.
pub(super) fn at(reply: &Reply) -> String {
    let Some(about) = &reply.gateway else { return String::new() };
    let runs = about.pid.map_or_else(|| "no gateway runs".to_owned(), |pid| format!("pid {pid}"));
    format!("at {} ({}, {runs})", about.name, about.data.display())
}

/// A member of a row, for people.
struct RowCell<'r> {
    name: &'r str,
    text: String,
}

/// The members of a row, for people. A key's JWK is only for programs.
fn cells(row: &Value) -> Vec<RowCell<'_>> {
    let mut cells = Vec::new();
    for (name, value) in row.as_object().into_iter().flatten() {
        // An ML-DSA-65 JWK has more than 2,600 characters, too many for a table.
        if name != "jwk" {
            cells.push(RowCell { name, text: shown(value) });
        }
    }
    cells
}

/// A value for people. Null is a hyphen, and a text has no quotes.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => visible(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// The names of a row's members.
fn names<'r>(row: &[RowCell<'r>]) -> Vec<&'r str> {
    row.iter().map(|cell| cell.name).collect()
}

/// Rows as tables. A new table begins if a row has other members than the one before.
fn tables(rows: &[Value]) -> String {
    let rows: Vec<_> = rows.iter().map(cells).collect();
    let mut text = String::new();
    // Rows of one reply may have different members, such as an agent and its tokens.
    for table in rows.chunk_by(|left, right| names(left) == names(right)) {
        let mut lines = vec![names(&table[0])];
        for row in table {
            lines.push(row.iter().map(|cell| cell.text.as_str()).collect());
        }
        let widths = widths(&lines);
        if !text.is_empty() {
            text.push('\n');
        }
        for line in &lines {
            let mut padded = Vec::new();
            for (cell, &width) in std::iter::zip(line, &widths) {
                // A width of `format!` has 16 bits, and a row may have a longer cell.
                let missing = width - cell.chars().count();
                padded.push(format!("{cell}{}", " ".repeat(missing)));
            }
            let _ = writeln!(text, "{}", padded.join("  ").trim_end());
        }
    }
    text
}

/// The widths of a table's columns, in characters.
fn widths(lines: &[Vec<&str>]) -> Vec<usize> {
    let mut widths = Vec::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_other_members_begin_another_table() {
        let rows = [
            json!({"agent": "a/b", "class": "x"}),
            json!({"agent": "a/longer", "class": null}),
            json!({"token": "t"}),
        ];
        assert_eq!(tables(&rows), "agent     class\na/b       x\na/longer  -\n\ntoken\nt\n");
    }

    #[test]
    fn a_row_cannot_control_the_terminal() {
        let rows = [json!({"reason": "a\u{1b}[2Jb\u{9b}31mc\nd"})];
        assert_eq!(tables(&rows), "reason\na?[2Jb?31mc?d\n");
    }

    #[test]
    fn a_long_cell_is_padded_too() {
        let long = "x".repeat(70_000);
        let rows = [json!({"a": long, "b": "y"})];
        assert_eq!(tables(&rows), format!("a{}  b\n{long}  y\n", " ".repeat(69_999)));
    }
}
