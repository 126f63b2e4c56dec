//! The log lines of a running gateway: to standard error, as text or as JSON.
//!
//! A separate thread (`log_lines`) writes lines together, every 50 ms or 32 KiB. One write for each
//! request would cost as much as its checks. A line about a failure does not wait. No other thread
//! writes to standard error while the gateway serves. So a collector that stops reading cannot stop
//! the gateway. The panic hook uses the same queue.

use std::fmt;
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
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
use crate::log_lines::{self, LogLines};

/// The form of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// The longest wait for the last lines at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Adds each line of `tracing` to the queue.
#[derive(Clone)]
struct LineQueue(LogLines);

/// One line that is being written.
struct QueuedLine<'l> {
    lines: &'l LogLines,
    /// The line is written immediately, and does not wait for others.
    at_once: bool,
}

impl io::Write for QueuedLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The queue takes complete lines. It never blocks the thread of a request.
        self.lines.push(bytes, self.at_once);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l> MakeWriter<'l> for LineQueue {
    type Writer = QueuedLine<'l>;

    fn make_writer(&'l self) -> QueuedLine<'l> {
        QueuedLine { lines: &self.0, at_once: true }
    }

    fn make_writer_for(&'l self, about: &Metadata<'_>) -> QueuedLine<'l> {
        // Warnings and errors may be the last lines before a crash.
        QueuedLine { lines: &self.0, at_once: *about.level() <= Level::WARN }
    }
}

/// One JSON object in each line: `timestamp` (RFC 3339), `level`, and the event's fields, with its
/// text as `message`. Each request writes a line, and the general formatter of tracing-subscriber
/// takes three times as long.
struct JsonLine;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'w> FormatFields<'w> + 'static>
    FormatEvent<S, N> for JsonLine
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        writer.write_str("\",\"level\":\"")?;
        writer.write_str(event.metadata().level().as_str())?;
        writer.write_char('"')?;
        // Most lines fit, so that a line needs one allocation.
        let mut fields = Fields(Vec::with_capacity(512));
        event.record(&mut fields);
        writer.write_str(&String::from_utf8_lossy(&fields.0))?;
        writer.write_str("}\n")
    }
}

/// Members of a JSON object, each after a comma.
struct Fields(Vec<u8>);

impl Fields {
    /// Writes the comma and the name of a member.
    fn key(&mut self, field: &Field) {
        self.0.push(b',');
        write_string(field.name(), &mut self.0);
        self.0.push(b':');
    }

    /// Writes a member whose text needs no escape.
    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        // Writing into a Vec does not fail.
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

/// A line in the given form without an event of `tracing`.
fn own_line(form: LogFormat, level: &str, message: &str) -> String {
    let mut time = String::new();
    // Writing into a String does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    match form {
        // Control characters are escaped, so that a message cannot forge a second line.
        LogFormat::Text => format!("{time} {level:>5} {}\n", message.escape_debug()),
        LogFormat::Json => {
            let mut line = format!("{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"message\":")
                .into_bytes();
            write_string(message, &mut line);
            line.extend_from_slice(b"}\n");
            String::from_utf8_lossy(&line).into_owned()
        }
    }
}

/// The line about lines that were dropped because the queue was full.
fn say_dropped(form: LogFormat, dropped: u64) -> String {
    own_line(form, "WARN", &format!("{dropped} log lines were dropped"))
}

/// A panic's message, as one line.
fn say_panic(form: LogFormat, panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let place = match panic.location() {
        Some(place) => format!(" at {place}"),
        None => String::new(),
    };
    let what = panic.payload_as_str().unwrap_or("no message");
    own_line(
        form,
        "ERROR",
        &format!("thread {:?} panicked{place}: {what}", thread.name().unwrap_or("-")),
    )
}

/// Starts logging. `TOKEN_SHIELD_LOG` sets the level. The default is `info`; `warn` omits the lines
/// of requests.
///
/// # Errors
/// If standard error is not available, or its thread cannot be started.
pub(super) fn start(form: LogFormat) -> io::Result<()> {
    let filter =
        EnvFilter::try_from_env("TOKEN_SHIELD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = LogLines::start_for_process(match form {
        LogFormat::Text => |dropped| say_dropped(LogFormat::Text, dropped),
        LogFormat::Json => |dropped| say_dropped(LogFormat::Json, dropped),
    })?;
    // The default hook writes to standard error directly, and could block there.
    panic::set_hook(Box::new(move |panic| lines.push(say_panic(form, panic).as_bytes(), true)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LineQueue(lines.clone()))
        .with_target(false);
    let started = match form {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.event_format(JsonLine).try_init(),
    };
    started.map_err(io::Error::other)
}

/// Prints the reason why a command failed on standard error, and waits at most one second for all
/// lines. The process ends even if no reader takes them.
pub(super) fn finish(failure: Option<&str>) {
    match log_lines::of_process() {
        Some(lines) => {
            if let Some(failure) = failure {
                lines.push(format!("{failure}\n").as_bytes(), true);
            }
            let _ = lines.finish(LAST_LINES);
        }
        None => failure.iter().for_each(|failure| eprintln!("{failure}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("written").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_said_besides_events_has_the_same_form() {
        let line = say_dropped(LogFormat::Json, 3);
        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&object["level"], &object["message"]),
            (&"WARN".into(), &"3 log lines were dropped".into())
        );
        assert!(
            object["timestamp"]
                .as_str()
                .is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()),
            "{line}"
        );
        let text = own_line(LogFormat::Text, "WARN", "one\ntwo");
        assert!(text.ends_with(" WARN one\\ntwo\n") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn a_json_line_is_one_object_whatever_stands_in_it() {
        let written = Buffer::default();
        let buffer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || buffer.clone())
            .event_format(JsonLine)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                status = 200_u16,
                ms = 7_u64,
                left = -1_i64,
                up = true,
                who = "a \"b\"\n",
                why = %"c\\d",
                none = ?None::<u8>,
                "said \"it\""
            );
        });
        let text = String::from_utf8(written.0.lock().expect("written").clone()).expect("UTF-8");
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let (time, rest) = (object["timestamp"].as_str().expect("time"), &object);
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!((&rest["level"], &rest["message"]), (&"INFO".into(), &"said \"it\"".into()));
        assert_eq!(
            (&rest["status"], &rest["ms"], &rest["left"]),
            (&200.into(), &7.into(), &(-1).into())
        );
        assert_eq!((&rest["up"], &rest["who"]), (&true.into(), &"a \"b\"\n".into()));
        assert_eq!((&rest["why"], &rest["none"]), (&"c\\d".into(), &"None".into()));
    }
}
