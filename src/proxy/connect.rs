//! Dialling an upstream: TCP, TLS, a Unix socket or a pipe within the process, with a time limit.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::echo;
use crate::proxy::settings::ServerAddress;

/// Where and how to dial. One per upstream.
#[derive(Clone)]
pub struct Dialler {
    target: Arc<ServerAddress>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Dialler {
    /// A dialler to `target`, with TLS where the target says so.
    #[must_use]
    pub fn new(
        target: ServerAddress,
        tls: Option<(TlsConnector, ServerName<'static>)>,
        timeout: Duration,
    ) -> Self {
        Self { target: Arc::new(target), tls, timeout }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What the operating system, the resolver or the TLS handshake said, or a timeout.
    pub async fn dial(&self) -> Result<UpstreamStream, DialFault> {
        let late = "timeout: no connection within timeouts.connect";
        let Ok(opened) = tokio::time::timeout(self.timeout, self.open()).await else {
            return Err(DialFault::Unreached(io::Error::new(io::ErrorKind::TimedOut, late)));
        };
        opened
    }

    async fn open(&self) -> Result<UpstreamStream, DialFault> {
        match &*self.target {
            ServerAddress::Unix(path) => {
                Ok(UpstreamStream::Unix(UnixStream::connect(path).await.map_err(connect_fault)?))
            }
            ServerAddress::Tcp { host, port } => Ok(UpstreamStream::Tcp(tcp(host, *port).await?)),
            ServerAddress::Tls { host, port, .. } => {
                let (connector, name) =
                    self.tls.clone().ok_or_else(|| unreached("no TLS client"))?;
                let stream =
                    connector.connect(name, tcp(host, *port).await?).await.map_err(tls_fault)?;
                Ok(UpstreamStream::Tls(Box::new(stream)))
            }
            ServerAddress::Echo => Ok(UpstreamStream::InProcess(echo::connect())),
        }
    }

    /// Whether a connection takes a file descriptor.
    #[must_use]
    pub fn opens_descriptor(&self) -> bool {
        match &*self.target {
            ServerAddress::Tcp { .. } | ServerAddress::Tls { .. } | ServerAddress::Unix(_) => true,
            ServerAddress::Echo => false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The server cannot be reached, or is not the one that was meant. A later dial shows whether that has changed.
    #[error("{0}")]
    Unreached(io::Error),
    /// The server took the connection and ended it at once, before anything was asked. Whether that shows at the dial, in the
    /// TLS handshake or at the first write is chance, so it is judged like a request that failed: a later dial that succeeds
    /// does not show that the server serves.
    #[error("{0}")]
    Ended(io::Error),
}

fn unreached(why: &str) -> DialFault {
    DialFault::Unreached(io::Error::other(why))
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, DialFault> {
    let named = |error: io::Error| {
        DialFault::Unreached(io::Error::new(error.kind(), format!("DNS: {error}")))
    };
    let mut last = unreached("DNS: the name has no address");
    for address in tokio::net::lookup_host((host, port)).await.map_err(named)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream
                    .set_nodelay(true)
                    .and_then(|()| keep_alive(&stream))
                    .map_err(DialFault::Ended)?;
                return Ok(stream);
            }
            Err(error) => last = connect_fault(error),
        }
    }
    Err(last)
}

/// Milliseconds for which what was sent may be unacknowledged.
const UNACKNOWLEDGED_MAX_MS: u32 = 30_000;

/// A peer that has vanished without a word is noticed within half a minute, whether the connection is idle (keep-alive probes) or
/// something was sent (RFC 5482), and not only after `timeouts.first_byte`.
///
/// # Errors
/// When the system does not take the options.
fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    probed(&socket)?;
    acknowledged(&socket, true)
}

/// Has the system end the connection when what was sent is not acknowledged for half a minute, or not (`limited`).
///
/// # Errors
/// When the system does not take the option.
pub(super) fn acknowledged(socket: impl AsFd, limited: bool) -> io::Result<()> {
    sockopt::set_tcp_user_timeout(&socket, if limited { UNACKNOWLEDGED_MAX_MS } else { 0 })?;
    Ok(())
}

/// Has the system ask a peer that is silent for 15 s whether it is still there (RFC 9293 section 3.8.4); without an answer the
/// connection ends 15 s later. A peer that reads slowly is there.
///
/// # Errors
/// When the system does not take the options.
pub fn probed(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    Ok(())
}

fn connect_fault(error: io::Error) -> DialFault {
    // A server that refuses a connection resets it before it is open, which is told as `ConnectionRefused`. This one was open.
    if error.kind() == io::ErrorKind::ConnectionReset {
        return DialFault::Ended(error);
    }
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "every other fault means that there is no way to the server"
    )]
    let word = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::TimedOut => "timeout",
        _ => "unreachable",
    };
    DialFault::Unreached(io::Error::new(error.kind(), format!("{word}: {error}")))
}

/// Bytes of a certificate's fault that are told: it may list every name of the certificate.
const TLS_FAULT_MAX: usize = 500;

fn tls_fault(error: io::Error) -> DialFault {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) {
        return DialFault::Ended(error);
    }
    let fault = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let word = if matches!(fault, Some(rustls::Error::InvalidCertificate(_))) {
        "certificate"
    } else {
        "TLS"
    };
    let mut told = format!("{word}: {error}");
    told.truncate(told.floor_char_boundary(TLS_FAULT_MAX));
    DialFault::Unreached(io::Error::new(error.kind(), told))
}

/// An open connection.
pub enum UpstreamStream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
    /// A pipe to a server within the process.
    InProcess(DuplexStream),
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::InProcess(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::InProcess(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::InProcess(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::InProcess(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::InProcess(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::InProcess(stream) => stream.is_write_vectored(),
        }
    }
}
