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
        let refuse = |why| Err(ControlFault::Model(model.to_owned(), why));
        let rows = self.rows_of(model);
        let known: Vec<&ModelRow> =
            rows.iter().filter(|row| row.digest.source != UNKNOWN).collect();
        let fresh = known.iter().filter(|row| {
            row.pin.as_ref() != Some(&row.digest.value) && !row.accepted.contains(&row.digest.value)
        });
        // Several servers may have the same digest. It is recorded once.
        let fresh: BTreeSet<&str> = fresh.map(|row| row.digest.value.as_str()).collect();
        if rows.is_empty() {
            return refuse("it is not a [[model]] of the config");
        }
        if known.is_empty() {
            return refuse(
                "its digest is not known yet, so there is nothing to accept; token-shield model \
                    list shows it later",
            );
        }
        if fresh.is_empty() {
            return refuse("its present weights are pinned or already accepted");
        }
        let event = |digest: &str| Event::ModelAccepted {
            model: model.to_owned(),
            digest: digest.to_owned(),
            reason: reason.to_owned(),
        };
        Ok(fresh.into_iter().map(event).collect())
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
        self.weights.rows().into_iter().filter(|row| *row.model == *model).collect()
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
