//! The one place that builds, wires, reloads and drains.

mod auditors;
mod certificate;
mod check;
mod ending;
mod fault;
pub(crate) mod keys;
mod own;
mod readiness;
mod reload;
mod restart;
mod tls;
mod watchful;
mod weigh;
mod wiring;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::audit::entry::Pen;
use crate::audit::event::Event;
use crate::audit::log::{Log, LogFault, Settings};
use crate::audit::record::{Held, Opener as _, Record};
use crate::audit::retain::{is_clock_doubtful, prune};
use crate::audit::tiles::epoch_name;
use crate::clock::{Clock, Ratchet, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::{About, Control, api};
use crate::crypto::{Draws, Fast};
use crate::durable;
use crate::guard::authenticate::Authenticator;
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::allowance::Allowance;
use crate::guard::limiter::Limiter;
use crate::guard::places::Places;
use crate::guard::settings;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::proxy::Gateway;
use crate::proxy::buffer::Buffers;
use crate::proxy::descriptors;
use crate::proxy::listen::{self, Terms};
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::Tls;
use crate::registry::Registry;
use crate::weights::Weights;

use check::classes;
pub use check::{issuers, soon_expired, unusable, warnings};
pub use fault::StartFault;
use keys::{FileWatch, UrlWatch};
pub use own::judge_of;
use readiness::Readiness;
use wiring::{tree, wiring};

/// How long operators and scrapers are waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The books and the log, as the command line uses them too.
pub struct Books {
    /// The log.
    pub log: Arc<Log>,
    /// Agents and tokens.
    pub registry: Arc<Registry>,
    /// Keys.
    pub keyring: Arc<Keyring>,
    /// Which weights answer.
    pub weights: Arc<Weights>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The same, to be asked how far the wall clock is behind it.
    pub ratchet: Arc<Ratchet>,
}

impl Books {
    /// Takes the data folder's lock, reads the log, or begins it, and folds it. For what starts a gateway or a log; commands use
    /// [`Books::open_existing`].
    ///
    /// # Errors
    /// When the folder is in use, the log does not verify, or an issuer's keys cannot be read.
    pub fn open(config: &Config) -> Result<Self, StartFault> {
        for folder in [config.data.clone(), config.data.join("secret")] {
            durable::make_private_dir(&folder)?;
        }
        Self::open_log(config, config.audit.clone())
    }

    /// [`Books::open`] where a log is, and not where none is.
    ///
    /// # Errors
    /// As [`Books::open`], and [`LogFault::None`].
    pub fn open_existing(config: &Config) -> Result<Self, StartFault> {
        Self::open_log(config, Settings { existing: true, ..config.audit.clone() })
    }

    fn open_log(config: &Config, log: Settings) -> Result<Self, StartFault> {
        let ratchet = Arc::new(Ratchet::new(Box::new(SystemClock::start())));
        let clock: Arc<dyn Clock> = Arc::clone(&ratchet) as Arc<dyn Clock>;
        let (log, recovered) = Log::open(log, Arc::clone(&clock))?;
        // What was recorded is past: nothing is decided as if it were still to come.
        ratchet.raise(clock_floor(&recovered.records, log.state().at));
        if let Some(torn) = recovered.torn {
            tracing::warn!(segment = %torn.segment.display(), bytes = torn.bytes, "an unacknowledged batch was cut from the journal");
        }
        let (registry, keyring, weights) = (Arc::new(Registry::new()), Arc::new(Keyring::new()), Arc::new(Weights::default()));
        keyring.set_issuers(issuers(config)?);
        weights.declare(weigh::declared(config));
        for record in &recovered.records {
            registry.apply(record);
            keyring.apply(record);
            weights.apply(record);
            forget_again(&log, &record.event)?;
        }
        Ok(Self { log: Arc::new(log), registry, keyring, weights, clock, ratchet })
    }

    /// The door for commands over these books.
    #[must_use]
    pub fn control(&self, config: &Config, metrics: Option<Arc<Metrics>>) -> Control {
        let books = (Arc::clone(&self.registry), Arc::clone(&self.keyring), Arc::clone(&self.weights));
        let clocks = (Arc::clone(&self.clock), Arc::clone(&self.ratchet));
        // Whoever counts serves.
        let pid = metrics.is_some().then(std::process::id);
        let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
        let control = Control::new(Arc::clone(&self.log), books, metrics, classes(config), clocks);
        // A config's "." at the end is no folder.
        control.introduce(About { name: config.name.clone(), data: data.components().collect(), pid });
        control
    }
}

/// The moment before which no decision is made after a start: the time of the last record.
///
/// After `clock accept`, records keep the time of the last record before it, because a log's times never decrease. While the
/// wall clock has not passed that time, the operator's word counts: the floor is the wall clock as it was accepted.
fn clock_floor(records: &[Record], last: Timestamp) -> Timestamp {
    for record in records.iter().rev().take_while(|record| record.at == last) {
        if let Event::Clock { behind_ms, accepted: true } = record.event {
            return Timestamp(last.0.saturating_sub(i64::try_from(behind_ms).unwrap_or(i64::MAX)));
        }
    }
    last
}

/// A record key that is said to be destroyed and is not: a start was needed in between.
fn forget_again(log: &Log, event: &Event) -> Result<(), LogFault> {
    let Event::Forgotten { record_key, .. } = event else { return Ok(()) };
    let Ok(id) = record_key.parse() else { return Ok(()) };
    let mut vault = log.vault().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if matches!(vault.held(&id), Held::Key(_)) { Ok(vault.destroy(&id)?) } else { Ok(()) }
}

/// A gateway that is built and not yet running.
pub struct App {
    config: Config,
    source: Option<PathBuf>,
    books: Books,
    control: Arc<Control>,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
}

/// What a gateway listens on; the caller binds.
pub struct Listeners {
    /// For agents.
    pub api: TcpListener,
    /// For Prometheus.
    pub metrics: TcpListener,
    /// For operators.
    pub admin: UnixListener,
    /// For auditors.
    pub auditors: Option<UnixListener>,
}

impl Listeners {
    /// Binds what the config says.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn bind(config: &Config) -> Result<Self, StartFault> {
        let fault = |address: String| move |error| StartFault::Bind { address, error };
        let (api, metrics) = (config.proxy.listen.address, config.proxy.metrics);
        Ok(Self {
            api: TcpListener::bind(api).await.map_err(fault(api.to_string()))?,
            metrics: TcpListener::bind(metrics).await.map_err(fault(metrics.to_string()))?,
            admin: api::bind(&config.proxy.admin).map_err(fault(config.proxy.admin.display().to_string()))?,
            auditors: match &config.proxy.auditors.socket {
                Some(path) => Some(auditors::bind(path).map_err(fault(path.display().to_string()))?),
                None => None,
            },
        })
    }
}

