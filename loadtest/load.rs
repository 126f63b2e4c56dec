//! The callers of the load test: N connections, each with the next request as soon as the last one
//! is answered. One JSON line has the results.
#![allow(clippy::disallowed_methods, reason = "a load test runs on the machine's own time")]

mod wire;

use std::cell::Cell;
use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use clap::Parser;
use tokio::net::TcpStream;

use crate::wire::Wire;

/// The microseconds of one tick of `/proc/PID/stat`. USER_HZ is 100 on current Linux systems.
const TICK_US: u64 = 10_000;

/// Sends requests for chat completions in a closed loop.
#[derive(Debug, Parser)]
struct Words {
    /// The `host:port` of the target.
    #[arg(long)]
    target: String,
    /// The number of connections. Each has one request at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The seconds before the measurement begins.
    #[arg(long, default_value_t = 1.0)]
    warm_s: f64,
    /// The seconds of the measurement.
    #[arg(long, default_value_t = 5.0)]
    window_s: f64,
    /// Request streams and count their events. Latency is then the time to the first event.
    #[arg(long)]
    stream: bool,
    /// A file of bearer tokens, one in each line. They are used in turn.
    #[arg(long)]
    tokens: Option<std::path::PathBuf>,
    /// Requests per second of all connections together, evenly distributed. Default: as many as are
    /// answered.
    #[arg(long)]
    rate: Option<f64>,
    /// The length of a request body, in bytes.
    #[arg(long, default_value_t = 2048)]
    body: usize,
    /// Processes whose CPU time (user and system) in the measurement is reported.
    #[arg(long)]
    pid: Vec<u32>,
}

