//! Where the log lines of a running gateway go: standard error, as text or as JSON.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Form {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Starts logging; `TOKEN_SHIELD_LOG` sets the level (`info` where it is not set, `warn` leaves the request lines out).
pub(super) fn start(form: Form) {
    let filter = EnvFilter::try_from_env("TOKEN_SHIELD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match form {
        Form::Text => builder.with_ansi(false).try_init(),
        Form::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("token-shield: no log lines: {error}");
    }
}
