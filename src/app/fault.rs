//! The reasons why a gateway does not start.

use std::path::PathBuf;

use crate::audit::store::log::LogFault;
use crate::crypto::EntropyFault;
use crate::durable;
use crate::guard::table::RouteFault;
use crate::proxy::descriptors::TooFew;
use crate::proxy::tree::CREDENTIAL_BYTES_MIN;
use crate::secret::SecretFault;

/// A reason why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// A folder or file of the data folder.
    #[error(transparent)]
    Durable(#[from] durable::DiskFault),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// An issuer's keys.
    #[error("issuer {issuer}: {path}: {why}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// Its JWK Set.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key that two issuers list.
    #[error(
        "the key {key} is in the JWK Sets of two issuers, {one} and {other}; remove it from one of them"
    )]
    SharedKey {
        /// The key's id.
        key: String,
        /// An issuer that lists it.
        one: String,
        /// The other one.
        other: String,
    },
    /// An upstream's credential.
    #[error("upstream {upstream}: {why}")]
    Upstream {
        /// The upstream.
        upstream: String,
        /// What is wrong.
        why: String,
    },
    /// A model's route.
    #[error(transparent)]
    Route(#[from] RouteFault),
    /// The listener's certificate.
    #[error("TLS: {0}")]
    Tls(String),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretFault),
    /// The auditors' credential.
    #[error(
        "[audit] auditor: the credential has fewer than {CREDENTIAL_BYTES_MIN} bytes; make one with: openssl rand -base64 32"
    )]
    Auditor,
    /// The settings for fetches.
    #[error("[egress.fetch] {0}")]
    Fetch(String),
    /// File descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFault),
    /// Metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A service manager has passed on a socket that the config does not name.
    #[error(
        "LISTEN_FDS: a socket at {0} was passed on, but [listen] and [audit] of the config do not name it; \
         change the socket unit or the config"
    )]
    Inherited(String),
    /// A running gateway does not hand over.
    #[error("the running gateway does not hand over: {0}")]
    TakeOver(String),
    /// An address cannot be bound.
    #[error(
        "{address}: {error}; choose another address (dev: --listen, --metrics; serve: [listen] of the config)"
    )]
    Bind {
        /// The address or path.
        address: String,
        /// The reason.
        error: std::io::Error,
    },
}
