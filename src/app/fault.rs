//! The reasons why a gateway does not start.

use std::fmt::Display;
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
    /// A folder or file of the data folder cannot be used.
    #[error(transparent)]
    Durable(#[from] durable::DiskFault),
    /// The log cannot be opened or written.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// An issuer's keys cannot be read.
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
        "the key {key} is in the JWK Sets of two issuers, {one} and {other}; remove it from one of \
            them"
    )]
    SharedKey {
        /// The key's id.
        key: String,
        /// An issuer that lists it.
        one: String,
        /// The other one.
        other: String,
    },
    /// An upstream's credential or certificates cannot be used.
    #[error("upstream {upstream}: {why}")]
    Upstream {
        /// The upstream.
        upstream: String,
        /// What is wrong.
        why: String,
    },
    /// A model's route cannot be built.
    #[error(transparent)]
    Route(#[from] RouteFault),
    /// The listener's certificate cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretFault),
    /// The auditors' credential is too short.
    #[error(
        "[audit] auditor: the credential has fewer than {CREDENTIAL_BYTES_MIN} bytes; make one \
            with: openssl rand -base64 32"
    )]
    Auditor,
    /// The settings for fetches cannot be used.
    #[error("[egress.fetch] {0}")]
    Fetch(String),
    /// The limit of file descriptors is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The operating system gives no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyFault),
    /// Metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A service manager has passed on a socket that the config does not name.
    #[error(
        "LISTEN_FDS: a socket at {0} was passed on, but [listen] and [audit] of the config do not \
            name it; change the socket unit or the config"
    )]
    Inherited(String),
    /// A running gateway does not hand over.
    #[error("the running gateway does not hand over: {0}")]
    TakeOver(String),
    /// An address cannot be bound.
    #[error(
        "{address}: {error}; choose another address (dev: --listen, --metrics; serve: [listen] of \
            the config)"
    )]
    Bind {
        /// The address or path.
        address: String,
        /// The reason.
        error: std::io::Error,
    },
}

impl StartFault {
    /// The fault of a take-over, from an error or a text.
    pub(super) fn take_over(why: impl Display) -> Self {
        Self::TakeOver(why.to_string())
    }
}

/// The text of an error, for a log line or the other process.
pub(super) fn text_of(error: impl Display) -> String {
    error.to_string()
}
