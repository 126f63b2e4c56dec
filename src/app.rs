//! The one place that builds, wires, reloads and drains.

mod auditors;
mod background;
mod books;
mod certificate;
mod check;
mod doors;
mod ending;
mod fault;
pub mod handover;
mod inherited;
pub(crate) mod keys;
mod listeners;
mod notify;
mod own;
mod prepared;
mod readiness;
mod reload;
mod restart;
mod run;
mod tls;
mod watchful;
mod weigh;
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

pub use books::Books;
use books::retain;
use check::classes;
pub use check::{issuers, soon_expired, unusable, warnings};
pub use fault::StartFault;
pub use listeners::Listeners;
pub use own::judge_of;
pub use prepared::Prepared;
use wiring::wiring;

/// How long operators and scrapers are waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A gateway that is built and not yet running.
pub struct App {
    config: Config,
    source: Option<PathBuf>,
    books: Books,
    control: Arc<Control>,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// The process whose place this one has taken, while it drains, and its ways to this one.
    predecessor: Option<prepared::Before>,
    /// How this process was started, where it may start its successor.
    program: Option<handover::Program>,
}

impl App {
    /// Builds a gateway: opens the log, folds the books, reads keys and secrets. `source` is the file that a reload reads.
    ///
    /// # Errors
    /// Anything that would make it run differently from what the config says.
    pub fn build(config: Config, source: Option<PathBuf>) -> Result<Self, StartFault> {
        retain(&config);
        let books = Books::open(&config)?;
        let prepared = Prepared::new(config, source)?;
        let limiter = Limiter::new(Arc::clone(&books.clock));
        prepared.build(books, limiter, CacheSalts::new()?)
    }

    /// The door for commands, for callers in the same process.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }
}
