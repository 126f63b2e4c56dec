//! What a listener and its connections go by.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::proxy::settings::Timeouts;

/// How long requests on kept connections are answered by the process that has taken over: a little longer than HTTP libraries keep an
/// idle connection (5 s by default in httpx and so in the SDKs, 4 s in undici), so that none asks on one that is being closed.
pub const KEPT: Duration = Duration::from_secs(6);

/// What a drain asks of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// Nothing yet.
    No,
    /// To end once nothing was asked for [`KEPT`]; over HTTP/2, which can announce its end, to end after what is open.
    WhenQuiet,
    /// To end after what is open.
    Now,
}

/// What a listener goes by.
pub struct Terms {
    /// TLS, where the listener speaks it; swapped on reload.
    pub tls: Option<Arc<arc_swap::ArcSwap<rustls::ServerConfig>>>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once of one network that is no trusted proxy.
    pub peer_connections_max: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}
