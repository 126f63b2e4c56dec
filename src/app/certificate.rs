//! The gateway's certificate: checked before use, and read again when its files change.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;

use super::tls;
use crate::clock::{Clock, Timestamp};
use crate::crypto::sha256;
use crate::metrics::Metrics;
use crate::proxy::settings::Tls;

/// How often the files are checked for changes.
const LOOK: Duration = Duration::from_secs(2);
/// The gateway warns about a certificate that expires sooner, in seconds.
const SOON: i64 = 14 * 86_400;

/// A valid certificate.
pub(super) struct Certificate {
    /// The TLS config with it.
    pub(super) server: Arc<ServerConfig>,
    /// When it expires, in seconds since 1970.
    pub(super) not_after: i64,
    /// A warning if it expires soon.
    pub(super) warning: Option<String>,
}

/// Reads and checks the certificate and its key at the time `now`.
///
/// # Errors
/// When a file cannot be read, or the key is not the certificate's. Also when the certificate is
/// not valid at `now` (RFC 5280 section 4.1.2.5).
pub(super) fn read(tls: &Tls, now: Timestamp) -> Result<Certificate, String> {
    let validity = tls::validity(tls)?;
    let shown = tls.cert.display();
    if now.seconds() < validity.not_before {
        return Err(format!(
            "{shown}: the certificate is not valid before {}; this machine's clock says {now}",
            Timestamp::at_seconds(validity.not_before)
        ));
    }
    if now.seconds() >= validity.not_after {
        return Err(format!(
            "{shown}: the certificate expired at {}; this machine's clock says {now}. Renew it",
            Timestamp::at_seconds(validity.not_after)
        ));
    }
    // Early enough for a manual renewal.
    let soon = validity.not_after - now.seconds() < SOON;
    let warning = soon.then(|| {
        let end = Timestamp::at_seconds(validity.not_after);
        format!("{shown}: the certificate expires at {end}; renew it")
    });
    Ok(Certificate { server: tls::server(tls)?, not_after: validity.not_after, warning })
}

/// Keeps the certificate in use equal to its files, without a reload.
pub(super) struct CertificateWatch {
    /// The files, which a reload may change.
    pub(super) files: watch::Receiver<Option<Tls>>,
    /// The TLS config of new connections.
    pub(super) served: Arc<ArcSwap<ServerConfig>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

impl CertificateWatch {
    /// Watches until the sender of the files is gone.
    pub(super) async fn run(mut self) {
        let mut last = self.digest();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                // A reload has read the new files already.
                changed = self.files.changed() => match changed {
                    Ok(()) => { last = self.digest(); continue }
                    Err(_) => return,
                },
            }
            let digest = self.digest();
            // A file may be missing for a moment between two writes. The former certificate stays.
            if digest.is_some() && digest != last {
                last = digest;
                self.take();
            }
        }
    }

    /// The digest of both files; `None` while one cannot be read.
    fn digest(&self) -> Option<[u8; 32]> {
        let files = self.files.borrow().clone()?;
        let mut bytes = std::fs::read(&files.cert).ok()?;
        // The key counts too: a renewal may replace the key and keep the same certificate bytes.
        bytes.extend_from_slice(files.key.load().ok()?.as_bytes());
        Some(sha256(&bytes))
    }

    /// Puts the changed certificate into use. A faulty one is logged and counted, and the former
    /// one stays.
    fn take(&self) {
        let Some(files) = self.files.borrow().clone() else { return };
        match read(&files, self.clock.now()) {
            Ok(certificate) => {
                self.served.store(certificate.server);
                self.metrics.certificate_expiry(certificate.not_after as f64);
                self.metrics.certificate_read("ok");
                tracing::info!(path = %files.cert.display(), "certificate read again");
                if let Some(warning) = certificate.warning {
                    tracing::warn!("{warning}");
                }
            }
            Err(why) => {
                self.metrics.certificate_read("refused");
                tracing::error!(
                    why,
                    "the changed certificate is not used; the former one stays in use"
                );
            }
        }
    }
}
