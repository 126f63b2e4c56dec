//! Reads the config again on SIGHUP: issuers, classes, models, upstreams, certificate. Addresses and limits of memory stay.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{classes, issuers, tls, weigh, wiring};
use crate::audit::event::Event;
use crate::audit::log::Log;
use crate::control::Control;
use crate::guard::settings::Issuer;
use crate::keyring::Keyring;
use crate::proxy::Gateway;

/// What a reload reads and changes.
pub(super) struct Reload {
    /// The config's file.
    pub(super) source: Option<PathBuf>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) control: Arc<Control>,
    pub(super) log: Arc<Log>,
    pub(super) tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// What those go by who watch the issuers' keys.
    pub(super) issuers: watch::Sender<Arc<Vec<Issuer>>>,
    /// Where agents and scrapers connect, for as long as the process runs.
    pub(super) listen: (SocketAddr, SocketAddr),
}

/// Reads the config again whenever SIGHUP comes.
pub(super) async fn on_hangup(reload: Reload) {
    let mut signals = match signal(SignalKind::hangup()) {
        Ok(signals) => signals,
        Err(error) => return tracing::error!(%error, "SIGHUP cannot be heard: the config is never read again"),
    };
    while signals.recv().await.is_some() {
        let Some(path) = reload.source.as_deref() else { continue };
        match reload.once(path).await {
            Ok(()) => {
                reload.gateway.metrics.config_reload("ok");
                tracing::info!("config reloaded");
            }
            Err(why) => {
                reload.gateway.metrics.config_reload("refused");
                tracing::error!(why, "the config was not reloaded; the one in force stays");
            }
        }
    }
}

impl Reload {
    /// Everything that can fail comes before anything that changes; the last of it is the record.
    async fn once(&self, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let base = path.parent().unwrap_or(Path::new("."));
        let mut config = crate::config::read(&text, base).map_err(|faults| faults.to_string())?;
        let wanted = (config.proxy.listen.address, config.proxy.metrics);
        // What is listened at stays, and so does what is no destination.
        (config.proxy.listen.address, config.proxy.metrics) = self.listen;
        let wired = wiring(&config).map_err(|fault| fault.to_string())?;
        let issuers = issuers(&config).map_err(|fault| fault.to_string())?;
        let certificate = match self.tls.as_ref().zip(config.proxy.listen.tls.as_ref()) {
            Some((served, tls)) => Some((served, tls::server(tls)?, tls::expiry(tls)?)),
            None => None,
        };
        self.log.seal(Event::Reload { policy: config.policy.clone() }, None).await.map_err(|fault| fault.to_string())?;
        if let Some((served, server, expiry)) = certificate {
            served.store(server);
            self.gateway.metrics.certificate_expiry(expiry as f64);
        }
        self.keyring.set_issuers(issuers);
        self.issuers.send_replace(Arc::new(config.guard.issuers.clone()));
        self.control.set_classes(classes(&config));
        // Pins come first: no request finds a new model without its own.
        self.gateway.weights.declare(weigh::declared(&config));
        self.gateway.wiring.store(Arc::new(wired));
        // Open streams are asked for again: their key may be gone.
        self.gateway.registry.announce();
        let moved = |listen: SocketAddr, wanted: SocketAddr| {
            listen.ip() != wanted.ip() || (wanted.port() != 0 && wanted.port() != listen.port())
        };
        if moved(self.listen.0, wanted.0)
            || moved(self.listen.1, wanted.1)
            || self.tls.is_some() != config.proxy.listen.tls.is_some()
        {
            tracing::warn!("the [listen] section has changed: its addresses take effect at the next start");
        }
        Ok(())
    }
}
