//! Metrics of the usage that upstreams report.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use prometheus::{IntCounter, Registry};

use super::counters;
use crate::lock::locked;
use crate::model::usage::Absurd;

/// The smallest interval between two warnings about one upstream.
const WARNED_EVERY: Duration = Duration::from_secs(60);

/// Counts of usage reports that cannot be true, by upstream.
pub(super) struct Reports(HashMap<String, UpstreamReports>);

/// The counters of one upstream, and its last warning.
struct UpstreamReports {
    absurd: [(Absurd, IntCounter); 3],
    warned: Mutex<Warned>,
}

/// The last warning, and the reports since then.
#[derive(Default)]
struct Warned {
    /// On the monotonic clock.
    at: Option<Duration>,
    since: u64,
}

impl Reports {
    /// Registers the counters for the configured upstreams.
    ///
    /// # Errors
    /// If the name is already registered.
    pub(super) fn new(registry: &Registry, upstreams: &[String]) -> prometheus::Result<Self> {
        let (name, help) = (
            "token_shield_usage_implausible_total",
            "Reports of usage that cannot be true, by upstream and what is wrong",
        );
        let absurd = counters(registry, name, help, &["upstream", "reason"])?;
        // Created at the start with value 0: Prometheus does not see an increase from a missing
        // series.
        let mut reports = HashMap::new();
        for upstream in upstreams {
            let absurd = Absurd::ALL
                .map(|what| (what, absurd.with_label_values(&[upstream.as_str(), what.as_str()])));
            let of_upstream = UpstreamReports { absurd, warned: Mutex::default() };
            reports.insert(upstream.clone(), of_upstream);
        }
        Ok(Self(reports))
    }

    /// Counts a report that cannot be true, at `now` on the monotonic clock. Returns the number
    /// since the last warning if a new warning is due.
    pub(super) fn absurd(&self, upstream: &str, what: Absurd, now: Duration) -> Option<u64> {
        let upstream = self.0.get(upstream)?;
        for (known, counter) in &upstream.absurd {
            if *known == what {
                counter.inc();
            }
        }
        let mut warned = locked(&upstream.warned);
        warned.since += 1;
        if warned.at.is_some_and(|at| now < at + WARNED_EVERY) {
            return None;
        }
        warned.at = Some(now);
        Some(std::mem::take(&mut warned.since))
    }
}
