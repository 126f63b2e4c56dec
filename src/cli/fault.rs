//! How a command ends: exit codes, and what is said of an error.

use std::process::ExitCode;

/// It was done.
pub(super) const DONE: u8 = 0;
/// It was not done.
pub(super) const FAILED: u8 = 1;
/// The command line does not say what is meant.
pub(super) const USAGE: u8 = 2;
/// A running gateway refused it.
#[cfg(feature = "gateway")]
pub(super) const REFUSED: u8 = 3;
/// A log is valid as far as it goes, and nothing proves where it ends.
pub(super) const UNPROVEN: u8 = 4;

/// An error with its exit code and a word for programs. Any other error ends with [`FAILED`] and the word `failed`.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) exit: u8,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Fault {
    /// What cannot be meant.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: USAGE, code: "usage", message: message.into() }
    }

    /// What could not be done.
    pub(super) fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self { exit: FAILED, code, message: message.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The exit code of an error.
pub(super) fn exit(failure: &super::Failure) -> ExitCode {
    ExitCode::from(failure.downcast_ref::<Fault>().map_or(FAILED, |fault| fault.exit))
}

/// What is said of an error on standard error: one JSON object where `--json` was said. Empty for an error that was said already, by
/// a process that worked for this one.
pub(super) fn line(failure: &super::Failure, json: bool) -> String {
    let code = failure.downcast_ref::<Fault>().map_or("failed", |fault| fault.code);
    let message = failure.to_string();
    match (message.is_empty(), json) {
        (true, _) => String::new(),
        (false, true) => object(code, &message),
        (false, false) => format!("token-shield: {message}"),
    }
}

/// Ends a run whose words clap did not understand, or that asked for help.
pub(super) fn misread(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() || !json {
        // Nobody can be told where printing fails.
        let _ = error.print();
    } else {
        eprintln!("{}", object("usage", error.to_string().trim_end()));
    }
    ExitCode::from(if error.use_stderr() { USAGE } else { DONE })
}

fn object(code: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
}
