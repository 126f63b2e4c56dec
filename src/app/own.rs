//! The endpoints of this gateway and of its upstreams.

use crate::config::Config;
use crate::guard::egress::destination::{Destination, Host, Scheme};
use crate::guard::egress::policy::{EgressPolicy, SelfEndpoints};
use crate::proxy::settings::Target;

/// Endpoints that are never a destination.
pub(super) fn of(config: &Config) -> SelfEndpoints {
    let upstreams = config.proxy.upstreams.iter().filter_map(|upstream| match &upstream.target {
        Target::Tcp { host, port } | Target::Tls { host, port, .. } => {
            let authority = if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            };
            let read = Destination::read_authority(Scheme::Http, &authority).map(|read| read.host);
            // A name that is no valid destination is compared in lower case, without a dot at its
            // end.
            Some((
                read.unwrap_or_else(|_| {
                    Host::Name(host.trim_end_matches('.').to_ascii_lowercase())
                }),
                *port,
            ))
        }
        Target::Unix(_) | Target::Echo => None,
    });
    let listeners = vec![config.proxy.listen.address, config.proxy.metrics];
    SelfEndpoints { upstreams: upstreams.collect(), listeners }
}

/// The egress policy of a config.
#[must_use]
pub fn egress_policy_of(config: &Config) -> EgressPolicy {
    EgressPolicy::new(config.guard.egress.clone(), of(config))
}
