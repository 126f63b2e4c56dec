//! The API listener: accepts, counts connections, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::guard::authenticate::network;
use crate::proxy::connection::Connection;
use crate::proxy::descriptors::is_shortage;
use crate::proxy::peer::trusted;
use crate::proxy::service::Service;
use crate::proxy::settings::Timeouts;
use crate::proxy::terms::{KEPT, Leave, Terms};

/// How often a failed accept is said.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// How long an accept waits for descriptors or memory of the kernel.
const SHORTAGE: Duration = Duration::from_millis(100);
/// How long a last word to a slow caller may take.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// Serves `listener` until `shutdown` turns true, then lets open requests finish for at most `timeouts.drain`. Where another process
/// has taken over, kept connections are served through it for a while, and streams may finish for at most `timeouts.drain_streams`.
/// What is left then is cut, and told so.
pub async fn run<S: Service>(
    listener: TcpListener,
    terms: Terms,
    service: Arc<S>,
    mut shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(terms.connections_max));
    let peers = Arc::new(Peers::default());
    let terms = Arc::new(terms);
    let mut connections = JoinSet::new();
    let mut failures = Failures::default();
    let (close, closing) = watch::channel(Leave::No);
    loop {
        while connections.try_join_next().is_some() {}
        let is_here = tokio::select! {
            is_here = service.is_here() => is_here,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        if !is_here {
            break;
        }
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = service.closed() => continue,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let max = if trusted(peer.ip(), &terms.trusted_proxies) {
                    usize::MAX
                } else {
                    terms.peer_connections_max
                };
                let Some(peer_place) = peers.enter(network(peer.ip()), max) else {
                    tracing::debug!(%peer, "too many connections of one peer");
                    continue;
                };
                let (terms, service) = (Arc::clone(&terms), Arc::clone(&service));
                let connection = Connection {
                    terms,
                    service,
                    shutdown: closing.clone(),
                    free: Arc::clone(&places),
                    _places: (place, peer_place),
                };
                connections.spawn(connection.open(stream, peer));
            }
            Err(error) => failures.failed(&error).await,
        }
    }
    drop(listener);
    drain(connections, (&terms.timeouts, &*service), close, shutdown).await;
}

/// Lets what is open finish.
async fn drain(
    mut connections: JoinSet<()>,
    (timeouts, service): (&Timeouts, &impl Service),
    close: watch::Sender<Leave>,
    mut shutdown: watch::Receiver<bool>,
) {
    let (mut drain, mut leave) = (timeouts.drain, Leave::Now);
    if !*shutdown.borrow() {
        // Another process serves. Whoever asks on a connection that was kept is answered by it, and told to come to it.
        let ended = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => return,
            () = tokio::time::sleep(KEPT) => (drain, leave) = (timeouts.drain_streams, Leave::WhenQuiet),
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }
    close.send_replace(leave);
    let ended = async { while connections.join_next().await.is_some() {} };
    let told = async {
        // A stop during a long drain makes it a short one.
        if leave == Leave::WhenQuiet && shutdown.wait_for(|stop| *stop).await.is_ok() {
            close.send_replace(Leave::Now);
            tokio::time::sleep(timeouts.drain.min(drain)).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = ended => return,
        () = tokio::time::sleep(drain) => {}
        () = told => {}
    }
    tracing::warn!(cut = connections.len(), "connections were cut at the end of the drain");
    // Streams end with an event that says so, where their callers read it.
    service.cut();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ended).await.is_ok() {
        return;
    }
    // What the other process answers here ends with an event too, unless that process has ended it.
    service.cut_elsewhere();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Accepts that failed: said once a second at the most, and waited for where something is short.
#[derive(Default)]
struct Failures {
    since_said: u64,
    said: Option<Instant>,
}

impl Failures {
    async fn failed(&mut self, error: &std::io::Error) {
        self.since_said += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            tracing::warn!(%error, count = self.since_said, "accept failed");
            (self.since_said, self.said) = (0, Some(Instant::now()));
        }
        if is_shortage(error) {
            tokio::time::sleep(SHORTAGE).await;
        }
    }
}

/// How many connections each network has.
#[derive(Default)]
struct Peers(DashMap<u128, usize>);

/// A connection's place among those of its network.
struct PeerPlace(Arc<Peers>, u128);

impl Peers {
    fn enter(self: &Arc<Self>, network: u128, max: usize) -> Option<PeerPlace> {
        let mut count = self.0.entry(network).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(count);
        Some(PeerPlace(Arc::clone(self), network))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        if let Some(mut count) = self.0.0.get_mut(&self.1) {
            *count -= 1;
        }
        self.0.0.remove_if(&self.1, |_, count| *count == 0);
    }
}
