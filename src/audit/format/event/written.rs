//! Events of one process that another process records, with their exact payload.

use super::Event;
use crate::audit::format::payload::{PayloadWriter, number};
use crate::id::{Principal, RequestId};
use crate::json;

/// The kinds of events that another process may pass on: those that do not change the state.
const KINDS: [&str; 5] =
    ["admission", "outcome", "refusal", "refusals", "unauthenticated-refusals"];

/// A record's payload as another process has encoded it. Its kind does not change the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    kind: &'static str,
    pub(super) principal: Option<Principal>,
    payload: String,
}

impl Written {
    /// The payload, if its kind may be passed on and it is a JSON object.
    #[must_use]
    pub fn new(kind: &str, principal: Option<Principal>, payload: String) -> Option<Self> {
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        let is_object =
            json::parse(payload.as_bytes(), &json::Limits::deep(4)).ok()?.as_object().is_some();
        is_object.then_some(Self { kind, principal, payload })
    }

    /// The encoded `event`; `None` where its kind may not be passed on.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        // The payload is encoded by the process that served the request. It is recorded without a
        // change.
        let mut members = PayloadWriter::default();
        event.members(&mut members);
        let mut payload = Vec::with_capacity(1024);
        json::write(&members.into_object(), &mut payload);
        Self::new(event.kind(), event.principal().cloned(), String::from_utf8(payload).ok()?)
    }

    /// The event's kind, as in the record.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// The principal of the event.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The payload, as canonical JSON.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// This outcome, with the index of its admission.
    #[must_use]
    pub fn of_admission(&self, index: u64) -> Self {
        // The process that served the request may not know the index, because the other process
        // recorded the admission.
        let mut payload = Vec::with_capacity(self.payload.len() + 16);
        if let Ok(json::Value::Object(mut object)) =
            json::parse(self.payload.as_bytes(), &json::Limits::deep(4))
        {
            object.set("admission", number(index));
            json::write(&json::Value::Object(object), &mut payload);
        }
        Self { payload: String::from_utf8(payload).unwrap_or_default(), ..self.clone() }
    }

    /// The request's id; `None` for counts.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        let document = json::parse(self.payload.as_bytes(), &json::Limits::deep(4)).ok()?;
        document.as_object()?.get("request")?.as_str()?.parse().ok()
    }
}
