//! Metrics of files that the gateway reads again: its config, key sets and certificates.

use prometheus::{Gauge, IntCounterVec, IntGauge, Registry};

use super::{gauge, register, results};

/// Counts of reading, and facts from the content.
pub(super) struct Files {
    pub(super) certificate_expiry: Gauge,
    pub(super) config_reloads: IntCounterVec,
    pub(super) jwks_reads: IntCounterVec,
    pub(super) certificate_reads: IntCounterVec,
    pub(super) idle_keys: IntGauge,
}

impl Files {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let idle_keys =
            IntGauge::new("token_shield_idle_keys", "Keys that have signed no live token for long");
        Ok(Self {
            certificate_expiry: gauge(
                registry,
                "token_shield_certificate_expiry_seconds",
                "When the certificate in use expires, seconds since 1970",
            )?,
            config_reloads: results(
                registry,
                "token_shield_config_reload_total",
                "Reloads of the config",
            )?,
            jwks_reads: results(registry, "token_shield_jwks_reads_total", "Readings of JWK Sets")?,
            certificate_reads: results(
                registry,
                "token_shield_certificate_reads_total",
                "Readings of a certificate that has changed",
            )?,
            idle_keys: register(registry, idle_keys)?,
        })
    }
}
