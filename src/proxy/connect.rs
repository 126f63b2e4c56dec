//! Connects to an upstream: over TCP, TLS, a Unix socket or a pipe within the process, with a time
//! limit.

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

/// Where and how to connect. One per upstream.
#[derive(Clone)]
pub struct Dialler {
    target: Arc<ServerAddress>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Dialler {
    /// A dialler to `target`, with TLS if the target needs it.
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
    /// The error of the operating system, the resolver or the TLS handshake, or a timeout.
    pub async fn dial(&self) -> Result<UpstreamStream, DialFault> {
        let late = "timeout: no connection within timeouts.connect";
        // One limit for resolution, connect and handshake together.
        let Ok(opened) = tokio::time::timeout(self.timeout, self.open()).await else {
            return Err(DialFault::Unreached(io::Error::new(io::ErrorKind::TimedOut, late)));
        };
        opened
    }

    /// Connects without a time limit.
    async fn open(&self) -> Result<UpstreamStream, DialFault> {
        match &*self.target {
            ServerAddress::Unix(path) => {
                Ok(UpstreamStream::Unix(UnixStream::connect(path).await.map_err(connect_fault)?))
            }
            ServerAddress::Tcp { host, port } => Ok(UpstreamStream::Tcp(tcp(host, *port).await?)),
            ServerAddress::Tls { host, port, .. } => {
                let Some((connector, name)) = self.tls.clone() else {
                    return Err(unreached("no TLS client"));
                };
                let stream =
                    connector.connect(name, tcp(host, *port).await?).await.map_err(tls_fault)?;
                Ok(UpstreamStream::Tls(Box::new(stream)))
            }
            ServerAddress::Echo => Ok(UpstreamStream::InProcess(echo::connect())),
        }
    }

    /// Whether a connection needs a file descriptor.
    #[must_use]
    pub fn opens_descriptor(&self) -> bool {
        match &*self.target {
            ServerAddress::Tcp { .. } | ServerAddress::Tls { .. } | ServerAddress::Unix(_) => true,
            ServerAddress::Echo => false,
        }
    }
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The server cannot be reached, or is not the configured one. A later dial shows whether that
    /// has changed.
    #[error("{0}")]
    Unreached(io::Error),
    /// The server accepted the connection and ended it before the gateway sent a request. By chance
    /// this appears at the dial, in the TLS handshake or at the first write. It therefore counts as
    /// a failed request: a later successful dial does not prove that the server serves.
    #[error("{0}")]
    Ended(io::Error),
}

/// A fault of the gateway's own, as text.
fn unreached(why: &str) -> DialFault {
    DialFault::Unreached(io::Error::other(why))
}

/// Connects over TCP to the first address of `host` that accepts.
///
/// # Errors
/// The fault of the last address, or of the name's resolution.
async fn tcp(host: &str, port: u16) -> Result<TcpStream, DialFault> {
    // Only the fault of the last address is reported.
    let mut last = unreached("DNS: the name has no address");
    for address in tokio::net::lookup_host((host, port)).await.map_err(dns_fault)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Without Nagle's algorithm a small request is sent at once.
                stream.set_nodelay(true).map_err(DialFault::Ended)?;
                keep_alive(&stream).map_err(DialFault::Ended)?;
                return Ok(stream);
            }
            Err(error) => last = connect_fault(error),
        }
    }
    Err(last)
}

/// How long sent bytes may stay unacknowledged, in milliseconds.
const UNACKNOWLEDGED_MAX_MS: u32 = 30_000;

/// Sets the options by which a vanished peer is noticed within half a minute. Keep-alive probes
/// cover an idle connection, RFC 5482 covers sent bytes. Without them only `timeouts.first_byte`
/// would notice.
///
/// # Errors
/// If the system rejects the options.
fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    probed(&socket)?;
    acknowledged(&socket, true)
}

/// With `limited`, the system ends the connection when sent bytes stay unacknowledged for half a
/// minute. Without it, that limit is off.
///
/// # Errors
/// If the system rejects the option.
pub(super) fn acknowledged(socket: impl AsFd, limited: bool) -> io::Result<()> {
    sockopt::set_tcp_user_timeout(&socket, if limited { UNACKNOWLEDGED_MAX_MS } else { 0 })?;
    Ok(())
}

/// The system probes a peer that is silent for 15 s (RFC 9293 section 3.8.4). Without an answer the
/// connection ends 15 s later. A peer that reads slowly answers the probes.
///
/// # Errors
/// If the system rejects the options.
pub fn probed(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
    // Three probes, 5 s apart: 15 s.
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    Ok(())
}

/// The fault of a name that cannot be resolved.
fn dns_fault(error: io::Error) -> DialFault {
    DialFault::Unreached(io::Error::new(error.kind(), format!("DNS: {error}")))
}

/// Classifies the error of a connect call.
fn connect_fault(error: io::Error) -> DialFault {
    // The system reports a refused connection as `ConnectionRefused`. `ConnectionReset` means that
    // the connection was open.
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

/// Bytes of a certificate's fault that are reported: it may list every name of the certificate.
const TLS_FAULT_MAX: usize = 500;

/// Classifies the error of a TLS handshake, and limits its text.
fn tls_fault(error: io::Error) -> DialFault {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) {
        return DialFault::Ended(error);
    }
    let word = if matches!(rustls_fault(&error), Some(rustls::Error::InvalidCertificate(_))) {
        "certificate"
    } else {
        "TLS"
    };
    let mut told = format!("{word}: {error}");
    // At a character boundary, because the names may have any script.
    told.truncate(told.floor_char_boundary(TLS_FAULT_MAX));
    DialFault::Unreached(io::Error::new(error.kind(), told))
}

/// The error of rustls, which it wraps in an I/O error.
fn rustls_fault(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// An open connection to an upstream.
pub enum UpstreamStream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
    /// A pipe to a server within this process.
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
