//! Work in parallel with the requests: metrics and readiness, removal of idle state, probes of
//! upstreams.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::readiness::Readiness;
use crate::audit::format::event::Event;
use crate::clock::{Clock as _, Ratchet};
use crate::config::Config;
use crate::control::bounded::Bounded;
use crate::guard::settings::Jwks;
use crate::metrics::Metrics;
use crate::proxy::Gateway;
use crate::proxy::connect::DialFault;
use crate::proxy::descriptors::{SOCKET_CONNECTIONS_MAX, spare_place};
use crate::registry::Registry;
use crate::token::jwk;

/// How often idle subjects are removed and upstreams probed.
const EVERY: Duration = Duration::from_secs(10);

/// A larger step back of the wall clock is recorded.
const BEHIND_SAID: Duration = Duration::from_secs(1);

/// The maximum of scrapes and probes that are answered at once. Others wait.
const SCRAPES_MAX: usize = 8;

/// What `/metrics` and `/readyz` answer from.
#[derive(Clone)]
struct ScrapeSources {
    metrics: Arc<Metrics>,
    ready: Readiness,
}

/// Answers `/metrics` in the text format of Prometheus.
async fn scrape(State(sources): State<ScrapeSources>) -> Response {
    sources.ready.measure(&sources.metrics);
    match sources.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            let kind = [(CONTENT_TYPE, "text/plain")];
            (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()).into_response()
        }
    }
}

/// Answers `/readyz`: 200 if new requests are accepted, otherwise 503 with the reasons.
async fn readiness(State(sources): State<ScrapeSources>) -> Response {
    let now = sources.ready.now();
    let status = if now.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(now)).into_response()
}

/// Serves `/metrics`, `/healthz` and `/readyz`.
pub(super) async fn metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: Readiness,
    mut shutdown: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        // Liveness has no conditions: a restart does not repair a full disk or a dead upstream.
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .layer(GlobalConcurrencyLimitLayer::new(SCRAPES_MAX))
        .with_state(ScrapeSources { metrics, ready });
    let stop = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    // Every process on the network may connect here. The bounds keep descriptors for requests.
    let listener = Bounded::new(listener, SOCKET_CONNECTIONS_MAX).with_idle_limit();
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the metrics listener failed");
    }
}

/// Removes idle subjects of the rate limits, probes upstreams, counts agents.
pub(super) async fn run(gateway: Arc<Gateway>, registry: Arc<Registry>, clock: Arc<Ratchet>) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut said = false;
    loop {
        ticks.tick().await;
        let behind = clock.farthest_behind();
        if behind > BEHIND_SAID && !said {
            let behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                behind_ms,
                "the wall clock has stepped back; records and decisions use the later time until \
                    then"
            );
            gateway.recorder.note(Event::Clock { behind_ms, accepted: false });
        }
        // One step back is logged once. The next step is logged again.
        said = clock.behind() > BEHIND_SAID;
        // Refusals of unauthenticated callers are counted, and the counts are recorded each minute.
        // So a flood of them does not fill the disk.
        gateway.recorder.flush(false);
        gateway.limiter.sweep();
        gateway.fetch_quota.sweep();
        gateway.authenticator.sweep();
        for (status, count) in registry.agents_by_status() {
            gateway.metrics.agents(status.as_str(), count);
        }
        let wiring = gateway.config.load_full();
        // All at once, because a probe without an answer takes a whole timeout.
        let mut probes = tokio::task::JoinSet::new();
        for (name, remote) in &wiring.upstreams {
            remote.pool().sweep();
            let (gateway, wiring) = (Arc::clone(&gateway), Arc::clone(&wiring));
            let (name, remote) = (Arc::clone(name), Arc::clone(remote));
            probes.spawn(async move {
                // A probe must not take the descriptor of a request. Without a free one it is left
                // out.
                let Some(_place) = spare_place() else { return };
                match remote.pool().probe().await {
                    Ok(()) => gateway.changed(
                        &name,
                        wiring.health.dialled(&name, true),
                        "it accepts connections",
                    ),
                    // A refused or unreachable address marks the upstream as down. A connection
                    // that ended later is counted as a failure only.
                    Err(DialFault::Unreached(why)) => {
                        gateway.changed(&name, wiring.health.dialled(&name, false), why)
                    }
                    Err(DialFault::Ended(why)) => {
                        gateway.changed(&name, wiring.health.failed(&name), why)
                    }
                }
                gateway.metrics.upstream_up(&name, wiring.health.serves(&name));
            });
        }
        // The next round starts after the last probe, so that rounds never overlap.
        while probes.join_next().await.is_some() {}
    }
}

/// Warns about signing keys that this process can read. A gateway needs none, and a thief of such a
/// key can sign tokens.
pub(super) fn warn_of_private_keys(config: &Config) {
    let mut folders = BTreeSet::from([config.data.join("keys")]);
    for issuer in &config.guard.issuers {
        if let Some(Jwks::File(path)) = &issuer.jwks
            && let Some(folder) = path.parent()
        {
            folders.insert(folder.to_owned());
        }
    }
    for folder in &folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            if is_private_key(&entry) {
                let path = entry.path();
                tracing::warn!(path = %path.display(), "this process can read a signing key; keep \
                    it on the machine where tokens are issued");
            }
        }
    }
}

/// Whether an entry of a folder is a private JWK that this process can read.
fn is_private_key(entry: &std::fs::DirEntry) -> bool {
    // A private JWK is far smaller than 16 KiB. Larger files are not read.
    let small = entry.metadata().is_ok_and(|about| about.is_file() && about.len() < 16 << 10);
    small
        && std::fs::read_to_string(entry.path()).is_ok_and(|text| jwk::read_private(&text).is_ok())
}
