//! The inference server of the load test. It answers every POST with the same chat answer of 1 KB,
//! or with a stream of chunks at a fixed pace.
#![allow(clippy::disallowed_methods, reason = "a load test runs on the machine's own time")]

mod wire;

use std::error::Error;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use crate::wire::Wire;

/// The length of a complete answer's body, in bytes.
const ANSWER: usize = 1024;

/// Answers chat completions as fast as possible.
#[derive(Debug, Parser)]
struct Words {
    /// The address to listen on. Port 0 is any free port. The first line on stdout is the real
    /// address.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The number of content chunks of a stream.
    #[arg(long, default_value_t = 200)]
    chunks: usize,
    /// The milliseconds between two chunks of a stream. 0 sends them without a pause.
    #[arg(long, default_value_t = 2)]
    pace_ms: u64,
}

/// The bytes of all answers, which are built once.
#[derive(Debug)]
struct Script {
    whole: Vec<u8>,
    models: Vec<u8>,
    stream_head: Vec<u8>,
    first: Vec<u8>,
    middle: Vec<u8>,
    last: Vec<u8>,
    usage: Vec<u8>,
    done: Vec<u8>,
    chunks: usize,
    pace: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words = Words::parse();
    let listener = TcpListener::bind(&words.listen).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    std::io::stdout().flush()?;
    let script = Rc::new(Script::new(words.chunks, Duration::from_millis(words.pace_ms)));
    let connections = tokio::task::LocalSet::new();
    connections
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let script = Rc::clone(&script);
                // A caller that disconnects is not an error: each measurement ends like this.
                tokio::task::spawn_local(async move { serve(Wire::new(stream)?, &script).await });
            }
        })
        .await
}

async fn serve(mut wire: Wire, script: &Script) -> std::io::Result<()> {
    let mut body = Vec::new();
    while let Some(head) = wire.head().await? {
        body.clear();
        wire.body(&head, |piece| body.extend_from_slice(piece)).await?;
        if head.first_line.starts_with("GET ") {
            wire.write(&script.models).await?;
        } else if says(&body, b"\"stream\":true") {
            stream(&mut wire, script, says(&body, b"\"include_usage\":true")).await?;
        } else {
            wire.write(&script.whole).await?;
        }
    }
    Ok(())
}

fn says(body: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(body, words).is_some()
}

async fn stream(wire: &mut Wire, script: &Script, usage: bool) -> std::io::Result<()> {
    wire.write(&script.stream_head).await?;
    wire.write(&script.first).await?;
    let mut tick = (!script.pace.is_zero()).then(|| tokio::time::interval(script.pace));
    if let Some(tick) = &mut tick {
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    for _ in 0..script.chunks {
        if let Some(tick) = &mut tick {
            tick.tick().await;
        }
        wire.write(&script.middle).await?;
    }
    wire.write(&script.last).await?;
    if usage {
        wire.write(&script.usage).await?;
    }
    wire.write(&script.done).await
}

impl Script {
    fn new(chunks: usize, pace: Duration) -> Self {
        Self {
            whole: answer(&whole()),
            models: answer(concat!(
                r#"{"object":"list","data":[{"id":"load","object":"model","#,
                r#""created":1790000000,"owned_by":"loadtest"}]}"#
            )),
            stream_head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; \
                charset=utf-8\r\ncache-control: no-cache\r\n\
                           transfer-encoding: chunked\r\n\r\n"
                .to_vec(),
            first: chunk(&event(
                concat!(
                    r#"[{"index":0,"delta":{"role":"assistant","content":""},"#,
                    r#""logprobs":null,"finish_reason":null}]"#
                ),
                "",
            )),
            middle: chunk(&event(
                concat!(
                    r#"[{"index":0,"delta":{"content":" token"},"logprobs":null,"#,
                    r#""finish_reason":null}]"#
                ),
                "",
            )),
            last: chunk(&event(
                r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]"#,
                "",
            )),
            usage: chunk(&event(
                "[]",
                &format!(
                    concat!(
                        r#","usage":{{"prompt_tokens":512,"completion_tokens":{chunks},"#,
                        r#""total_tokens":{}}}"#
                    ),
                    512 + chunks,
                    chunks = chunks
                ),
            )),
            done: [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
            chunks,
            pace,
        }
    }
}

/// A complete chat answer of exactly [`ANSWER`] bytes.
fn whole() -> String {
    let around = |text: &str| {
        format!(
            concat!(
                r#"{{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","#,
                r#""created":1790000000,"model":"load","choices":[{{"index":0,"#,
                r#""message":{{"role":"assistant","content":"{text}"}},"logprobs":null,"#,
                r#""finish_reason":"stop"}}],"usage":{{"prompt_tokens":512,"#,
                r#""completion_tokens":128,"total_tokens":640}}}}"#
            ),
            text = text
        )
    };
    let room = ANSWER.saturating_sub(around("").len());
    around(&"A plain answer of many words. ".chars().cycle().take(room).collect::<String>())
}

fn answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One server-sent event in OpenAI's form.
fn event(choices: &str, usage: &str) -> String {
    format!(
        concat!(
            r#"data: {{"id":"chatcmpl-0123456789abcdef","#,
            r#""object":"chat.completion.chunk","created":1790000000,"model":"load","#,
            r#""choices":{choices}{usage}}}"#
        ),
        choices = choices,
        usage = usage
    ) + "\n\n"
}

/// One chunk of a chunked body (RFC 9112 section 7.1).
fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
