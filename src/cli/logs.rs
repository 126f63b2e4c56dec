//! Where the log lines of a running gateway go: standard error, as text or as JSON.
//!
//! Lines are gathered and written together by a thread of their own, every 50 ms or 32 KiB, and at the end: a write for each
//! request would cost as much as its checks. A line about a failure is written at once.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::json::write_string;

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
/// Bytes that may wait where standard error takes nothing; further lines are lost, and counted.
const TOO_MUCH: usize = 8 << 20;
/// How long a line may wait.
const WAIT: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<u8>>,
    lost: AtomicU64,
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
        let mut lines = std::mem::take(&mut *held);
        drop(held);
        match self.0.lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => {
                lines.extend_from_slice(format!("{{\"level\":\"WARN\",\"message\":\"{lost} log lines were lost\"}}\n").as_bytes())
            }
        }
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
        if held.len() + bytes.len() > TOO_MUCH {
            self.lines.0.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes.len());
        }
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

/// One JSON object a line: `timestamp` (RFC 3339), `level`, and the event's fields, its text as `message`. There is a line a
/// request, and the general form that tracing-subscriber has, made by way of serde, takes three times as long.
struct JsonLine;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'w> FormatFields<'w> + 'static> FormatEvent<S, N> for JsonLine {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        writer.write_str("\",\"level\":\"")?;
        writer.write_str(event.metadata().level().as_str())?;
        writer.write_char('"')?;
        let mut fields = Fields(Vec::with_capacity(512));
        event.record(&mut fields);
        writer.write_str(&String::from_utf8_lossy(&fields.0))?;
        writer.write_str("}\n")
    }
}

/// Members of a JSON object, each behind a comma.
struct Fields(Vec<u8>);

impl Fields {
    fn key(&mut self, field: &Field) {
        self.0.push(b',');
        write_string(field.name(), &mut self.0);
        self.0.push(b':');
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        // A Vec takes whatever is written.
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        write_string(value, &mut self.0);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
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
        Form::Json => builder.event_format(JsonLine).try_init(),
    };
    let writer = lines.clone();
    let spawned = std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || writer.run());
    if let Some(error) = started.err().map(|error| error.to_string()).or(spawned.err().map(|error| error.to_string())) {
        eprintln!("token-shield: no log lines: {error}");
    }
    Last(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_takes_are_counted_not_kept() {
        let lines = Lines::default();
        let mut line = Line { lines: &lines, at_once: false };
        let text = vec![b'x'; TOO_MUCH / 4];
        for _ in 0..6 {
            io::Write::write_all(&mut line, &text).expect("taken");
        }
        assert_eq!((lines.held().len(), lines.0.lost.load(Ordering::Relaxed)), (TOO_MUCH, 2));
    }

    #[test]
    fn a_json_line_is_one_object_whatever_stands_in_it() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).event_format(JsonLine).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(status = 200_u16, ms = 7_u64, left = -1_i64, up = true, who = "a \"b\"\n", why = %"c\\d", none = ?None::<u8>, "said \"it\"");
        });
        let text = String::from_utf8(lines.held().clone()).expect("UTF-8");
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let (time, rest) = (object["timestamp"].as_str().expect("time"), &object);
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!((&rest["level"], &rest["message"]), (&"INFO".into(), &"said \"it\"".into()));
        assert_eq!((&rest["status"], &rest["ms"], &rest["left"]), (&200.into(), &7.into(), &(-1).into()));
        assert_eq!((&rest["up"], &rest["who"]), (&true.into(), &"a \"b\"\n".into()));
        assert_eq!((&rest["why"], &rest["none"]), (&"c\\d".into(), &"None".into()));
    }
}
