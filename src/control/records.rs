//! Commands and questions about the log itself.

use std::sync::Arc;

use super::{Control, ControlFault, Operator, Reply, parsed};
use crate::audit::format::event::Event;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::log::LogFault;
use crate::audit::store::vault::VaultFault;
use crate::id::RequestId;
use crate::token::{Presented, verify_whenever};

/// The record of an export, before it begins.
pub(super) fn exported(
    epochs: &[String],
    principal: Option<String>,
    keys: bool,
) -> Result<Event, ControlFault> {
    let principal = parsed(principal)?;
    Ok(Event::Exported { epochs: epochs.join(" "), principal, keys })
}

impl Control {
    /// The record of a token that was signed and is not registered. The token must be valid at some
    /// time.
    pub(super) fn token_signed(&self, token: &str) -> Result<Event, ControlFault> {
        let presented = Presented::read(token)?;
        let verified = verify_whenever(&presented, &*self.keyring, &*self.verifier)?;
        Ok(Event::TokenSigned {
            token: *verified.id(),
            jti: verified.jti().to_owned(),
            agent: verified.agent().clone(),
            principal: verified.principal().clone(),
            expires: verified.expires(),
        })
    }

    /// Sets the audit recorder, which answers questions about recent refusals.
    pub fn set_recorder(&self, recorder: AuditRecorder) {
        let _ = self.recorder.set(recorder);
    }

    /// The recent refusal of a request, if the recorder still has it.
    pub(super) fn why(&self, request: &str) -> Result<Option<serde_json::Value>, ControlFault> {
        let request: RequestId = request.parse()?;
        let Some(recorder) = self.recorder.get() else { return Ok(None) };
        let Some(told) = recorder.told(&request) else { return Ok(None) };
        Ok(serde_json::to_value(told).ok())
    }

    /// Begins the next epoch of the log. Open requests continue.
    pub(super) async fn epoch_begun(
        &self,
        operator: &Operator,
        reason: String,
    ) -> Result<Reply, ControlFault> {
        // Closing an epoch writes and syncs files, so it must not run on an async worker.
        let (log, by) = (Arc::clone(&self.log), operator.0.clone());
        let begun = tokio::task::spawn_blocking(move || log.begin_epoch(reason, Some(by))).await;
        let origin = begun.unwrap_or(Err(LogFault::Stopped))?;
        if let Some(metrics) = &self.metrics {
            metrics.audit_record("epoch");
        }
        Ok(Reply {
            // The first record of an epoch has the index 0.
            sealed: vec![0],
            rows: vec![serde_json::json!({ "origin": &*origin })],
            note: None,
            gateway: self.about.get().cloned(),
        })
    }

    /// Applies a record about the log itself: accepts the clock, or destroys a key and removes its
    /// principal from the state.
    pub(super) fn apply_side_effects(&self, event: &Event) -> Result<(), VaultFault> {
        if let Event::Clock { accepted: true, .. } = event {
            self.ratchet.accept();
        }
        if let Event::Forgotten { record_key, .. } = event {
            self.crypto_shred(record_key)?;
        }
        Ok(())
    }
}
