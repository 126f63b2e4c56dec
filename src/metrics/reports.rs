//! What is measured of upstreams' reports of usage.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, Registry};

use super::counters;
use crate::model::usage::Absurd;

/// How often an upstream's absurd reports are warned of.
const WARNED_EVERY: Duration = Duration::from_secs(60);

/// Reports of usage that cannot be true, by upstream.
pub(super) struct Reports(HashMap<String, UpstreamReports>);

struct UpstreamReports {
    absurd: [(Absurd, IntCounter); 3],
    warned: Mutex<Warned>,
}

#[derive(Default)]
struct Warned {
    at: Option<Duration>,
    since: u64,
}

impl Reports {
    pub(super) fn new(registry: &Registry, upstreams: &[String]) -> prometheus::Result<Self> {
        let (name, help) = (
            "token_shield_usage_implausible_total",
            "Reports of usage that cannot be true, by upstream and what is wrong",
        );
        let absurd = counters(registry, name, help, &["upstream", "reason"])?;
        // From the start on: an increase from nothing is invisible.
        let of = |upstream: &String| {
            let absurd = Absurd::ALL
                .map(|what| (what, absurd.with_label_values(&[upstream.as_str(), what.as_str()])));
            (upstream.clone(), UpstreamReports { absurd, warned: Mutex::default() })
        };
        Ok(Self(upstreams.iter().map(of).collect()))
    }

    /// Counts an absurd report at `now` on the monotonic clock; how many there were since the last warning, where it is time for
    /// another.
    pub(super) fn absurd(&self, upstream: &str, what: Absurd, now: Duration) -> Option<u64> {
        let upstream = self.0.get(upstream)?;
        upstream
            .absurd
            .iter()
            .filter(|(known, _)| *known == what)
            .for_each(|(_, counter)| counter.inc());
        let mut warned = upstream.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.since += 1;
        if warned.at.is_some_and(|at| now < at + WARNED_EVERY) {
            return None;
        }
        warned.at = Some(now);
        Some(std::mem::take(&mut warned.since))
    }
}
