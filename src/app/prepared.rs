//! The parts of a gateway that need no log. A successor reads them before it asks the former
//! process to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::handover::{Over, Predecessor, Published};
use super::keys::fetch_all;
use super::state::{Clocks, GatewayState};
use super::wiring::tree;
use super::{App, Listeners, StartFault, certificate, issuers, wiring};
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::log::Log;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::crypto::{Draws, Fast};
use crate::guard::authenticate::{Authenticator, VerificationLimits};
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::fetch_quota::FetchQuota;
use crate::guard::limiter::Limiter;
use crate::guard::passed::RemoteWork;
use crate::guard::settings::Jwks;
use crate::guard::slots::Slots;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::proxy::buffer::Buffers;
use crate::proxy::descriptors;
use crate::proxy::request_id::RequestIds;
use crate::proxy::{DataPlaneConfig, Gateway};
use crate::token::jwk;

/// The parts of a gateway that need no log.
pub struct PreparedGateway {
    config: Config,
    source: Option<PathBuf>,
    wiring: DataPlaneConfig,
    metrics: Arc<Metrics>,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
}

/// The former process, and its channels to this one.
pub(super) struct FormerProcess {
    pub(super) process: Arc<Predecessor>,
    pub(super) records: UnixStream,
    pub(super) requests: UnixStream,
}

impl PreparedGateway {
    /// Reads keys, certificates and secrets of the config. `source` is the file that a reload
    /// reads.
    ///
    /// # Errors
    /// Everything that would make the gateway run differently from its config.
    pub fn new(config: Config, source: Option<PathBuf>) -> Result<Self, StartFault> {
        // The soft limit of a service is often 1024, and each connection needs descriptors.
        descriptors::raise();
        let models: Vec<String> =
            config.guard.models.iter().map(|model| model.name.clone()).collect();
        let upstreams: Vec<String> =
            config.proxy.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        // The labels of upstreams and models come from the config. A caller cannot create a time
        // series.
        let metrics = Arc::new(Metrics::new(&models, &upstreams, config.proxy.agent_label)?);
        let tls = match &config.proxy.listen.tls {
            None => None,
            Some(files) => {
                let certificate = certificate::read(files, SystemClock::start().now())
                    .map_err(StartFault::Tls)?;
                // A float is exact for whole seconds of the next centuries.
                metrics.certificate_expiry(certificate.not_after as f64);
                if let Some(warning) = certificate.warning {
                    tracing::warn!("{warning}");
                }
                Some(Arc::new(ArcSwap::from(certificate.server)))
            }
        };
        let wiring = wiring(&config)?;
        Ok(Self { config, source, wiring, metrics, tls })
    }

    /// Reads the issuers' keys, also those at URLs.
    ///
    /// # Errors
    /// If the keys of a file cannot be read.
    pub async fn keys(&self) -> Result<Arc<Keyring>, StartFault> {
        let keyring = Arc::new(Keyring::new());
        keyring.set_issuers(issuers(&self.config)?);
        // Checks the auditors' credential now. A later fault would stop a take-over halfway.
        tree(&self.config)?;
        // A key server that is down must not prevent an upgrade. The former process's keys are
        // used.
        for fault in fetch_all(&self.config, &keyring).await {
            tracing::warn!(fault, "a JWK Set was not fetched");
        }
        Ok(keyring)
    }

