//! Commands and questions about models.

use std::collections::BTreeSet;

use crate::audit::format::event::Event;
use crate::control::{Control, ControlFault};
use crate::weights::{ModelRow, UNKNOWN};

impl Control {
    /// The records that accept the current digests of a model. Digests that are pinned or already
    /// accepted are left out.
    pub(super) fn model_accepted(
        &self,
        model: &str,
        reason: &str,
    ) -> Result<Vec<Event>, ControlFault> {
        let rows = self.rows_of(model);
        let mut is_known = false;
        // Several servers may have the same digest. It is recorded once.
        let mut fresh = BTreeSet::new();
        for row in &rows {
            if row.digest.source == UNKNOWN {
                continue;
            }
            is_known = true;
            let digest = &row.digest.value;
            if row.pin.as_ref() != Some(digest) && !row.accepted.contains(digest) {
                fresh.insert(digest);
            }
        }
        let why = if rows.is_empty() {
            "it is not a [[model]] of the config"
        } else if !is_known {
            "its digest is not known yet, so it cannot be accepted; token-shield model list shows \
                it later"
        } else if fresh.is_empty() {
            "its present weights are pinned or already accepted"
        } else {
            let mut events = Vec::new();
            for digest in fresh {
                let (model, reason) = (model.to_owned(), reason.to_owned());
                events.push(Event::ModelAccepted { model, digest: digest.clone(), reason });
            }
            return Ok(events);
        };
        Err(ControlFault::Model(model.to_owned(), why))
    }

    /// A note if the model has no pin, because then the accepted digest has no effect.
    pub(super) fn without_pin(&self, model: &str) -> Option<String> {
        let rows = self.rows_of(model);
        let pinned = rows.iter().any(|row| row.pin.is_some());
        (!pinned).then(|| {
            format!("model {model} has no pin in the config, so it may answer with any weights")
        })
    }

    /// The rows of every model at every server.
    pub(super) fn models(&self) -> Vec<serde_json::Value> {
        self.weights.rows().iter().map(model_view).collect()
    }

    /// The rows of one model.
    fn rows_of(&self, model: &str) -> Vec<ModelRow> {
        let mut rows = self.weights.rows();
        rows.retain(|row| *row.model == *model);
        rows
    }
}

/// A model at a server, as a row of a reply.
fn model_view(row: &ModelRow) -> serde_json::Value {
    serde_json::json!({
        "model": &*row.model,
        "upstream": &*row.upstream,
        "digest": Some(&row.digest.value).filter(|value| !value.is_empty()),
        "source": row.digest.source,
        "pin": row.pin,
        "accepted": Some(&row.accepted).filter(|accepted| !accepted.is_empty()),
    })
}
