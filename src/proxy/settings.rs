//! What the data plane is set to: checked data, no defaults of its own.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::guard::settings::Caps;
use crate::guard::settings::Wait;
use crate::model::usage::AnswerLimits;
use crate::secret::SecretRef;

/// Everything that the data plane goes by.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Where agents connect.
    pub listen: Listen,
    /// Servers.
    pub upstreams: Vec<UpstreamSettings>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// How long answers may be.
    pub answers: AnswerLimits,
    /// Where metrics are scraped.
    pub metrics: SocketAddr,
    /// The admin socket.
    pub admin: PathBuf,
    /// Proxies whose PROXY headers and `X-Forwarded-For` are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once of one network that is no trusted proxy.
    pub peer_connections_max: usize,
    /// Who may have the log's tree.
    pub auditors: Auditors,
    /// Agents that get a label of their own in the metrics; none: no agent label.
    pub agent_label: Option<usize>,
}

/// Who may have the log's tree, read-only.
#[derive(Clone, Debug, Default)]
pub struct Auditors {
    /// A Unix socket: whoever may open it.
    pub socket: Option<PathBuf>,
    /// Whoever sends this credential where agents connect.
    pub credential: Option<SecretRef>,
    /// Whether anybody may have checkpoints and public keys.
    pub public_checkpoints: bool,
}

/// Where agents connect.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Whether anybody may have the public keys (`GET /.well-known/jwks.json`).
    pub publish_keys: bool,
    /// The address.
    pub address: SocketAddr,
    /// TLS; without it the address is loopback, or the operator has said `danger_plaintext`.
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
    /// Where it is.
    pub target: ServerAddress,
    /// What stands before `/v1` in its paths, without a slash at the end.
    pub base_path: String,
    /// Which profile describes it.
    pub profile: String,
    /// Whether its operator is ours.
    pub controlled: bool,
    /// Where it stands.
    pub jurisdiction: Option<String>,
    /// The gateway's own credential there.
    pub credential: Option<SecretRef>,
    /// True where the credential goes into `x-api-key` instead of `Authorization: Bearer`.
    pub credential_as_api_key: bool,
    /// Its own caps.
    pub caps: Caps,
    /// How requests wait where all its places are taken.
    pub wait: Wait,
    /// True where connections are kept apart by principal.
    pub pool_by_principal: bool,
}

/// Where a server is.
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
        /// The CA that signs its certificate; none: the system's.
        ca: Option<PathBuf>,
    },
    /// HTTP over a Unix socket.
    Unix(PathBuf),
    /// HTTP to the built-in upstream, within the process.
    Echo,
}

/// A host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'t> {
    /// A name or an address, without brackets.
    pub host: &'t str,
    /// The port.
    pub port: u16,
}

impl ServerAddress {
    /// Where it is in the network. `None` for a target on this machine that has no port.
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

/// The authority of a URL (RFC 3986 section 3.2).
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

/// Time limits.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// A TLS handshake or PROXY header.
    pub handshake: Duration,
    /// A request's headers, from their first byte.
    pub header: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// Silence within a request's body.
    pub body_idle: Duration,
    /// A dial to an upstream.
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub first_byte: Duration,
    /// Silence within an answer.
    pub stream_idle: Duration,
    /// The whole request.
    pub whole: Duration,
    /// Open requests at the end.
    pub drain: Duration,
    /// Open requests at the end, where another process has taken over.
    pub drain_streams: Duration,
}
