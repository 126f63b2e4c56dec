//! Floods an HTTP/2 listener with control frames (RFC 9113). One JSON line reports the lifetime of
//! each connection.
#![allow(clippy::disallowed_methods, reason = "a load test runs on the machine's own time")]

use std::error::Error;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The kind of frame that is sent without a pause.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Ping,
    Settings,
    Priority,
    WindowUpdate,
    Unknown,
    /// Streams that are opened and reset (RST_STREAM).
    Rst,
    EmptyData,
    Continuation,
}

/// Floods a listener, and opens a new connection when one is closed.
#[derive(Debug, Parser)]
struct Words {
    /// The `host:port` to flood. It must be a loopback address.
    #[arg(long)]
    target: String,
    /// The kind of frame.
    #[arg(long)]
    kind: Kind,
    /// The number of parallel connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// The duration in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Do not open a new connection after one is closed.
    #[arg(long)]
    once: bool,
    /// The CA of the listener's certificate (PEM), if it uses TLS (`dev --tls`: DATA/tls/ca.pem).
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// The results of one flooder's connections.
#[derive(Default)]
struct Lives {
    connections: u64,
    bytes: u64,
    longest: Duration,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A GET / for localhost, from the static table of HPACK alone (RFC 7541). The bytes are the same
/// on every stream.
const ASK: &[u8] = b"\x82\x86\x84\x01\x09localhost";
const FRAMES: usize = 8192;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![high, middle, low, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl Kind {
    /// The bytes at the start of a connection, and the bytes that are repeated.
    fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        let (first, one) = match self {
            Self::Ping => (Vec::new(), frame(6, 0, 0, &[0; 8])),
            Self::Settings => (Vec::new(), frame(4, 0, 0, &[])),
            Self::Priority => (Vec::new(), frame(2, 0, 1, &[0, 0, 0, 0, 16])),
            Self::WindowUpdate => (Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1])),
            Self::Unknown => (Vec::new(), frame(0x42, 0, 0, b"x")),
            Self::Rst => {
                let pair =
                    |number: u32| [frame(1, 5, number, ASK), frame(3, 0, number, &[0; 4])].concat();
                return (
                    Vec::new(),
                    (0..FRAMES as u32).flat_map(|round| pair(2 * round + 1)).collect(),
                );
            }
            Self::EmptyData => (frame(1, 4, 1, ASK), frame(0, 0, 1, &[])),
            Self::Continuation => (frame(1, 0, 1, ASK), frame(9, 0, 1, &[])),
        };
        (first, one.repeat(FRAMES))
    }
}

fn connector(ca: &PathBuf) -> Result<TlsConnector, Box<dyn Error + Send + Sync>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Sends until the connection ends, and reads what arrives. Returns the number of bytes sent.
async fn flood<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    (first, again): &(Vec<u8>, Vec<u8>),
    until: Instant,
) -> u64 {
    let (mut reads, mut writes) = tokio::io::split(stream);
    let sink = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while reads.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let begun = [PREFACE, &frame(4, 0, 0, &[]), first].concat();
    let mut sent = 0;
    if writes.write_all(&begun).await.is_ok() {
        while Instant::now() < until && !sink.is_finished() && writes.write_all(again).await.is_ok()
        {
            sent += again.len() as u64;
        }
    }
    sink.abort();
    sent
}

async fn flooder(words: Arc<Words>, until: Instant) -> Result<Lives, Box<dyn Error + Send + Sync>> {
    let bytes = words.kind.bytes();
    let tls = words.ca.as_ref().map(connector).transpose()?;
    let mut lives = Lives::default();
    while Instant::now() < until {
        let stream = TcpStream::connect(&words.target).await?;
        let began = Instant::now();
        lives.connections += 1;
        lives.bytes += match &tls {
            None => flood(stream, &bytes, until).await,
            Some(tls) => {
                flood(tls.connect(ServerName::try_from("localhost")?, stream).await?, &bytes, until)
                    .await
            }
        };
        lives.longest = lives.longest.max(began.elapsed());
        if words.once {
            break;
        }
    }
    Ok(lives)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let words = Arc::new(Words::parse());
    let until = Instant::now() + Duration::from_secs(words.seconds);
    let mut flooders = tokio::task::JoinSet::new();
    for _ in 0..words.connections {
        flooders.spawn(flooder(Arc::clone(&words), until));
    }
    let mut all = Lives::default();
    while let Some(lives) = flooders.join_next().await {
        let lives = lives??;
        all.connections += lives.connections;
        all.bytes += lives.bytes;
        all.longest = all.longest.max(lives.longest);
    }
    let line = serde_json::json!({
        "kind": format!("{:?}", words.kind),
        "connections": all.connections,
        "bytes": all.bytes,
        "longest_ms": u64::try_from(all.longest.as_millis())?,
    });
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}
