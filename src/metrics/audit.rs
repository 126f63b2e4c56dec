//! Metrics of the audit log and its disk, of readiness, and of dropped log lines.

use prometheus::{
    Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{counters, gauge, histogram, int_gauge, register};

/// The state of the log and its disk, for the gauges.
pub struct AuditGauges {
    /// Free bytes on the disk of the log, if the system reports them.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of the reserve that are allocated.
    pub reserve_bytes: u64,
    /// Records that wait to be written.
    pub queue_records: usize,
    /// Durable records that no checkpoint covers yet.
    pub unsigned_records: u64,
}

/// A count as the value of a gauge.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The metrics of the log.
pub(super) struct Audit {
    pub(super) unready: IntGaugeVec,
    pub(super) log_lines_dropped: IntCounter,
    disk_free: IntGauge,
    reserve: IntGauge,
    queue: IntGauge,
    unsigned: IntGauge,

    pub(super) records: IntCounterVec,
    pub(super) sync: Histogram,
    pub(super) checkpoint_age: Gauge,
    pub(super) clock_behind: Gauge,
}

impl Audit {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let waiting = "How long records have been waiting for a signed checkpoint";
        let syncs = histogram("token_shield_audit_sync_seconds", "Syncs of the journal");
        let why = "1 where new requests are refused for that reason, as /readyz says";
        let dropped = "Log lines that standard error did not take in time";
        Ok(Self {
            unready: register(
                registry,
                IntGaugeVec::new(Opts::new("token_shield_unready", why), &["reason"]),
            )?,
            log_lines_dropped: register(
                registry,
                IntCounter::new("token_shield_log_lines_dropped_total", dropped),
            )?,
            disk_free: int_gauge(
                registry,
                "token_shield_audit_disk_free_bytes",
                "Bytes that are free on the disk of the audit log",
            )?,
            reserve: int_gauge(
                registry,
                "token_shield_audit_reserve_bytes",
                "Bytes of the audit log's reserve that are there",
            )?,
            queue: int_gauge(
                registry,
                "token_shield_audit_queue_records",
                "Records that wait to be written",
            )?,
            unsigned: int_gauge(
                registry,
                "token_shield_audit_unsigned_records",
                "Records that no signed checkpoint covers yet",
            )?,
            records: counters(
                registry,
                "token_shield_audit_records_total",
                "Records that were sealed",
                &["kind"],
            )?,
            sync: register(registry, Histogram::with_opts(syncs))?,
            checkpoint_age: gauge(registry, "token_shield_audit_checkpoint_age_seconds", waiting)?,
            clock_behind: gauge(
                registry,
                "token_shield_clock_behind_seconds",
                "How much earlier the wall clock is than the log",
            )?,
        })
    }

    /// Sets the gauges.
    pub(super) fn set(&self, gauges: &AuditGauges) {
        // If the disk reports no number, the gauge keeps its last value instead of a false 0.
        if let Some(free) = gauges.disk_free_bytes {
            self.disk_free.set(whole(free));
        }
        self.reserve.set(whole(gauges.reserve_bytes));
        self.queue.set(whole(gauges.queue_records as u64));
        self.unsigned.set(whole(gauges.unsigned_records));
    }
}
