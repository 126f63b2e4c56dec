//! Commands about the command line: `completions`, `man`, `version`, and the reference in
//! docs/CLI.md.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use super::fault::on_path;
use super::{Cli, Failure};

/// The width of the reference, in characters.
const WIDTH: usize = 100;

/// `token-shield completions SHELL`.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// `token-shield man DIR`.
#[derive(Args)]
pub(super) struct Man {
    /// The folder for the pages. It is made if it does not exist.
    dir: PathBuf,
    /// Print the names of the pages as JSON.
    #[arg(long)]
    json: bool,
}

/// `token-shield version`.
#[derive(Args)]
pub(super) struct ShowVersion {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Completions {
    /// Prints the script.
    pub(super) fn run(&self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "token-shield", &mut script);
        let script = String::from_utf8_lossy(&script);
        if self.json {
            println!("{}", json!({ "shell": self.shell.to_string(), "script": script }));
        } else {
            print!("{script}");
        }
    }
}

impl Man {
    /// Writes the pages. With `--json`, prints their names.
    pub(super) fn run(&self) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.dir).map_err(on_path(&self.dir))?;
        clap_mangen::generate_to(Cli::command(), &self.dir)?;
        if self.json {
            let mut pages = Vec::new();
            for entry in std::fs::read_dir(&self.dir).map_err(on_path(&self.dir))?.flatten() {
                if let Ok(name) = entry.file_name().into_string()
                    && name.starts_with("token-shield")
                {
                    pages.push(name);
                }
            }
            pages.sort_unstable();
            println!("{}", json!({ "dir": self.dir, "pages": pages }));
        }
        Ok(())
    }
}

impl ShowVersion {
    /// Prints the version.
    pub(super) fn run(&self) {
        let version = env!("CARGO_PKG_VERSION");
        if self.json {
            println!(
                "{}",
                json!({
                    "name": "token-shield", "version": version,
                    "gateway": cfg!(feature = "gateway"),
                })
            );
        } else {
            println!("token-shield {version}");
        }
    }
}

/// Every command as Markdown, for the second part of docs/CLI.md.
pub(super) fn reference() -> String {
    let mut text = String::new();
    let mut command = Cli::command();
    // Only a built command has all arguments and help texts.
    command.build();
    command.get_subcommands().for_each(|sub| describe(sub, "token-shield", &mut text));
    text
}

/// Adds a command and its subcommands to the reference.
fn describe(command: &Command, above: &str, text: &mut String) {
    // Hidden commands are for other programs, and not for people.
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{above} {}", command.get_name());
    if command.has_subcommands() {
        command.get_subcommands().for_each(|sub| describe(sub, &name, text));
        return;
    }
    // Writing into a String does not fail.
    let _ = writeln!(text, "\n## `{name}`\n");
    let about = match command.get_long_about().or(command.get_about()) {
        Some(about) => about.to_string(),
        None => String::new(),
    };
    let _ = writeln!(text, "{}\n", wrapped(&format!("{about}."), ""));
    for arg in command.get_arguments() {
        if arg.is_hide_set() || arg.get_id() == "help" {
            continue;
        }
        let _ =
            writeln!(text, "{}", wrapped(&format!("- `{}`{}", shown(arg), explained(arg)), "  "));
    }
    if let Some(example) = command.get_after_help() {
        let _ = writeln!(text, "\n```text\n{}\n```", example.to_string().trim());
    }
}

/// `text` in lines of at most [`WIDTH`] characters. Further lines begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        // A hyphen at the begin of a line would be a list item.
        if width > 0 && width + 1 + length > WIDTH && word != "-" {
            lines.push('\n');
            lines.push_str(indent);
            width = indent.len();
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines
}

/// The form of an argument in the reference.
fn shown(arg: &Arg) -> String {
    let value = match arg.get_value_names() {
        Some([name, ..]) => name.to_string(),
        Some([]) | None => String::new(),
    };
    let takes = arg.get_action().takes_values();
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) if takes => format!("--{long} {value}"),
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) if arg.is_required_set() => value,
        (None, None) => format!("[{value}]"),
    }
}

/// The help of an argument, with its default.
fn explained(arg: &Arg) -> String {
    let help = match arg.get_help() {
        Some(help) => format!(": {}.", help.to_string().trim_end_matches('.')),
        None => String::new(),
    };
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let takes = arg.get_action().takes_values();
    let default = if takes && !defaults.is_empty() {
        format!(" Default: `{}`.", defaults.join(","))
    } else {
        String::new()
    };
    let required =
        if arg.is_required_set() && arg.get_long().is_some() { " Required." } else { "" };
    format!("{help}{required}{default}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/CLI.md ends with the output of `token-shield reference`.
    #[test]
    #[cfg(feature = "gateway")]
    fn the_reference_in_the_docs_is_this_command_line() {
        let docs = include_str!("../../docs/CLI.md");
        let (_, printed) =
            docs.split_once("<!-- token-shield reference -->\n").expect("the mark in docs/CLI.md");
        assert!(
            printed == reference(),
            "docs/CLI.md is old: replace the text after its mark with the output of `token-shield \
                reference`"
        );
    }

    #[test]
    fn clap_finds_no_fault_and_every_command_says_what_it_does() {
        Cli::command().debug_assert();
        fn look(command: &Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }
}
