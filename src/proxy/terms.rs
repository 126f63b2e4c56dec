//! The terms of a listener and its connections.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::proxy::settings::Timeouts;

/// How long the process that has taken over answers requests on kept connections. It is a little
/// longer than HTTP libraries keep an idle connection. That is 5 s by default in httpx and so in
/// the SDKs, and 4 s in undici. So no client sends a request on a connection that is being closed.
pub const KEPT: Duration = Duration::from_secs(6);

/// The instruction of a drain to connections. The order of the variants is their urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// No drain.
    No,
    /// End after [`KEPT`] without a request. HTTP/2 can announce its end, so there the connection
    /// ends after its open requests.
    WhenQuiet,
    /// End after the open requests.
    Now,
}

/// The settings of a listener.
pub struct Terms {
    /// The TLS settings, if the listener uses TLS. A reload swaps them.
    pub tls: Option<Arc<arc_swap::ArcSwap<rustls::ServerConfig>>>,
    /// The trusted proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Callers' connections at once.
    pub connections_max: usize,
    /// Connections at once of one network, if it is no trusted proxy.
    pub peer_connections_max: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}
