//! Where the log lines of a running gateway go: standard error, as text or as JSON.
//!
//! Lines are gathered and written together by a thread of their own, every 50 ms or 32 KiB, and at the end: a write for each
//! request would cost as much as its checks. A line about a failure is written at once.

use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Form {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Bytes that are written without waiting for more.
const ENOUGH: usize = 32 << 10;
/// How long a line may wait.
const WAIT: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<u8>>,
    enough: Condvar,
}

/// Lines on their way to standard error. Dropped, it writes what is left.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Shared>);

impl Lines {
    fn held(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was gathered. There is nobody to tell where standard error itself fails.
    fn flush(&self, mut held: MutexGuard<'_, Vec<u8>>) {
        let lines = std::mem::take(&mut *held);
        drop(held);
        let _ = io::stderr().lock().write_all(&lines);
    }

    fn run(self) {
        loop {
            let held = self.held();
            let waited = self.0.enough.wait_timeout(held, WAIT);
            let (held, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if !held.is_empty() {
                self.flush(held);
            }
        }
    }
}

/// Writes the last lines when the gateway ends.
pub(super) struct Last(Lines);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.flush(self.0.held());
    }
}

/// One line being written.
pub(super) struct Line<'l> {
    lines: &'l Lines,
    at_once: bool,
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.lines.held();
        held.extend_from_slice(bytes);
        if self.at_once {
            self.lines.flush(held);
        } else if held.len() >= ENOUGH {
            self.lines.0.enough.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Line<'l> {
        Line { lines: self, at_once: true }
    }

    fn make_writer_for(&'l self, about: &Metadata<'_>) -> Line<'l> {
        Line { lines: self, at_once: *about.level() <= Level::WARN }
    }
}

/// Starts logging; `TOKEN_SHIELD_LOG` sets the level (`info` where it is not set, `warn` leaves the request lines out). What
/// it gives must live as long as the gateway.
pub(super) fn start(form: Form) -> Last {
    let filter = EnvFilter::try_from_env("TOKEN_SHIELD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = Lines::default();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines.clone()).with_target(false);
    let started = match form {
        Form::Text => builder.with_ansi(false).try_init(),
        Form::Json => builder.json().flatten_event(true).try_init(),
    };
    let writer = lines.clone();
    let spawned = std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || writer.run());
    if let Some(error) = started.err().map(|error| error.to_string()).or(spawned.err().map(|error| error.to_string())) {
        eprintln!("token-shield: no log lines: {error}");
    }
    Last(lines)
}
