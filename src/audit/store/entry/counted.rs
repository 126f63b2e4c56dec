//! Refusals that are counted, until their counts are recorded.

use std::net::IpAddr;
use std::sync::Arc;

use super::Pen;
use super::tally::{self, Told};
use crate::id::{AgentName, Principal, RequestId};
use crate::refusal::Refusal;

impl Pen {
    /// Counts a refusal of somebody who is not known.
    pub fn stranger(&self, request: &RequestId, refusal: &Refusal, peer: Option<IpAddr>) {
        let now = self.0.clock.now();
        let network = peer.map_or_else(|| "-".to_owned(), tally::network);
        self.0.tally.tell(Told::of(request, refusal, None, Some(network.clone()), now));
        self.0.tally.stranger(network, refusal.code);
    }

    /// Records what was counted, once a minute has passed, or `at_once`. What cannot be recorded now is counted on.
    pub fn flush(&self, at_once: bool) {
        for event in self.0.tally.due(self.0.clock.now(), at_once) {
            let (own, kept) = (Arc::clone(&self.0), event.clone());
            self.0.log.seal_with(event, None, move |sealed| match sealed {
                Ok(sealed) => own.metrics.audit_record(sealed.record.event.kind()),
                Err(_) => own.tally.take_back(&kept),
            });
        }
    }

    /// Lets go of what was counted and is remembered in a principal's name, and of these agents.
    pub fn forget(&self, principal: &Principal, agents: &[AgentName]) {
        self.0.tally.forget(principal, agents);
    }
}
