//! Events of one process that another one records: as they are inside a record, word for word.

use super::Event;
use crate::audit::format::payload::{PayloadWriter, number};
use crate::id::{Principal, RequestId};
use crate::json;

/// The kinds of events that are passed on: those that change no book.
const KINDS: [&str; 5] =
    ["admission", "outcome", "refusal", "refusals", "unauthenticated-refusals"];

/// A record's inside as another process has written it, of a kind that changes no book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    kind: &'static str,
    pub(super) principal: Option<Principal>,
    payload: String,
}

impl Written {
    /// What was written, where it is of a kind that is passed on and an object.
    #[must_use]
    pub fn new(kind: &str, principal: Option<Principal>, payload: String) -> Option<Self> {
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        let is_object =
            json::parse(payload.as_bytes(), &json::Limits::deep(4)).ok()?.as_object().is_some();
        is_object.then_some(Self { kind, principal, payload })
    }

    /// How `event` is written; `None` where it is of a kind that is not passed on.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        let mut members = PayloadWriter::default();
        event.members(&mut members);
        let mut payload = Vec::with_capacity(1024);
        json::write(&members.into_object(), &mut payload);
        Self::new(event.kind(), event.principal().cloned(), String::from_utf8(payload).ok()?)
    }

    /// The event's word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// In whose name it happened.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The members, as canonical JSON.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// An outcome, of the admission with that index.
    #[must_use]
    pub fn of_admission(&self, index: u64) -> Self {
        let mut payload = Vec::with_capacity(self.payload.len() + 16);
        if let Ok(json::Value::Object(mut object)) =
            json::parse(self.payload.as_bytes(), &json::Limits::deep(4))
        {
            object.set("admission", number(index));
            json::write(&json::Value::Object(object), &mut payload);
        }
        Self { payload: String::from_utf8(payload).unwrap_or_default(), ..self.clone() }
    }

    /// The request that it is of; none of what is counted.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        let document = json::parse(self.payload.as_bytes(), &json::Limits::deep(4)).ok()?;
        document.as_object()?.get("request")?.as_str()?.parse().ok()
    }
}
