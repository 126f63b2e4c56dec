//! Opens the log, and computes the state from it. It also applies the config's settings to both.

use std::sync::Arc;

use super::{StartFault, classes, digests, issuers};
use crate::audit::format::event::Event;
use crate::audit::format::key::{KeyLookup, Opener as _};
use crate::audit::format::record::Record;
use crate::audit::read::tiles::epoch_name;
use crate::audit::store::log::{Log, LogFault, LogSettings, Recovered};
use crate::audit::store::retain::{PruneReason, is_clock_doubtful, prune};
use crate::clock::{Clock, Ratchet, SystemClock, Timestamp};
use crate::config::Config;
use crate::control::{Control, ControlParts, GatewayIdentity};
use crate::durable;
use crate::keyring::Keyring;
use crate::lock::locked;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::weights::Weights;

/// The state and the log. The command line uses them too.
pub struct GatewayState {
    /// The log.
    pub log: Arc<Log>,
    /// Agents and tokens.
    pub registry: Arc<Registry>,
    /// Keys.
    pub keyring: Arc<Keyring>,
    /// The weights that answer.
    pub weights: Arc<Weights>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The same clock. It also reports by how much the wall clock is slow.
    pub ratchet: Arc<Ratchet>,
}

impl GatewayState {
    /// Takes the data folder's lock, reads or begins the log, and computes the state. For a start;
    /// commands use [`GatewayState::open_existing`].
    ///
    /// # Errors
    /// If the folder is in use, the log does not verify, or an issuer's keys cannot be read.
    pub fn open(config: &Config) -> Result<Self, StartFault> {
        // Before the first write: an empty folder becomes private.
        config.audit.is_own().map_err(StartFault::Log)?;
        for folder in [config.data.clone(), config.data.join("secret")] {
            durable::make_private_dir(&folder)?;
        }
        Self::open_log(config, config.audit.clone())
    }

    /// [`GatewayState::open`] of an existing log. It does not make a new one.
    ///
    /// # Errors
    /// As [`GatewayState::open`], and [`LogFault::None`].
    pub fn open_existing(config: &Config) -> Result<Self, StartFault> {
        Self::open_log(config, LogSettings { existing: true, ..config.audit.clone() })
    }

    /// Opens the log with its settings, and computes the state.
    fn open_log(config: &Config, log: LogSettings) -> Result<Self, StartFault> {
        let clocks = Clocks::start();
        let (log, recovered) = Log::open(log, Arc::clone(&clocks.clock))?;
        let keyring = Arc::new(Keyring::new());
        // After the log: the lock shows first whether another process uses the folder.
        keyring.set_issuers(issuers(config)?);
        Self::fold(config, keyring, log, recovered, clocks)
    }

    /// The state of an opened log, with keys that were read before.
    pub(super) fn fold(
        config: &Config,
        keyring: Arc<Keyring>,
        log: Log,
        recovered: Recovered,
        clocks: Clocks,
    ) -> Result<Self, StartFault> {
        let Clocks { ratchet, clock } = clocks;
        // No decision may use a time before the last record.
        ratchet.raise(clock_floor(&recovered.records, log.state().at));
        if let Some(torn) = recovered.torn {
            tracing::warn!(segment = %torn.segment.display(), bytes = torn.bytes, "an \
                unacknowledged batch was removed from the journal");
        }
        let (registry, weights) = (Arc::new(Registry::new()), Arc::new(Weights::default()));
        weights.declare(digests::declared(config));
        for record in &recovered.records {
            registry.apply(record);
            keyring.apply(record);
            weights.apply(record);
            crypto_shred_again(&log, &record.event)?;
        }
        Ok(Self { log: Arc::new(log), registry, keyring, weights, clock, ratchet })
    }

    /// The handler of commands over this state.
    #[must_use]
    pub fn control(&self, config: &Config, metrics: Option<Arc<Metrics>>) -> Control {
        // Only a gateway that serves has metrics.
        let pid = if metrics.is_some() { Some(std::process::id()) } else { None };
        let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
        let control = Control::new(ControlParts {
            log: Arc::clone(&self.log),
            registry: Arc::clone(&self.registry),
            keyring: Arc::clone(&self.keyring),
            weights: Arc::clone(&self.weights),
            metrics,
            classes: classes(config),
            clock: Arc::clone(&self.clock),
            ratchet: Arc::clone(&self.ratchet),
        });
        // A "." at the end of the config's path is not a folder.
        control.introduce(GatewayIdentity {
            name: config.name.clone(),
            data: data.components().collect(),
            pid,
        });
        control
    }
}

/// The earliest time that a decision after a start may use: the time of the last record.
///
/// After `clock accept`, records keep the time of the last record before it, because a log's times
/// never decrease. Until the wall clock passes that time, the operator's decision counts: the floor
/// is the wall clock as it was accepted.
fn clock_floor(records: &[Record], last: Timestamp) -> Timestamp {
    for record in records.iter().rev() {
        if record.at != last {
            break;
        }
        if let Event::Clock { behind_ms, accepted: true } = record.event {
            return Timestamp(last.0.saturating_sub(i64::try_from(behind_ms).unwrap_or(i64::MAX)));
        }
    }
    last
}

/// The clock of a process with a log, in both of its forms.
pub(super) struct Clocks {
    /// The clock with its operations for operators.
    ratchet: Arc<Ratchet>,
    /// The same clock, for everything that only reads it.
    pub(super) clock: Arc<dyn Clock>,
}

impl Clocks {
    /// A clock over the machine's clocks, without a floor.
    pub(super) fn start() -> Self {
        let ratchet = Arc::new(Ratchet::new(Box::new(SystemClock::start())));
        let clock = Arc::clone(&ratchet) as Arc<dyn Clock>;
        Self { ratchet, clock }
    }
}

/// Destroys a record key again if the log has its destruction. A crash may have come between the
/// record and the deletion.
fn crypto_shred_again(log: &Log, event: &Event) -> Result<(), LogFault> {
    let Event::Forgotten { record_key, .. } = event else { return Ok(()) };
    let Ok(id) = record_key.parse() else { return Ok(()) };
    // The record of the destruction is durable first. So a crash can only leave a key too long, and
    // this start removes it.
    let mut vault = locked(log.vault());
    if matches!(vault.held(&id), KeyLookup::Key(_)) { Ok(vault.destroy(&id)?) } else { Ok(()) }
}

/// Prunes old records. A failure does not prevent a start: without the archive, all records stay.
pub(super) fn retain(config: &Config) {
    let Some(keep) = &config.keep else { return };
    // A data folder without public keys has no log yet.
    if !config.audit.vkeys.exists() {
        return;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    // A wrong clock would prune records that are still within their retention period.
    match is_clock_doubtful(&config.audit, &*clock) {
        Ok(false) => {}
        Ok(true) => {
            tracing::error!(
                "the clock is more than 30 days ahead of the newest record: no records are pruned; \
                    if it is right, run token-shield audit prune"
            );
            return;
        }
        Err(fault) => return tracing::error!(%fault, "old records could not be pruned"),
    }
    match prune(&config.audit, &clock, keep, PruneReason::default(), |_, _| ()) {
        Ok(taken) => {
            for epoch in taken.epochs {
                tracing::info!(
                    epoch = epoch_name(epoch.number),
                    records = epoch.size,
                    to = ?keep.to,
                    "old records were pruned"
                );
            }
        }
        Err(fault) => tracing::error!(%fault, "old records could not be pruned"),
    }
}
