//! The declared part of a call to a model.

use std::sync::Arc;

use crate::json::{Object, Value};

use super::form::FormPart;
use super::route::{CapPlace, DeclaredRoute};

/// Members that say how many answers a server makes.
const COUNTS: [&str; 4] = ["n", "best_of", "n_cmpl", "num_return_sequences"];

/// What a body has beside its members.
pub(super) enum Content<'b> {
    /// The members are all of it.
    Json,
    /// The parts of a form, with the fields.
    Form(Vec<FormPart<'b>>),
    /// Bytes of a media type.
    Bytes {
        /// The bytes.
        bytes: &'b [u8],
        /// The media type, as the declaration has it.
        media_type: String,
    },
    /// No body.
    None,
}

/// The declared part of a call.
pub(in crate::model) struct DeclaredBody<'b> {
    /// The route.
    pub(super) route: Arc<DeclaredRoute>,
    /// The model's name as the caller wrote it, or as the config names it.
    pub(super) model: String,
    /// What is forwarded beside the members.
    pub(super) content: Content<'b>,
    /// The body as it came.
    pub(in crate::model) received: &'b [u8],
}

impl DeclaredBody<'_> {
    /// The route.
    pub(in crate::model) const fn route(&self) -> &Arc<DeclaredRoute> {
        &self.route
    }

    /// The model's name.
    pub(in crate::model) fn model(&self) -> &str {
        &self.model
    }

    /// The number of answers that the server makes: the largest count, times the prompts.
    pub(in crate::model) fn choices(&self, object: &Object<'_>) -> u64 {
        let mut most = 1;
        // TGI has its counts in `parameters`.
        let nested = object.iter().filter_map(|(_, value)| value.as_object());
        for holder in std::iter::once(object).chain(nested) {
            for name in COUNTS {
                most = most.max(holder.number(name).unwrap_or(1));
            }
        }
        let mut prompts = 1_u64;
        for name in &self.route.prompts {
            // An array of numbers is one prompt in tokens.
            if let Some(items) = object.array(name)
                && !items.iter().all(|item| matches!(item, Value::Number(_)))
            {
                prompts = prompts.max(items.len() as u64);
            }
        }
        most.saturating_mul(prompts)
    }
}

/// The value at the place of a cap.
pub(super) fn cap_at<'o, 'b>(object: &'o Object<'b>, place: &CapPlace) -> Option<&'o Value<'b>> {
    let holder = match &place.object {
        Some(name) => object.object(name)?,
        None => object,
    };
    // `null` is the same as a missing field.
    let value = holder.get(&place.name)?;
    (*value != Value::Null).then_some(value)
}
