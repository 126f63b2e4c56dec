//! The application: it builds a gateway from a config, reloads it and drains it.

mod auditors;
mod background;
mod certificate;
mod check;
mod digests;
mod fault;
pub mod handover;
mod housekeeping;
mod inherited;
pub(crate) mod keys;
mod listeners;
mod management;
mod notify;
mod prepared;
mod readiness;
mod reload;
mod restart;
mod run;
mod self_endpoints;
mod shutdown;
mod state;
mod tls;
mod wiring;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::control::Control;
use crate::guard::cache_salt::CacheSalts;
use crate::guard::limiter::Limiter;
use crate::metrics::Metrics;
use crate::proxy::Gateway;

use check::classes;
pub use check::{issuers, soon_expired, unusable, warnings};
pub use fault::StartFault;
pub use listeners::Listeners;
pub use prepared::PreparedGateway;
pub use self_endpoints::egress_policy_of;
pub use state::GatewayState;
use state::retain;
use wiring::wiring;

/// How long a stop waits for connections of operators and scrapers.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A gateway that is built and does not run yet.
pub struct App {
    config: Config,
    /// The config file that a reload reads.
    source: Option<PathBuf>,
    gateway_state: GatewayState,
    control: Arc<Control>,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// The former process while it drains, and its channels to this one.
    predecessor: Option<prepared::FormerProcess>,
    /// The program and arguments of this process, if it may start its successor.
    program: Option<handover::Program>,
}

impl App {
    /// Builds a gateway. It opens the log, computes the state from it, and reads keys and secrets.
    /// A reload reads the file `source`.
    ///
    /// # Errors
    /// Every fault that would make the gateway run differently from its config.
    pub fn build(config: Config, source: Option<PathBuf>) -> Result<Self, StartFault> {
        retain(&config);
        // The log comes first: keys, statuses and revocations are a fold of its records.
        let gateway_state = GatewayState::open(&config)?;
        let prepared = PreparedGateway::new(config, source)?;
        let limiter = Limiter::new(Arc::clone(&gateway_state.clock));
        prepared.build(gateway_state, limiter, CacheSalts::new()?)
    }

    /// The handler of commands, for callers in the same process.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }
}
