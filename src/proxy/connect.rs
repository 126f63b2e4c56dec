//! Dialling an upstream: TCP, TLS or a Unix socket, with a time limit.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::settings::Target;

/// Where and how to dial. One per upstream.
#[derive(Clone)]
pub struct Dialler {
    target: Arc<Target>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Dialler {
    /// A dialler to `target`, with TLS where the target says so.
    #[must_use]
    pub fn new(target: Target, tls: Option<(TlsConnector, ServerName<'static>)>, timeout: Duration) -> Self {
        Self { target: Arc::new(target), tls, timeout }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What the operating system, the resolver or the TLS handshake said, or a timeout.
    pub async fn dial(&self) -> io::Result<Stream> {
        let refused = |_| io::Error::new(io::ErrorKind::TimedOut, "timeout: no connection within timeouts.connect");
        tokio::time::timeout(self.timeout, self.open()).await.map_err(refused)?
    }

    async fn open(&self) -> io::Result<Stream> {
        match &*self.target {
            Target::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await.map_err(connect_fault)?)),
            Target::Tcp { host, port } => Ok(Stream::Tcp(tcp(host, *port).await?)),
            Target::Tls { host, port, .. } => {
                let (connector, name) = self.tls.clone().ok_or_else(|| io::Error::other("no TLS client"))?;
                let stream = connector.connect(name, tcp(host, *port).await?).await.map_err(tls_fault)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Target::Echo => Err(io::Error::other("echo is not dialled")),
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("DNS: {error}"));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "DNS: the name has no address");
    for address in tokio::net::lookup_host((host, port)).await.map_err(named)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = connect_fault(error),
        }
    }
    Err(last)
}

/// A peer that has vanished without a word is noticed within half a minute, whether the connection is idle (keep-alive probes) or
/// something was sent (RFC 5482), and not only after `timeouts.first_byte`.
///
/// # Errors
/// When the system does not take the options.
fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    probed(&socket)?;
    sockopt::set_tcp_user_timeout(&socket, 30_000)?;
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

fn connect_fault(error: io::Error) -> io::Error {
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other fault means that there is no way to the server")]
    let word = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset => "reset",
        io::ErrorKind::TimedOut => "timeout",
        _ => "unreachable",
    };
    io::Error::new(error.kind(), format!("{word}: {error}"))
}

fn tls_fault(error: io::Error) -> io::Error {
    let fault = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let word = if matches!(fault, Some(rustls::Error::InvalidCertificate(_))) { "certificate" } else { "TLS" };
    io::Error::new(error.kind(), format!("{word}: {error}"))
}

/// An open connection.
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}
