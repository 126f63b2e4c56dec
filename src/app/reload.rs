//! Reads the config again on SIGHUP: issuers, classes, models, upstreams, certificate. A change
//! that needs a restart is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::fault::text_of;
use super::notify::Notifier;
use super::{certificate, classes, digests, issuers, restart, wiring};
use crate::audit::format::event::Event;
use crate::audit::store::log::Log;
use crate::config::{self, Config};
use crate::control::Control;
use crate::guard::settings::Issuer;
use crate::keyring::Keyring;
use crate::proxy::Gateway;
use crate::proxy::settings::Tls;

/// Everything that a reload reads and changes.
pub(super) struct Reload {
    /// The config's file.
    pub(super) source: Option<PathBuf>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) control: Arc<Control>,
    pub(super) log: Arc<Log>,
    pub(super) tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// The issuers, for the watch over their keys.
    pub(super) issuers: watch::Sender<Arc<Vec<Issuer>>>,
    /// The certificate's files, for the watch over them.
    pub(super) certificate: watch::Sender<Option<Tls>>,
    /// The config of the start, with the real addresses of the listeners.
    pub(super) started: Config,
}

/// Reads the config again on each SIGHUP.
pub(super) async fn on_hangup(reload: Reload, notifier: Arc<Notifier>) {
    let mut signals = match signal(SignalKind::hangup()) {
        Ok(signals) => signals,
        Err(error) => {
            return tracing::error!(%error, "SIGHUP cannot be received: the config is never read \
                again");
        }
    };
    while signals.recv().await.is_some() {
        // A gateway without a config file, as in tests, has no reload.
        let Some(path) = reload.source.as_deref() else { continue };
        notifier.reloading();
        let read = reload.once(path).await;
        // Also after a refusal: the service manager waits for the end of the reload.
        notifier.ready();
        match read {
            Ok(()) => {
                reload.gateway.metrics.config_reload("ok");
                tracing::info!("config reloaded");
            }
            Err(why) => {
                reload.gateway.metrics.config_reload("refused");
                reload.gateway.recorder.note(Event::ReloadRefused { why: why.clone() });
                tracing::error!(why, "the config was not reloaded; the former one stays in force");
            }
        }
    }
}

impl Reload {
    /// One reload. Everything that can fail comes before the first change, and the record is the
    /// last of it. A refused reload therefore changes no setting.
    async fn once(&self, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(text_of)?;
        let mut config = config::read(&text, config::base_of(path)).map_err(text_of)?;
        // A partial reload would leave a mixture of two configs, so one such key refuses the whole.
        let fixed = restart::needed_for(&self.started, &config);
        if !fixed.is_empty() {
            return Err(format!(
                "these keys have changed and need a restart: {}; no key was reloaded",
                fixed.join(", ")
            ));
        }
        // The listeners stay. With their real addresses they are still never a destination of the
        // egress policy.
        config.proxy.listen.address = self.started.proxy.listen.address;
        config.proxy.metrics = self.started.proxy.metrics;
        let wired = wiring(&config).map_err(text_of)?;
        let issuers = issuers(&config).map_err(text_of)?;
        let now = self.gateway.clock.now();
        let read = match &config.proxy.listen.tls {
            Some(tls) => Some(certificate::read(tls, now)?),
            None => None,
        };
        // The policy's digest is durable before the first request under it.
        self.log
            .append(Event::Reload { policy: config.policy.clone() }, None)
            .await
            .map_err(text_of)?;
        if let (Some(served), Some(certificate)) = (&self.tls, read) {
            served.store(certificate.server);
            self.gateway.metrics.certificate_expiry(certificate.not_after as f64);
            if let Some(warning) = certificate.warning {
                tracing::warn!("{warning}");
            }
        }
        for warning in wiring::warnings(&config) {
            tracing::warn!("{warning}");
        }
        // Each watch learns the new files, and does not read them a second time.
        self.certificate.send_replace(config.proxy.listen.tls.clone());
        self.keyring.set_issuers(issuers);
        self.issuers.send_replace(Arc::new(config.guard.issuers.clone()));
        self.control.set_classes(classes(&config));
        // Pins come first, so that no request finds a new model without its pin.
        self.gateway.weights.declare(digests::declared(&config));
        self.gateway.config.store(Arc::new(wired));
        // Open streams are checked again: their key may be gone.
        self.gateway.registry.announce();
        Ok(())
    }
}
