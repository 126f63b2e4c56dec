//! From the file to a checked [`Config`]: every fault at once, each with its key, its line and what is allowed.

mod bind;
mod class;
mod egress;
mod issuer;
mod section;
mod server;
mod units;
mod values;

use std::path::{Path, PathBuf};

use crate::audit::store::log;
use crate::audit::store::retain::Keep;
use crate::guard;
use crate::proxy;

pub use section::{Fault, Faults};
pub use units::{bytes, duration};

/// A config that was checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gateway's name: log origin and metrics.
    pub name: String,
    /// The folder of all state.
    pub data: PathBuf,
    /// What the questions go by.
    pub guard: guard::settings::Settings,
    /// What the data plane goes by.
    pub proxy: proxy::settings::Settings,
    /// Where the log lies, and how it is kept.
    pub audit: log::Settings,
    /// How long records are kept; for ever where nothing is said.
    pub keep: Option<Keep>,
    /// The hash of the text that it was read from: SHA-256 in base64url, `policy` in records.
    pub policy: String,
    /// What weakens the gateway; logged at every start.
    pub warnings: Vec<String>,
}

/// Reads a config; `base` is the folder that relative paths are relative to.
///
/// # Errors
/// Every fault.
pub fn read(text: &str, base: &Path) -> Result<Config, Faults> {
    bind::config(text, base)
}

/// The hash of a config's text, as records have it: SHA-256 in base64url.
#[must_use]
pub fn policy(text: &str) -> String {
    bind::policy(text)
}

/// Where an upstream's URL leads, and what stands before `/v1` in its path; `None` where it is not one.
#[must_use]
pub fn upstream_url(url: &str) -> Option<(proxy::settings::Target, String)> {
    server::target(url, Path::new(""), None)
}
