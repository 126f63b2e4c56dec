//! The walk over a response of the Responses dialect, and over its events.

use super::{Member, Walk};
use crate::model::dialect::texts::{is_delta, is_event};
use crate::model::response_text::number;
use crate::model::response_text::place::EventNumber;
use crate::model::unreadable::Unreadable;
use crate::model::values::Values;

/// The indexes of items and parts are below this number.
const INDEX_MAX: u64 = 1 << 20;

impl<'j, D: Values<'j>> Walk<'j, '_, D> {
    /// Prepares the walk over a response or one of its events.
    pub(super) fn respond(&mut self, all: &[Member<'j, D::Value>]) -> Result<(), Unreadable> {
        let document = self.document;
        for (name, value) in all {
            let raw = document.raw(*value).trim_ascii();
            match *name {
                b"object" => self.response |= raw == b"\"response\"",
                b"sequence_number" => {
                    if let Some(value) = number(raw) {
                        let (from, to) = self.place(raw);
                        self.number = Some(EventNumber { from, to, value, changed: false });
                    }
                }
                _ => {}
            }
        }
        let Some(kind) = self.kind.filter(|kind| is_event(kind)) else { return Ok(()) };
        self.response = true;
        if self.whole {
            return Ok(());
        }
        self.choice = self.sources.choice_of(kind);
        // Only deltas of a text can come in another order than their items.
        if is_delta(kind) {
            let (mut item, mut within) = (0, 0);
            for (name, value) in all {
                let index = match *name {
                    b"output_index" => &mut item,
                    b"content_index" | b"summary_index" => &mut within,
                    _ => continue,
                };
                let value = number(document.raw(*value)).filter(|index| *index < INDEX_MAX);
                *index = value.ok_or(Unreadable::Index)?;
            }
            self.block = Some(item * INDEX_MAX + within);
        }
        Ok(())
    }
}
