//! Joins the events of a response to one whole answer. The last event repeats it.

use std::collections::BTreeMap;

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, own, own_object};

/// The maximum number of items of one answer.
const ITEMS_MAX: u64 = 1_024;

/// The events of a response so far.
#[derive(Default)]
pub(in crate::model) struct JoinedResponse {
    /// The items that are complete, by index.
    items: BTreeMap<u64, Value<'static>>,
    /// The response of the last event.
    response: Option<Object<'static>>,
}

impl JoinedResponse {
    /// Takes the data of the next event.
    ///
    /// # Errors
    /// When an item has no index, or two have the same.
    pub(in crate::model) fn take(&mut self, event: &Object<'_>) -> Result<(), Unlike> {
        match event.text("type") {
            Some("response.output_item.done") => {
                let index = match event.get("output_index") {
                    Some(index) => index.as_u64().filter(|index| *index < ITEMS_MAX),
                    None => Some(self.items.len() as u64),
                };
                let (Some(index), Some(item)) = (index, event.get("item")) else {
                    return Err(Unlike::Odd("an item ends in an odd way"));
                };
                if self.items.insert(index, own(item)).is_some() {
                    return Err(Unlike::Odd("an item ends twice"));
                }
            }
            Some("response.completed" | "response.incomplete") => {
                let Some(response) = event.object("response") else {
                    return Err(Unlike::Odd("the last event has no response"));
                };
                if self.response.replace(own_object(response)).is_some() {
                    return Err(Unlike::Odd("a response ends twice"));
                }
            }
            // The other events add nothing that the last one does not repeat.
            Some(kind) if super::texts::is_event(kind) => {}
            Some(_) | None => return Err(Unlike::Odd("an event is not joined")),
        }
        Ok(())
    }

    /// The whole answer.
    ///
    /// # Errors
    /// When the last event is missing.
    pub(in crate::model) fn document(self) -> Result<Object<'static>, Unlike> {
        let mut response = self.response.ok_or(Unlike::Cut)?;
        // Some servers leave the items out of the last event.
        if response.array("output").is_none_or(<[Value<'_>]>::is_empty) {
            response.set("output", Value::Array(self.items.into_values().collect()));
        }
        Ok(response)
    }
}
