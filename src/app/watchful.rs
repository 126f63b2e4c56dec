//! What goes on beside the requests: metrics and readiness, sweeps, probes of upstreams.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::audit::log::Log;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::Gateway;
use crate::registry::Registry;
use crate::token::jwk;

/// How often idle subjects are swept and upstreams probed.
const EVERY: Duration = Duration::from_secs(10);

/// Scrapes and probes answered at once; others wait.
const SCRAPES_MAX: usize = 8;

/// Whether requests can be answered.
#[derive(Clone)]
pub(super) struct Readiness {
    pub(super) log: Arc<Log>,
    pub(super) draining: watch::Receiver<bool>,
}

/// Serves `/metrics`, `/healthz` and `/readyz`.
pub(super) async fn metrics(listener: TcpListener, metrics: Arc<Metrics>, ready: Readiness, mut shutdown: watch::Receiver<bool>) {
    let scrape = move || {
        let text = metrics.text();
        async move {
            match text {
                Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4")], text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], error.to_string()),
            }
        }
    };
    let readiness = move || {
        let (status, text) = match (ready.log.healthy(), *ready.draining.borrow()) {
            (true, false) => (StatusCode::OK, "ready\n"),
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the audit log cannot be written\n"),
            (true, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        };
        async move { (status, text) }
    };
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .layer(GlobalConcurrencyLimitLayer::new(SCRAPES_MAX));
    let stop = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the metrics listener failed");
    }
}

/// Sweeps the limiter and the peers, probes upstreams, counts agents.
pub(super) async fn housekeeping(gateway: Arc<Gateway>, registry: Arc<Registry>) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        gateway.pen.flush(false);
        gateway.limiter.sweep();
        gateway.authenticator.sweep();
        gateway.metrics.agents(&registry.agents_by_standing());
        let wiring = gateway.wiring.load_full();
        for (name, remote) in &wiring.remotes {
            remote.pool().sweep();
            let up = remote.pool().probe().await;
            gateway.metrics.upstream_up(name, up);
            if wiring.health.note(name, up) {
                tracing::warn!(upstream = &**name, up, "upstream changed");
            }
        }
    }
}

/// Warns of private keys that this process could read: a gateway needs none.
pub(super) fn warn_of_private_keys(config: &Config) {
    let beside = config.guard.issuers.iter().filter_map(|issuer| issuer.jwks.as_ref()?.file()?.parent());
    let folders: std::collections::BTreeSet<_> =
        beside.map(std::path::Path::to_owned).chain([config.data.join("keys")]).collect();
    for entry in folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
        let path = entry.path();
        let small = entry.metadata().is_ok_and(|about| about.is_file() && about.len() < 16 << 10);
        if small && std::fs::read_to_string(&path).is_ok_and(|text| jwk::read_private(&text).is_ok()) {
            tracing::warn!(path = %path.display(), "this process can read a minting key; keep it where tokens are issued, not here");
        }
    }
}