/// Takes away what is kept no longer. A start does not depend on it: where the archive is not there, everything stays.
fn retain(config: &Config) {
    let Some(keep) = config.keep.as_ref().filter(|_| config.audit.vkeys.exists()) else { return };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    match is_clock_doubtful(&config.audit, &*clock) {
        Ok(false) => {}
        Ok(true) => {
            tracing::error!(
                "the clock is more than 30 days ahead of the newest record: no records are taken away; if it is right, run token-shield audit prune"
            );
            return;
        }
        Err(fault) => return tracing::error!(%fault, "old records were to be taken away, and are still here"),
    }
    match prune(&config.audit, &clock, keep, None, |_, _| ()) {
        Ok(old) => {
            for epoch in old {
                tracing::info!(epoch = epoch_name(epoch.number), records = epoch.size, to = ?keep.to, "old records were taken away");
            }
        }
        Err(fault) => tracing::error!(%fault, "old records were to be taken away, and are still here"),
    }
}

impl App {
    /// Builds a gateway: opens the log, folds the books, reads keys and secrets. `source` is the file that a reload reads.
    ///
    /// # Errors
    /// Anything that would make it run differently from what the config says.
    pub fn build(config: Config, source: Option<PathBuf>) -> Result<Self, StartFault> {
        descriptors::raise();
        retain(&config);
        let books = Books::open(&config)?;
        let models: Vec<String> = config.guard.models.iter().map(|model| model.name.clone()).collect();
        let upstreams: Vec<String> = config.proxy.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        let metrics = Arc::new(Metrics::new(&models, &upstreams, config.proxy.agent_label)?);
        let syncs = Arc::clone(&metrics);
        books.log.observe_syncs(move |took, _| syncs.audit_sync(took.as_secs_f64()));
        let registry = Arc::clone(&books.registry);
        // Who holds an open stream asks again, and hears that nothing can be sealed any more.
        books.log.on_failure(move || registry.announce());
        let control = Arc::new(books.control(&config, Some(Arc::clone(&metrics))));
        let limiter = Arc::new(Limiter::new(Arc::clone(&books.clock)));
        let doors = (Arc::clone(&books.keyring), Arc::clone(&books.registry), Arc::clone(&limiter));
        let clock = Arc::clone(&books.clock);
        let guard = &config.guard;
        let rates = (guard.peer_rps, guard.root_rps);
        let authenticator = Authenticator::new(doors, Box::new(Fast), Arc::clone(&clock), guard.token_cache, rates);
        let gateway = Gateway {
            wiring: ArcSwap::from_pointee(wiring(&config)?),
            authenticator: Arc::new(authenticator),
            limiter,
            places: Places::new(Arc::clone(&metrics)),
            registry: Arc::clone(&books.registry),
            weights: Arc::clone(&books.weights),
            pen: Pen::new(Arc::clone(&books.log), Arc::clone(&clock), Arc::clone(&metrics))?,
            buffers: Arc::new(Buffers::new(guard.bodies_max)),
            metrics: Arc::clone(&metrics),
            clock,
            request_ids: RequestIds::new()?,
            cache_salts: CacheSalts::new()?,
            marks: Draws::new()?,
            allowance: Arc::new(Allowance::new(Arc::clone(&books.clock))),
            ending: watch::Sender::new(false),
        };
        control.set_pen(gateway.pen.clone());
        let tls = match &config.proxy.listen.tls {
            None => None,
            Some(files) => {
                let certificate = certificate::read(files, gateway.clock.now()).map_err(StartFault::Tls)?;
                // Whole seconds of this and the next centuries are exact in a float.
                metrics.certificate_expiry(certificate.not_after as f64);
                if let Some(warning) = certificate.warning {
                    tracing::warn!("{warning}");
                }
                Some(Arc::new(ArcSwap::from(certificate.server)))
            }
        };
        Ok(Self { config, source, books, control, gateway: Arc::new(gateway), metrics, tls })
    }

