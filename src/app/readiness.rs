//! Whether new requests are accepted, and if not, why: `/readyz`, and the gauges for alerts.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::audit::store::log::Log;
use crate::clock::{Clock as _, Ratchet};
use crate::metrics::{AuditGauges, Metrics};
use crate::proxy::Gateway;
use crate::refusal::Code;

/// If the wall clock is more than this before the last recorded time, the gateway is not ready.
const BEHIND_MAX: Duration = Duration::from_secs(300);

/// One reason why new requests are refused.
#[derive(Debug, Serialize)]
pub(super) struct Reason {
    /// The code with which requests are refused, or `draining`, `clock` or `upstreams-down`.
    pub(super) code: &'static str,
    /// For the operator: the cause and what to do.
    pub(super) detail: String,
}

impl Reason {
    /// The reason with that code. `detail` is a sentence for the operator.
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    pub(super) ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reasons: Vec<Reason>,
}

/// The sources of the readiness.
#[derive(Clone)]
pub(super) struct Readiness {
    pub(super) log: Arc<Log>,
    pub(super) clock: Arc<Ratchet>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) draining: watch::Receiver<bool>,
}

impl Readiness {
    /// The present state.
    pub(super) fn now(&self) -> Ready {
        // All reasons are listed, so that an operator sees every cause at once.
        let mut reasons = self.of_log();
        if *self.draining.borrow() {
            let detail = "the gateway stops: open requests finish, new ones are refused";
            reasons.push(Reason::new("draining", detail));
        }
        if self.clock.behind() > BEHIND_MAX {
            let detail = "the clock has stepped back by more than five minutes: set it, or \
                token-shield clock accept";
            reasons.push(Reason::new("clock", detail));
        }
        let wiring = self.gateway.config.load();
        if !wiring.upstreams.is_empty()
            // One upstream that is up is enough: routes with that upstream can still be served.
            && !wiring.upstreams.keys().any(|name| wiring.health.is_up(name))
        {
            reasons.push(Reason::new("upstreams-down", "no upstream can be reached"));
        }
        Ready { ready: reasons.is_empty(), reasons }
    }

    /// The reasons in the log: failed, full, short of a resource, or slow.
    fn of_log(&self) -> Vec<Reason> {
        let state = self.log.state();
        let mut reasons = Vec::new();
        if let Some(fault) = &state.failed {
            reasons.push(Reason::new(Code::AuditUnavailable.as_str(), fault.to_string()));
        } else if !self.log.healthy() {
            reasons.push(Reason::new(Code::AuditUnavailable.as_str(), "the audit log is closed"));
        }
        // Outcomes and commands still have the reserve. Only new requests are refused.
        if state.low {
            let free = state
                .free_bytes
                .map_or_else(String::new, |free| format!("{free} bytes are free, "));
            let detail = format!(
                "the disk of the audit log is full: {free}{} of {} bytes of the reserve are left. \
                    The gateway continues by itself when there is space",
                state.reserve_bytes, state.reserve_whole_bytes
            );
            reasons.push(Reason::new(Code::AuditFull.as_str(), detail));
        }
        if let Some(fault) = &state.short {
            let code = if fault.is_full() { Code::AuditFull } else { Code::AuditResources };
            let detail = format!("{fault}. The gateway continues by itself when this is over");
            reasons.push(Reason::new(code.as_str(), detail));
        }
        if self.log.slow() {
            let detail = "a sync of the audit log takes longer than 250 ms";
            reasons.push(Reason::new(Code::AuditSlow.as_str(), detail));
        }
        reasons
    }

    /// Updates the gauges.
    pub(super) fn measure(&self, metrics: &Metrics) {
        let state = self.log.state();
        metrics.audit_checkpoint_age(self.log.checkpoint_age().as_secs_f64());
        metrics.clock_behind(self.clock.behind().as_secs_f64());
        metrics.audit_gauges(&AuditGauges {
            disk_free_bytes: state.free_bytes,
            reserve_bytes: state.reserve_bytes,
            queue_records: self.log.waiting(),
            unsigned_records: state.size.saturating_sub(state.signed),
        });
        let now = self.now();
        metrics.unready(&now.reasons.iter().map(|reason| reason.code).collect::<Vec<_>>());
    }
}
