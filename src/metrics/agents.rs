//! The metric of requests by agent, with a limited number of labels.

use std::collections::HashMap;
use std::sync::Mutex;

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::{OTHER, counters};
use crate::lock::locked;

/// The counters of agents. The first `max` agents have labels; all others share one.
pub(super) struct Agents {
    requests: IntCounterVec,
    /// The agents with a label, and their counters.
    seen: Mutex<HashMap<String, IntCounter>>,
    max: usize,
}

impl Agents {
    /// Registers the counter.
    ///
    /// # Errors
    /// If its name is already registered.
    pub(super) fn new(registry: &Registry, max: usize) -> prometheus::Result<Self> {
        let requests = counters(
            registry,
            "token_shield_agent_requests_total",
            "Requests by agent",
            &["agent"],
        )?;
        Ok(Self { requests, seen: Mutex::default(), max })
    }

    /// Counts a request for the root agent. The holder of its token chooses the names below it, so
    /// those would make unlimited labels.
    pub(super) fn count(&self, agent: &str) {
        // The second slash ends the root's name: `namespace/name`.
        let agent = match agent.match_indices('/').nth(1) {
            Some((end, _)) => &agent[..end],
            None => agent,
        };
        let mut seen = locked(&self.seen);
        if let Some(counter) = seen.get(agent) {
            return counter.inc();
        }
        let label = if seen.len() < self.max { agent } else { OTHER };
        let counter = self.requests.with_label_values(&[label]);
        counter.inc();
        // Agents under `other` are not stored, so the map has at most `max` entries.
        if label == agent {
            seen.insert(agent.to_owned(), counter);
        }
    }
}