    /// Builds a gateway from its parts.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn build(
        self,
        gateway_state: GatewayState,
        limiter: Limiter,
        cache_salts: CacheSalts,
    ) -> Result<App, StartFault> {
        let Self { config, source, wiring, metrics, tls } = self;
        let syncs = Arc::clone(&metrics);
        gateway_state.log.observe_syncs(move |took, _| syncs.audit_sync(took.as_secs_f64()));
        let registry = Arc::clone(&gateway_state.registry);
        // Open streams are checked again, and find that no record can be written any more.
        gateway_state.log.on_failure(move || registry.announce());
        let control = Arc::new(gateway_state.control(&config, Some(Arc::clone(&metrics))));
        let limiter = Arc::new(limiter);
        let clock = Arc::clone(&gateway_state.clock);
        let guard = &config.guard;
        let limits = VerificationLimits {
            token_cache: guard.token_cache,
            peer_rps: guard.peer_rps,
            root_rps: guard.root_rps,
        };
        let authenticator = Authenticator::new(
            Arc::clone(&gateway_state.keyring),
            Arc::clone(&gateway_state.registry),
            Arc::clone(&limiter),
            Box::new(Fast),
            Arc::clone(&clock),
            limits,
        );
        let gateway = Gateway {
            config: ArcSwap::from_pointee(wiring),
            authenticator: Arc::new(authenticator),
            limiter,
            slots: Arc::new(Slots::new(Arc::clone(&metrics))),
            registry: Arc::clone(&gateway_state.registry),
            weights: Arc::clone(&gateway_state.weights),
            recorder: AuditRecorder::new(
                Arc::clone(&gateway_state.log),
                Arc::clone(&clock),
                Arc::clone(&metrics),
            )?,
            buffers: Arc::new(Buffers::new(guard.bodies_max)),
            metrics: Arc::clone(&metrics),
            clock,
            request_ids: RequestIds::new()?,
            cache_salts,
            marks: Draws::new()?,
            fetch_quota: Arc::new(FetchQuota::new(Arc::clone(&gateway_state.clock))),
        };
        // `why` reads recent refusals from the recorder, and `audit forget` removes them there.
        control.set_recorder(gateway.recorder.clone());
        let gateway = Arc::new(gateway);
        Ok(App {
            config,
            source,
            gateway_state,
            control,
            gateway,
            metrics,
            tls,
            predecessor: None,
            program: None,
        })
    }

    /// Continues where the former process has stopped. It opens the log under the passed lock,
    /// takes in the rate limit state, and waits for `go`. Blocks.
    ///
    /// # Errors
    /// If this process cannot continue. Then the former process resumes.
    pub fn take(self, keyring: Arc<Keyring>, over: Over) -> Result<(App, Listeners), StartFault> {
        let asked = over.asked()?;
        let taken = match self.go_on(keyring, over) {
            Ok(taken) => taken,
            Err(fault) => {
                asked.failed(&fault);
                return Err(fault);
            }
        };
        asked.ready()?;
        Ok(taken)
    }

    /// Checks that the file still has the config that this process has read. The former process may
    /// have reloaded a newer one meanwhile. From now on it reloads none.
    fn is_current(&self) -> Result<(), StartFault> {
        // A config without a file cannot change.
        let Some(source) = &self.source else { return Ok(()) };
        let shown = source.display();
        let text = std::fs::read_to_string(source)
            .map_err(|error| StartFault::take_over(format_args!("{shown}: {error}")))?;
        if crate::config::policy(&text) == self.config.policy {
            return Ok(());
        }
        Err(StartFault::take_over(format_args!(
            "{shown}: the config has changed while this process started: try again"
        )))
    }

    /// Whether the config has an issuer `iss` with its keys at `url`.
    fn has_issuer(&self, iss: &str, url: &str) -> bool {
        self.config.guard.issuers.iter().any(|issuer| match &issuer.jwks {
            // The same URL is required. Keys of an old URL must not count for a new one.
            Some(Jwks::Url { url: own, .. }) => issuer.iss == iss && own == url,
            Some(Jwks::File(_)) | None => false,
        })
    }

    /// Takes in the former process's fetched keys, for issuers whose keys this process could not
    /// fetch.
    fn take_published(
        &self,
        keyring: &Keyring,
        published: Vec<Published>,
    ) -> Result<(), StartFault> {
        let mut fetched = keyring.fetched();
        for Published { iss, url, set } in published {
            // A set that this process has fetched itself is newer.
            if fetched.contains_key(&iss) || !self.has_issuer(&iss, &url) {
                continue;
            }
            let keys = jwk::read_set(&set).map_err(StartFault::take_over)?;
            tracing::warn!(
                issuer = iss,
                "a JWK Set was not fetched; the former process's keys stay in force"
            );
            fetched.insert(iss, keys);
        }
        keyring.set_fetched(fetched);
        Ok(())
    }

    /// Opens the log and takes in the passed state.
    fn go_on(self, keyring: Arc<Keyring>, over: Over) -> Result<(App, Listeners), StartFault> {
        let Over { listeners, lock, state, records, requests, .. } = over;
        self.is_current()?;
        self.take_published(&keyring, state.published)?;
        let clocks = Clocks::start();
        let (log, recovered) =
            Log::take_over(self.config.audit.clone(), Arc::clone(&clocks.clock), lock)?;
        // Set before the first append, so that the former process misses no revocation.
        let (tell, changes) = mpsc::unbounded_channel();
        log.on_control(move |record| {
            let mut line = record.encode(None);
            line.push(b'\n');
            drop(tell.send(line));
        });
        let gateway_state = GatewayState::fold(&self.config, keyring, log, recovered, clocks)?;
        // The passed state has keyed hashes of subjects. Only the same seeds find them again.
        let limiter = Limiter::keyed(Arc::clone(&gateway_state.clock), state.tallies.seeds);
        // Without the passed state, each caller could spend its whole rate again.
        limiter.take_in(state.tallies.rates);
        let Some(salt) = passed_salt(&state.cache_salt) else {
            return Err(StartFault::take_over("the key of the cache salts is not a valid key"));
        };
        let mut app = self.build(gateway_state, limiter, CacheSalts::keyed(salt))?;
        app.gateway.fetch_quota.take_in(state.fetched);
        app.gateway.weights.take_in(state.weights);
        let elsewhere =
            RemoteWork::new(Arc::clone(&app.gateway.limiter), Arc::clone(&app.gateway.slots));
        // Requests that the former process still answers count towards the limits here.
        elsewhere.set(state.in_flight);
        let drain = Duration::from_secs(state.drain_s);
        let process = Predecessor::new(
            Arc::clone(&app.gateway_state.log),
            state.open,
            elsewhere,
            drain,
            changes,
        );
        let (records, requests) = (channel(records)?, channel(requests)?);
        app.predecessor = Some(FormerProcess { process, records, requests });
        Ok((app, listeners))
    }
}

/// The key of the cache salts, from its passed text.
fn passed_salt(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.as_bytes()).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

/// A passed connection to the former process, for use with tokio.
fn channel(stream: std::os::unix::net::UnixStream) -> Result<UnixStream, StartFault> {
    stream.set_nonblocking(true).map_err(StartFault::take_over)?;
    UnixStream::from_std(stream).map_err(StartFault::take_over)
}

impl App {
    /// Sets the program with which this process starts its successor for an upgrade.
    #[must_use]
    pub fn started_as(mut self, program: super::handover::Program) -> Self {
        self.program = Some(program);
        self
    }
}
