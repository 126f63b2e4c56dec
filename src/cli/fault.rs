//! The end of a command: exit codes and error messages.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

/// The command was executed.
pub(super) const DONE: u8 = 0;
/// The command was not executed.
pub(super) const FAILED: u8 = 1;
/// The command line has a fault.
pub(super) const USAGE: u8 = 2;
/// A running gateway refused the command.
#[cfg(feature = "gateway")]
pub(super) const REFUSED: u8 = 3;
/// A log is valid, but its end is not proven.
pub(super) const UNPROVEN: u8 = 4;

/// An error with its exit code and a code for programs. Any other error ends with [`FAILED`] and
/// the code `failed`.
#[derive(Debug)]
pub(super) struct CliFault {
    pub(super) exit: u8,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl CliFault {
    /// A fault of usage.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: USAGE, code: "usage", message: message.into() }
    }

    /// A failure.
    pub(super) fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self { exit: FAILED, code, message: message.into() }
    }
}

impl std::fmt::Display for CliFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for CliFault {}

/// Makes the message of an error about the file at `path`.
pub(super) fn on_path<E: Display>(path: &Path) -> impl Fn(E) -> String {
    move |error: E| format!("{}: {error}", path.display())
}

/// The exit code of an error.
pub(super) fn exit(failure: &super::Failure) -> ExitCode {
    ExitCode::from(match failure.downcast_ref::<CliFault>() {
        Some(fault) => fault.exit,
        None => FAILED,
    })
}

/// A text for a terminal: control characters are question marks. A reason or a name could contain
/// an escape sequence, which changes what the terminal shows.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// The error line for standard error, with `--json` one JSON object. Empty if another process has
/// printed the error already.
pub(super) fn line(failure: &super::Failure, json: bool) -> String {
    let code = match failure.downcast_ref::<CliFault>() {
        Some(fault) => fault.code,
        None => "failed",
    };
    let message = failure.to_string();
    match (message.is_empty(), json) {
        (true, _) => String::new(),
        (false, true) => object(code, &message),
        (false, false) => {
            let lines: Vec<String> = message.lines().map(visible).collect();
            format!("token-shield: {}", lines.join("\n"))
        }
    }
}

/// Ends a run with a wrong command line, or a request for help.
pub(super) fn misread(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() || !json {
        // If printing fails, the failure cannot be printed either.
        let _ = error.print();
    } else {
        eprintln!("{}", object("usage", error.to_string().trim_end()));
    }
    ExitCode::from(if error.use_stderr() { USAGE } else { DONE })
}

/// The JSON form of an error.
fn object(code: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
}
