//! Commands and questions about the log itself.

use std::sync::Arc;

use super::{Control, ControlFault, Operator, Reply};
use crate::audit::entry::Pen;
use crate::audit::event::Event;
use crate::audit::log::LogFault;
use crate::id::RequestId;

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

    /// Lets the log begin its next epoch. Whoever is served meanwhile goes on.
    pub(super) async fn epoch_begun(&self, operator: &Operator, reason: String) -> Result<Reply, ControlFault> {
        let (log, by) = (Arc::clone(&self.log), operator.0.clone());
        let begun = tokio::task::spawn_blocking(move || log.begin_epoch(reason, Some(by))).await;
        let origin = begun.unwrap_or(Err(LogFault::Stopped))?;
        if let Some(metrics) = &self.metrics {
            metrics.audit_record("epoch");
        }
        Ok(Reply {
            sealed: vec![0],
            rows: vec![serde_json::json!({ "origin": &*origin })],
            note: None,
            gateway: self.about.get().cloned(),
        })
    }

    /// Does what a record about the log itself says: takes the clock as it is, or destroys a key and lets the books go of whom it
    /// was for.
    pub(super) fn heed(&self, event: &Event) -> Result<(), ControlFault> {
        if let Event::Clock { accepted: true, .. } = event {
            self.ratchet.accept();
        }
        if let Event::Forgotten { record_key, .. } = event {
            self.forget(record_key)?;
        }
        Ok(())
    }
}
