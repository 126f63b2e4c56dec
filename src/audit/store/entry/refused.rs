//! Refusals of authenticated callers.

use std::sync::Arc;

use super::refusal_counter::{RefusedCaller, RememberedRefusal};
use super::{AuditRecorder, Ending, Entry, RecordedRefusal, name_of};
use crate::audit::format::event::Event;
use crate::audit::format::request::{RefusedRequest, RequestContext};
use crate::refusal::Refusal;

impl AuditRecorder {
    /// A refusal without a record. If the log cannot be written, the result is that refusal
    /// instead.
    fn without_record(&self, refusal: Refusal) -> RecordedRefusal {
        let refusal = match self.ready() {
            Ok(()) => refusal,
            Err(unready) => unready,
        };
        RecordedRefusal { refusal, record: None }
    }

    /// Records a refusal of an authenticated caller. Returns when it is durable or counted. If the
    /// log cannot be written, the result is that refusal instead.
    pub async fn record_refusal(
        &self,
        refusal: Refusal,
        about: RequestContext,
        ms: u64,
    ) -> RecordedRefusal {
        if self.is_nameless(refusal.code, &about) {
            self.count_unauthenticated(&about.request, &refusal, about.peer);
            return self.without_record(refusal);
        }
        let now = self.0.clock.now();
        let caller = Arc::clone(&about.caller);
        let whose = RefusedCaller { agent: &caller.agent, principal: &caller.principal };
        let code = refusal.code;
        self.0.refusal_counter.tell(RememberedRefusal::of(
            &about.request,
            &refusal,
            Some(caller.agent.as_str().to_owned()),
            None,
            now,
        ));
        // The counter limits the records: a caller must not fill the disk with refusals.
        if !self.0.refusal_counter.agent(whose, code, now) {
            return self.without_record(refusal);
        }
        let refused = RefusedRequest {
            about,
            stage: refusal.code.stage().as_str(),
            code: refusal.code.as_str(),
            detail: refusal.detail.clone(),
            param: refusal.param.clone(),
            status: refusal.code.status(),
            ms,
        };
        match self.append(Event::Refusal(Box::new(refused))).await {
            Ok(appended) => RecordedRefusal { refusal, record: Some(name_of(&appended)) },
            Err(refusal) => {
                // The refusal has no record. The next summary counts it.
                self.0.refusal_counter.count(whose, code);
                RecordedRefusal { refusal, record: None }
            }
        }
    }

    /// Closes the entry of a request that is refused after its admission. Returns when durable.
    pub async fn close_refused(
        &self,
        entry: Entry,
        ending: Ending,
        refusal: Refusal,
    ) -> RecordedRefusal {
        let record = Some(entry.record.clone());
        match entry.close(ending).await {
            Ok(_) => RecordedRefusal { refusal, record },
            Err(refusal) => RecordedRefusal { refusal, record },
        }
    }
}
