//! What is part of this gateway or stands behind it.

use crate::config::Config;
use crate::guard::egress::destination::{Destination, Scheme};
use crate::guard::egress::judge::Own;
use crate::proxy::settings::Target;

/// What is never a destination.
pub(super) fn of(config: &Config) -> Own {
    let upstreams = config.proxy.upstreams.iter().filter_map(|upstream| match &upstream.target {
        Target::Tcp { host, port } | Target::Tls { host, port, .. } => {
            let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            Destination::read_authority(Scheme::Http, &authority).ok().map(|read| (read.host, read.port))
        }
        Target::Unix(_) | Target::Echo => None,
    });
    let listeners = vec![config.proxy.listen.address, config.proxy.metrics];
    Own { upstreams: upstreams.collect(), listeners }
}
