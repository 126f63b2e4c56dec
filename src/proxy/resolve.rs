//! Addresses for fetches. They are resolved once and checked together, and only checked addresses
//! are dialled.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::TcpStream;

use crate::guard::egress::destination::{Destination, Host};
use crate::guard::egress::policy::{Controlled, EgressPolicy, Uncontrolled};
use crate::refusal::{Code, Refusal};

/// How long one address of several is tried.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Resolves host names.
pub struct Resolver(TokioResolver);

/// Addresses of a controlled destination. All of them may be dialled. Only [`Resolver::judged`]
/// makes them.
pub struct CheckedAddresses(Vec<SocketAddr>);

impl Resolver {
    /// A resolver that uses `server`, or the system's resolvers.
    ///
    /// # Errors
    /// If the system's settings cannot be read.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, NetError> {
        let mut builder = match server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                connections.iter_mut().for_each(|connection| connection.port = server.port());
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        // Both families: one forbidden address makes the whole name forbidden, whichever address is
        // dialled first.
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self(builder.build()?))
    }

    /// The addresses of a host.
    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, String> {
        match host {
            Host::Address(address) => Ok(vec![*address]),
            // The trailing dot makes the name absolute, so that no search domain is appended.
            Host::Name(name) => {
                let found = self
                    .0
                    .lookup_ip(format!("{name}."))
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(found.iter().collect())
            }
        }
    }

    /// The addresses of a destination, if all of them may be dialled.
    ///
    /// # Errors
    /// `egress-uncontrolled` if one may not, `fetch-failed` if there are none.
    pub async fn judged(
        &self,
        policy: &EgressPolicy,
        controlled: &Controlled,
    ) -> Result<CheckedAddresses, Refusal> {
        let destination = controlled.destination();
        let host = &destination.host;
        let found = self.addresses(host).await.map_err(|why| none(host, &why))?;
        let mut addresses = Vec::with_capacity(found.len());
        for ip in found {
            addresses.push(SocketAddr::new(ip, destination.port));
        }
        if addresses.is_empty() {
            return Err(none(host, "it has no address"));
        }
        for address in &addresses {
            policy
                .address(controlled, *address)
                .map_err(|why| refused(destination, address, &why))?;
            // A listener on all addresses is reachable at each local address, and no list can name
            // them all.
            if policy.listens_everywhere(address.port()) && is_own(*address) {
                return Err(refused(destination, address, &Uncontrolled::SelfEndpoints));
            }
        }
        // An upstream must not be reached by a fetch, under any of its names and addresses.
        for upstream in policy.upstreams_at(destination.port) {
            let own = upstream_addresses(upstream, destination.port).await.map_err(|why| {
                let because = format!(
                    "whether {destination} is the upstream {upstream} cannot be said: {why}"
                );
                Refusal::new(Code::FetchFailed).because(because)
            })?;
            // The same name leads to the upstream, even if the two resolvers return different
            // addresses.
            let named = upstream == host;
            for address in &addresses {
                let ip = address.ip().to_canonical();
                if named || own.iter().any(|own| own.to_canonical() == ip) {
                    return Err(refused(destination, address, &Uncontrolled::SelfEndpoints));
                }
            }
        }
        Ok(CheckedAddresses(addresses))
    }
}

/// The refusal for a host without a usable address.
fn none(host: &Host, why: &str) -> Refusal {
    Refusal::new(Code::FetchFailed).because(format_args!("{host}: {why}"))
}

/// The refusal for an address that may not be dialled.
fn refused(destination: &Destination, address: &SocketAddr, why: &Uncontrolled) -> Refusal {
    let says = format!("{} is not a controlled destination.", destination.host);
    Refusal::new(Code::EgressUncontrolled)
        .saying(says)
        .because(format_args!("{destination}: {}: {why}", address.ip()))
}

impl CheckedAddresses {
    /// Connects to the first address that accepts. The name is not resolved again.
    ///
    /// # Errors
    /// The error of the last address.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::other("no address");
        for address in &self.0 {
            match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// The addresses of an upstream, from the same resolver that dials it.
async fn upstream_addresses(upstream: &Host, port: u16) -> std::io::Result<Vec<IpAddr>> {
    match upstream {
        Host::Address(address) => Ok(vec![*address]),
        Host::Name(name) => Ok(tokio::net::lookup_host((name.as_str(), port))
            .await?
            .map(|address| address.ip())
            .collect()),
    }
}

/// Whether an address belongs to this machine: only such an address can be bound. No packet is
/// sent.
fn is_own(address: SocketAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}
