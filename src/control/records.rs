//! Commands and questions about the log itself.

use std::sync::PoisonError;

use super::{Control, ControlFault};
use crate::audit::entry::Pen;
use crate::audit::event::Event;
use crate::audit::record::RecordKeyId;
use crate::audit::vault::VaultFault;
use crate::id::{Principal, RequestId};

impl Control {
    /// Lets operators ask what the gateway has told callers.
    pub fn set_pen(&self, pen: Pen) {
        let _ = self.pen.set(pen);
    }

    /// What is remembered of a request that was refused.
    pub(super) fn why(&self, request: &str) -> Result<Option<serde_json::Value>, ControlFault> {
        let request: RequestId = request.parse()?;
        let told = self.pen.get().and_then(|pen| pen.told(&request));
        Ok(told.and_then(|told| serde_json::to_value(told).ok()))
    }

    /// The record of a principal's key being destroyed.
    pub(super) fn forgotten(&self, principal: &Principal) -> Result<Event, ControlFault> {
        let vault = self.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        let id = vault.id_of(principal.as_str()).ok_or(VaultFault::Unknown)?;
        Ok(Event::Forgotten { record_key: id.to_string() })
    }

    /// Does what a record about the log itself says: takes the clock as it is, or destroys a key and lets the books go of whom it
    /// was for.
    pub(super) fn heed(&self, event: &Event) -> Result<(), ControlFault> {
        if let Event::Clock { accepted: true, .. } = event {
            self.ratchet.accept();
        }
        let Event::Forgotten { record_key } = event else { return Ok(()) };
        let id: RecordKeyId = record_key.parse().map_err(|_| VaultFault::Unknown)?;
        let mut vault = self.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        let principal = vault.principals().find(|(_, known)| *known == id).map(|(principal, _)| principal.to_owned());
        // Crash before this: the record stands, and the next start destroys the key.
        vault.destroy(&id)?;
        drop(vault);
        if let Some(principal) = principal.and_then(|principal| principal.parse().ok()) {
            self.registry.forget(&principal);
        }
        Ok(())
    }
}