/// The state of all connections. There is one thread, so it needs no locks.
#[derive(Debug)]
struct Run {
    target: String,
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    next: Cell<usize>,
    counting: Cell<bool>,
    /// The time of the start, and the time between two requests.
    pace: Option<(Instant, Duration)>,
    requests: Cell<u64>,
    errors: Cell<u64>,
    events: Cell<u64>,
    latency_us: RefCell<Vec<u64>>,
    first_error: RefCell<Option<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words = Words::parse();
    let run = Rc::new(Run::new(&words)?);
    let line = tokio::task::LocalSet::new().run_until(measure(&words, run)).await?;
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

async fn measure(words: &Words, run: Rc<Run>) -> io::Result<serde_json::Value> {
    for _ in 0..words.connections {
        let run = Rc::clone(&run);
        tokio::task::spawn_local(async move { caller(&run).await });
    }
    tokio::time::sleep(Duration::from_secs_f64(words.warm_s)).await;
    let (begin, cpu_begin) = (Instant::now(), cpu_us(&words.pid)?);
    run.counting.set(true);
    tokio::time::sleep(Duration::from_secs_f64(words.window_s)).await;
    run.counting.set(false);
    let (window, cpu_end) = (begin.elapsed(), cpu_us(&words.pid)?);
    let mut latency = run.latency_us.take();
    latency.sort_unstable();
    Ok(serde_json::json!({
        "window_s": window.as_secs_f64(),
        "requests": run.requests.get(),
        "errors": run.errors.get(),
        "first_error": run.first_error.take(),
        "events": run.events.get(),
        "cpu_us": cpu_end.saturating_sub(cpu_begin),
        "mean_us": latency.iter().sum::<u64>() / (latency.len() as u64).max(1),
        "p50_us": percentile(&latency, 50),
        "p99_us": percentile(&latency, 99),
        "max_us": latency.last(),
    }))
}

/// Keeps one connection. A broken one is counted, and opened again.
async fn caller(run: &Run) {
    loop {
        if let Err(fault) = conversation(run).await {
            run.failed(&fault.to_string());
            // A pause, so that an unreachable target does not cause a busy loop.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn conversation(run: &Run) -> io::Result<()> {
    let mut wire = Wire::new(TcpStream::connect(&run.target).await?)?;
    let mut request = Vec::new();
    let mut answer = Vec::new();
    loop {
        let turn = run.next.get();
        run.next.set(turn.wrapping_add(1));
        if let Some((began, between)) = run.pace {
            tokio::time::sleep_until((began + between.mul_f64(turn as f64)).into()).await;
        }
        request.clear();
        request.extend_from_slice(&run.heads[turn % run.heads.len()]);
        request.extend_from_slice(&run.body);
        let asked = Instant::now();
        wire.write(&request).await?;
        let head = wire.head().await?.ok_or_else(|| io::Error::other("closed before an answer"))?;
        answer.clear();
        let (mut first, mut newline) = (None, false);
        wire.body(&head, |piece| {
            first.get_or_insert_with(|| asked.elapsed());
            if run.counting.get() {
                run.events.set(run.events.get() + blank_lines(piece, &mut newline));
            }
            answer.extend_from_slice(piece);
        })
        .await?;
        if head.first_line.split(' ').nth(1) != Some("200") || answer.is_empty() {
            run.failed(&format!("{}: {}", head.first_line, String::from_utf8_lossy(&answer)));
        } else if run.counting.get() {
            run.requests.set(run.requests.get() + 1);
            run.latency_us
                .borrow_mut()
                .push(u64::try_from(first.unwrap_or_default().as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// Counts the ends of server-sent events in a piece. `newline` carries the last byte of the piece
/// before.
fn blank_lines(piece: &[u8], newline: &mut bool) -> u64 {
    let mut count = 0;
    for byte in piece {
        if *byte == b'\n' && *newline {
            count += 1;
            *newline = false;
        } else {
            *newline = *byte == b'\n';
        }
    }
    count
}

impl Run {
    fn new(words: &Words) -> io::Result<Self> {
        let body = body(words.body, words.stream);
        let tokens = match &words.tokens {
            Some(path) => std::fs::read_to_string(path)?
                .lines()
                .map(|token| format!("authorization: Bearer {token}\r\n"))
                .collect(),
            None => vec![String::new()],
        };
        let head = |token: &String| {
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nuser-agent: load\r\naccept: \
                    */*\r\ncontent-type: application/json\r\n\
                 {token}content-length: {}\r\n\r\n",
                words.target,
                body.len()
            )
        };
        if tokens.is_empty() {
            return Err(io::Error::other("the file of tokens is empty"));
        }
        Ok(Self {
            target: words.target.clone(),
            heads: tokens.iter().map(|token| head(token).into_bytes()).collect(),
            body,
            next: Cell::new(0),
            counting: Cell::new(false),
            pace: words.rate.map(|rate| (Instant::now(), Duration::from_secs_f64(1.0 / rate))),
            requests: Cell::new(0),
            errors: Cell::new(0),
            events: Cell::new(0),
            latency_us: RefCell::new(Vec::with_capacity(1 << 20)),
            first_error: RefCell::new(None),
        })
    }

    fn failed(&self, why: &str) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| why.chars().take(500).collect());
    }
}

/// A chat request of exactly `length` bytes, or of the shortest possible length.
fn body(length: usize, stream: bool) -> Vec<u8> {
    let around = |text: &str| {
        format!(
            concat!(
                r#"{{"model":"load","messages":[{{"role":"system","content":"You answer "#,
                r#"shortly."}},{{"role":"user","content":"{text}"}}],"temperature":0.7,"#,
                r#""max_tokens":256,"stream":{stream}}}"#
            ),
            text = text,
            stream = stream
        )
    };
    let room = length.saturating_sub(around("").len());
    around(
        &"A question of several plain words, asked again. "
            .chars()
            .cycle()
            .take(room)
            .collect::<String>(),
    )
    .into_bytes()
}

/// The user and system time of all these processes so far (proc(5): fields 14 and 15 of `stat`).
fn cpu_us(pids: &[u32]) -> io::Result<u64> {
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The program's name may contain spaces and brackets, so the fields are counted from the
        // last bracket.
        let fields =
            stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11).take(2);
        for field in fields {
            ticks += field.parse::<u64>().map_err(io::Error::other)?;
        }
    }
    Ok(ticks * TICK_US)
}

/// A percentile of sorted values. `None` if there are none.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    sorted.get(sorted.len() * percent / 100).copied()
}
