//! The keys of a config that only a start reads. A reload that changes one of them is refused as a
//! whole.

use std::net::SocketAddr;

use crate::config::Config;

/// The keys that only a start reads and whose values differ between `old` and `new`.
pub(super) fn needed_for(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.proxy, &new.proxy);
    let (before, after) = (&old.audit, &new.audit);
    let changes = [
        ("name", old.name != new.name),
        ("data", old.data != new.data),
        // The started config has the real addresses, so a port of 0 needs its own comparison.
        ("[listen] api", moved(was.listen.address, is.listen.address)),
        ("[listen] tls (on or off)", was.listen.tls.is_some() != is.listen.tls.is_some()),
        ("[listen] metrics", moved(was.metrics, is.metrics)),
        ("[listen] admin", was.admin != is.admin),
        ("[listen] trusted_proxies", was.trusted_proxies != is.trusted_proxies),
        ("[limits] connections", was.connections_max != is.connections_max),
        ("[limits] peer_connections", was.peer_connections_max != is.peer_connections_max),
        ("[limits] bodies", old.guard.bodies_max != new.guard.bodies_max),
        ("[limits] peer_rps", old.guard.peer_rps != new.guard.peer_rps),
        ("[limits] root_rps", old.guard.root_rps != new.guard.root_rps),
        ("[limits] token_cache", old.guard.token_cache != new.guard.token_cache),
        ("[timeouts] handshake", was.timeouts.handshake != is.timeouts.handshake),
        ("[timeouts] header", was.timeouts.header != is.timeouts.header),
        ("[timeouts] stream_idle", was.timeouts.stream_idle != is.timeouts.stream_idle),
        ("[timeouts] idle", was.timeouts.idle != is.timeouts.idle),
        ("[timeouts] drain", was.timeouts.drain != is.timeouts.drain),
        ("[timeouts] drain_streams", was.timeouts.drain_streams != is.timeouts.drain_streams),
        ("[metrics] agent_label", was.agent_label != is.agent_label),
        ("[audit] listen", was.auditors.socket != is.auditors.socket),
        ("[audit] records", before.encrypted != after.encrypted),
        ("[audit] reserve", before.reserve != after.reserve),
        ("[audit] epoch", before.epoch_max != after.epoch_max),
        ("[audit] signing_key", before.signing_key != after.signing_key),
        ("[audit] keep and archive", old.keep != new.keep),
    ];
    let mut needed = Vec::new();
    for (key, changed) in changes {
        if changed {
            needed.push(key);
        }
    }
    needed
}

/// True if a listener would need another address. Port 0 matches every port that the system chose.
fn moved(listens: SocketAddr, wanted: SocketAddr) -> bool {
    listens.ip() != wanted.ip() || (wanted.port() != 0 && wanted.port() != listens.port())
}
