//! Reads a config file into a checked [`Config`]. One error lists all faults, each with its key,
//! its line and the allowed values.

mod bind;
mod class;
mod egress;
mod issuer;
mod routes;
mod section;
mod server;
mod units;
mod values;

use std::path::{Path, PathBuf};

use crate::audit::store::log;
use crate::audit::store::retain::Keep;
use crate::guard;
use crate::proxy;

pub use section::{ConfigFault, Faults};
pub use units::{bytes, duration};

/// A checked config.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gateway's name: the origin of its log, and a label in metrics.
    pub name: String,
    /// The data folder.
    pub data: PathBuf,
    /// The settings of the checks.
    pub guard: guard::settings::GuardSettings,
    /// The settings of the data plane.
    pub proxy: proxy::settings::ProxySettings,
    /// The settings of the log.
    pub audit: log::LogSettings,
    /// How long records are kept. `None` means without limit.
    pub keep: Option<Keep>,
    /// The hash of the config's text: SHA-256 in base64url, `policy` in records.
    pub policy: String,
    /// Settings that weaken the gateway. They are logged at every start.
    pub warnings: Vec<String>,
}

/// Reads a config. Relative paths start at the folder `base`.
///
/// # Errors
/// All faults of the config.
pub fn read(text: &str, base: &Path) -> Result<Config, Faults> {
    bind::config(text, base)
}

/// The folder at which the relative paths of the config in that file start.
#[must_use]
pub fn base_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

/// The hash of a config's text, as in records: SHA-256 in base64url.
#[must_use]
pub fn policy(text: &str) -> String {
    bind::policy(text)
}

/// The target of an upstream's URL, and the part of its path before `/v1`. `None` if the URL is
/// invalid.
#[must_use]
pub fn upstream_url(url: &str) -> Option<(proxy::settings::ServerAddress, String)> {
    server::target(url, Path::new(""), None)
}
