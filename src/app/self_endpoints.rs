//! The endpoints of this gateway and of its upstreams. The egress policy allows none of them as a
//! destination.

use crate::config::Config;
use crate::guard::egress::destination::{Destination, Host, Scheme};
use crate::guard::egress::policy::{EgressPolicy, SelfEndpoints};

/// The endpoints that are never a destination. A request could otherwise reach a model server
/// without the gateway's checks.
pub(super) fn self_endpoints(config: &Config) -> SelfEndpoints {
    let mut upstreams = Vec::new();
    for upstream in &config.proxy.upstreams {
        // `echo` and Unix sockets have no address that a URL could name.
        let Some(endpoint) = upstream.target.endpoint() else { continue };
        let host = match Destination::read_authority(Scheme::Http, &endpoint.to_string()) {
            Ok(read) => read.host,
            // A name that is no valid destination is compared in lower case, without a dot at its
            // end.
            Err(_) => Host::Name(endpoint.host.trim_end_matches('.').to_ascii_lowercase()),
        };
        upstreams.push((host, endpoint.port));
    }
    let listeners = vec![config.proxy.listen.address, config.proxy.metrics];
    SelfEndpoints { upstreams, listeners }
}

/// The egress policy of a config.
#[must_use]
pub fn egress_policy_of(config: &Config) -> EgressPolicy {
    EgressPolicy::new(config.guard.egress.clone(), self_endpoints(config))
}