    /// The door for commands, for callers in the same process.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Runs until `shutdown` turns true: stops accepting, lets streams finish within the drain's time, seals the stop.
    ///
    /// # Errors
    /// When the start or the stop cannot be sealed.
    pub async fn run(mut self, listeners: Listeners, shutdown: watch::Receiver<bool>) -> Result<(), StartFault> {
        self.knows(&listeners)?;
        for warning in warnings(&self.config) {
            tracing::warn!("{warning}");
        }
        let connections_max = self.connections()?;
        watchful::warn_of_private_keys(&self.config);
        let policy = self.config.policy.clone();
        let event = Event::Start { version: env!("CARGO_PKG_VERSION").to_owned(), policy };
        self.books.log.seal(event, None).await?;
        let mut tasks = JoinSet::new();
        let terms = Terms {
            tls: self.tls.clone(),
            trusted_proxies: self.config.proxy.trusted_proxies.clone(),
            connections_max,
            peer_connections_max: self.config.proxy.peer_connections_max,
            timeouts: self.config.proxy.timeouts.clone(),
        };
        let (drained, quiet) = watch::channel(false);
        let admin = api::run(listeners.admin, Arc::clone(&self.control), quiet.clone());
        tasks.spawn(async move {
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin socket failed");
            }
        });
        if let Some(listener) = listeners.auditors {
            let reading = auditors::run(listener, Arc::new(tree(&self.config)?), quiet.clone());
            tasks.spawn(async move {
                if let Err(error) = reading.await {
                    tracing::error!(%error, "the auditors' socket failed");
                }
            });
        }
        let (log, clock) = (Arc::clone(&self.books.log), Arc::clone(&self.books.ratchet));
        let ready = Readiness { log, clock, gateway: Arc::clone(&self.gateway), draining: shutdown.clone() };
        tasks.spawn(watchful::metrics(listeners.metrics, Arc::clone(&self.metrics), ready, quiet));
        let books = (Arc::clone(&self.books.registry), Arc::clone(&self.books.ratchet));
        let housekeeping = watchful::housekeeping(Arc::clone(&self.gateway), books);
        let background = tokio::spawn(housekeeping);
        let issuers = watch::Sender::new(Arc::new(self.config.guard.issuers.clone()));
        let books = || (issuers.subscribe(), Arc::clone(&self.books.keyring), Arc::clone(&self.gateway));
        let watching = tokio::spawn(FileWatch::new(books()).run());
        let weighing = tokio::spawn(weigh::watch(Arc::clone(&self.gateway)));
        let mut urls = UrlWatch::new(books());
        // Tokens of issuers that publish their keys are taken from the first request on, where they can be fetched.
        let mut stopping = shutdown.clone();
        tokio::select! {
            () = urls.once() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        let fetching = tokio::spawn(urls.run());
        let files = watch::Sender::new(self.config.proxy.listen.tls.clone());
        let certifying = tokio::spawn(self.certificate_watch(&files));
        let reloading = tokio::spawn(reload::on_hangup(self.reload(issuers, files)));
        listen::run(listeners.api, terms, Arc::clone(&self.gateway), shutdown).await;
        // Operators and scrapers are served until the last agent is, and then not waited for.
        drained.send_replace(true);
        background.abort();
        reloading.abort();
        certifying.abort();
        watching.abort();
        weighing.abort();
        fetching.abort();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            tasks.shutdown().await;
        }
        self.end().await
    }

    /// How many connections of callers the limit of open files allows, and a warning where the config wants more.
    fn connections(&self) -> Result<usize, StartFault> {
        let wanted = self.config.proxy.connections_max;
        let shares = descriptors::share(wanted)?;
        if let Some(lowered) = shares.lowered(wanted) {
            tracing::warn!("{lowered}");
        }
        Ok(shares.connections)
    }

    /// What is listened on is no destination, at a port that the system has chosen either.
    fn knows(&mut self, listeners: &Listeners) -> Result<(), StartFault> {
        let fault = |error| StartFault::Bind { address: self.config.proxy.listen.address.to_string(), error };
        let real = (listeners.api.local_addr().map_err(fault)?, listeners.metrics.local_addr().map_err(fault)?);
        let proxy = &mut self.config.proxy;
        if real != (proxy.listen.address, proxy.metrics) {
            (proxy.listen.address, proxy.metrics) = real;
            self.gateway.wiring.store(Arc::new(wiring(&self.config)?));
        }
        Ok(())
    }

    /// The watch over the certificate's files; without TLS it ends at once.
    fn certificate_watch(&self, files: &watch::Sender<Option<Tls>>) -> impl Future<Output = ()> + use<> {
        let (metrics, clock) = (Arc::clone(&self.metrics), Arc::clone(&self.gateway.clock));
        let watch = self.tls.as_ref().map(|served| {
            let (files, served) = (files.subscribe(), Arc::clone(served));
            certificate::CertificateWatch { files, served, metrics, clock }
        });
        async move {
            if let Some(watch) = watch {
                watch.run().await;
            }
        }
    }

    fn reload(
        &self,
        issuers: watch::Sender<Arc<Vec<settings::Issuer>>>,
        certificate: watch::Sender<Option<Tls>>,
    ) -> reload::Reload {
        reload::Reload {
            issuers,
            source: self.source.clone(),
            gateway: Arc::clone(&self.gateway),
            keyring: Arc::clone(&self.books.keyring),
            control: Arc::clone(&self.control),
            log: Arc::clone(&self.books.log),
            tls: self.tls.clone(),
            certificate,
            started: self.config.clone(),
        }
    }
}
