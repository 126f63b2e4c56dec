//! Settings of the data plane: validated data without defaults. The defaults are in `config`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::guard::settings::Caps;
use crate::guard::settings::Wait;
use crate::model::usage::AnswerLimits;
use crate::secret::SecretRef;

/// All settings of the data plane.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The address where agents connect.
    pub listen: Listen,
    /// The servers of models.
    pub upstreams: Vec<UpstreamSettings>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The limits on the size of answers.
    pub answers: AnswerLimits,
    /// The address where metrics are scraped.
    pub metrics: SocketAddr,
    /// The admin socket.
    pub admin: PathBuf,
    /// Proxies whose PROXY headers and `X-Forwarded-For` are accepted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Callers' connections at once.
    pub connections_max: usize,
    /// Connections at once of one network, if it is no trusted proxy.
    pub peer_connections_max: usize,
    /// The access of auditors to the log's tree.
    pub auditors: Auditors,
    /// The number of agents with their own label in the metrics. None: no agent label.
    pub agent_label: Option<usize>,
}

/// The parties that may read the log's tree.
#[derive(Clone, Debug, Default)]
pub struct Auditors {
    /// A Unix socket. Its file permissions control access.
    pub socket: Option<PathBuf>,
    /// The credential of auditors at the address of the agents.
    pub credential: Option<SecretRef>,
    /// Whether checkpoints and public keys need no credential.
    pub public_checkpoints: bool,
}

/// The address where agents connect, and its TLS.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Whether the public keys need no token (`GET /.well-known/jwks.json`).
    pub publish_keys: bool,
    /// The origins of browser applications that may call the gateway.
    pub cors: Vec<String>,
    /// The address.
    pub address: SocketAddr,
    /// TLS. Without it the address is loopback, or the operator has set `danger_plaintext`.
    pub tls: Option<Tls>,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: SecretRef,
}

/// A server of models.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its name.
    pub name: String,
    /// Its address.
    pub target: ServerAddress,
    /// The part before `/v1` in its paths, without a slash at the end.
    pub base_path: String,
    /// The name of the profile that describes it.
    pub profile: String,
    /// Whether the operator of the gateway controls the server.
    pub controlled: bool,
    /// The jurisdiction that it is in.
    pub jurisdiction: Option<String>,
    /// The gateway's credential for it.
    pub credential: Option<SecretRef>,
    /// True if the credential is sent in `x-api-key` instead of `Authorization: Bearer`.
    pub credential_as_api_key: bool,
    /// Its rates and slots.
    pub caps: Caps,
    /// How requests wait when all its slots are taken.
    pub wait: Wait,
    /// True if connections are separated by principal.
    pub pool_by_principal: bool,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// Plain HTTP over TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// HTTP over TLS.
    Tls {
        /// Name or address, checked against the certificate.
        host: String,
        /// Port.
        port: u16,
        /// The CA that signs its certificate. None: the system's CAs.
        ca: Option<PathBuf>,
    },
    /// HTTP over a Unix socket.
    Unix(PathBuf),
    /// HTTP to the built-in upstream, within the process.
    Echo,
}

/// A host and a port of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'t> {
    /// A name or an address, without brackets.
    pub host: &'t str,
    /// The port.
    pub port: u16,
}

impl ServerAddress {
    /// Its network endpoint. `None` for a target on this machine without a port.
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint<'_>> {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => {
                Some(Endpoint { host, port: *port })
            }
            Self::Unix(_) | Self::Echo => None,
        }
    }

    /// The authority for the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.endpoint() {
            Some(endpoint) => endpoint.to_string(),
            None => "localhost".to_owned(),
        }
    }
}

/// Formats the authority of a URL (RFC 3986 section 3.2): an IPv6 address gets brackets.
impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

/// The time limits of the data plane.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For a TLS handshake or a PROXY header.
    pub handshake: Duration,
    /// For a request's headers, from their first byte.
    pub header: Duration,
    /// For a connection without a request.
    pub idle: Duration,
    /// For the silence between two parts of a request's body.
    pub body_idle: Duration,
    /// For a dial to an upstream.
    pub connect: Duration,
    /// From sending the request to the head of its answer.
    pub first_byte: Duration,
    /// For the silence between two parts of an answer.
    pub stream_idle: Duration,
    /// For the whole request.
    pub whole: Duration,
    /// For open requests when the gateway stops.
    pub drain: Duration,
    /// For open requests when another process has taken over.
    pub drain_streams: Duration,
}
