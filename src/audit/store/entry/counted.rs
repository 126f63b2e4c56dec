//! Counted refusals, and the records of their counts.

use std::net::IpAddr;
use std::sync::Arc;

use super::AuditRecorder;
use super::refusal_counter::{self, RememberedRefusal};
use crate::id::{AgentName, Principal, RequestId};
use crate::refusal::Refusal;

impl AuditRecorder {
    /// Counts a refusal of an unauthenticated caller.
    pub fn count_unauthenticated(
        &self,
        request: &RequestId,
        refusal: &Refusal,
        peer: Option<IpAddr>,
    ) {
        let now = self.0.clock.now();
        let network = peer.map_or_else(|| "-".to_owned(), refusal_counter::network);
        self.0.refusal_counter.tell(RememberedRefusal::of(
            request,
            refusal,
            None,
            Some(network.clone()),
            now,
        ));
        self.0.refusal_counter.count_unauthenticated(network, refusal.code);
    }

    /// Records the counts when a minute has passed, or `at_once`. Counts that cannot be recorded
    /// now are kept for the next time.
    pub fn flush(&self, at_once: bool) {
        for event in self.0.refusal_counter.due(self.0.clock.now(), at_once) {
            let (own, kept) = (Arc::clone(&self.0), event.clone());
            self.0.log.append_with(event, None, move |appended| match appended {
                Ok(appended) => own.metrics.audit_record(appended.record.event.kind()),
                // The counts are kept, so that a full disk hides no refusal.
                Err(_) => own.refusal_counter.take_back(&kept),
            });
        }
    }

    /// Removes counts and remembered refusals of a principal, and of these agents.
    pub fn remove_principal(&self, principal: &Principal, agents: &[AgentName]) {
        self.0.refusal_counter.remove_principal(principal, agents);
    }
}
