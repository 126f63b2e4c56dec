//! The API listener: it accepts and counts connections, and drains them at the end.

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

/// The smallest interval between two log lines about failed accepts.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// How long the listener waits after a shortage of descriptors or kernel memory.
const SHORTAGE: Duration = Duration::from_millis(100);
/// How long a last answer to a slow caller may take.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// Serves `listener` until `shutdown` is true. Then open requests may finish within
/// `timeouts.drain`.
///
/// If another process has taken over, kept connections are served through it for a while. Streams
/// may then finish within `timeouts.drain_streams`. The remaining ones are cut, and end with an
/// event that reports it.
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
        // A slot is taken before accept. At the limit, further connections wait in the kernel's
        // backlog.
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
                // Many clients share one trusted proxy, so the limit of a peer does not apply to
                // it.
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
    // Closed before the drain: new connections go to the process that shares the socket, or are
    // refused at once.
    drop(listener);
    drain(connections, &terms.timeouts, &*service, close, shutdown).await;
}

/// Waits for open connections to finish, then cuts the rest.
async fn drain(
    mut connections: JoinSet<()>,
    timeouts: &Timeouts,
    service: &impl Service,
    close: watch::Sender<Leave>,
    mut shutdown: watch::Receiver<bool>,
) {
    let (mut drain, mut leave) = (timeouts.drain, Leave::Now);
    if !*shutdown.borrow() {
        // Another process serves. It answers requests on kept connections, and the answers tell the
        // callers to reconnect.
        let ended = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => return,
            () = tokio::time::sleep(KEPT) => {
                (drain, leave) = (timeouts.drain_streams, Leave::WhenQuiet);
            }
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }
    close.send_replace(leave);
    let ended = async { while connections.join_next().await.is_some() {} };
    let told = async {
        // A stop command during a long drain makes it a short one.
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
    // Streams end with an event that reports the cut, if their callers read it.
    service.cut();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ended).await.is_ok() {
        return;
    }
    // Answers of the other process also end with an event, unless that process has ended them
    // itself.
    service.cut_elsewhere();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// The failed accepts: logged at most once a second, with a delay during a shortage.
#[derive(Default)]
struct Failures {
    /// Failures since the last log line.
    since_said: u64,
    /// When the last line was logged.
    said: Option<Instant>,
}

impl Failures {
    /// Logs a failed accept, and waits if resources are short.
    async fn failed(&mut self, error: &std::io::Error) {
        self.since_said += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            tracing::warn!(%error, count = self.since_said, "accept failed");
            (self.since_said, self.said) = (0, Some(Instant::now()));
        }
        // Without a delay the loop would spin: the pending connection makes accept fail again at
        // once.
        if is_shortage(error) {
            tokio::time::sleep(SHORTAGE).await;
        }
    }
}

/// The number of connections of each network.
#[derive(Default)]
struct Peers(DashMap<u128, usize>);

/// The slot of a connection among those of its network. Dropping it releases the slot.
struct PeerPlace(Arc<Peers>, u128);

impl Peers {
    /// Takes a slot of `network`; none if it already has `max`.
    fn enter(self: &Arc<Self>, network: u128, max: usize) -> Option<PeerPlace> {
        let mut count = self.0.entry(network).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        // The guard locks a shard of the map. It must not live as long as the slot.
        drop(count);
        Some(PeerPlace(Arc::clone(self), network))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        if let Some(mut count) = self.0.0.get_mut(&self.1) {
            *count -= 1;
        }
        // Empty entries are removed, otherwise every network that ever connected would use memory.
        self.0.0.remove_if(&self.1, |_, count| *count == 0);
    }
}
