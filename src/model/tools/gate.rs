//! Holds back the events of a stream while a checked tool call is incomplete.

use crate::model::dialect::calls::CallReaders;
use crate::model::event::StreamEvent;
use crate::model::ranges::part;

use super::calls::StreamCalls;
use super::names::exact_names;
use super::{HELD_MAX, ToolCallFault, Tools};

/// The memory cost of an event in addition to its bytes.
const EVENT_COST: usize = 8;

/// The decision about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Passage {
    /// The event is forwarded.
    PassedOn,
    /// The event is held back.
    Held,
    /// The answer must end before the event.
    Ends,
}

/// Holds back the events of a stream while a checked tool call is incomplete.
#[derive(Default)]
pub(in crate::model) struct Gate {
    /// The calls so far.
    calls: StreamCalls,
    /// The readers of the dialects.
    readers: CallReaders,
    /// The bytes of the held events.
    queue: Vec<u8>,
    /// The offset in the queue where each event ends.
    ends: Vec<usize>,
}

impl Gate {
    /// Decides whether an event is forwarded. Calls `released` for the earlier events that are no
    /// longer held, in order.
    ///
    /// # Errors
    /// When the stream cannot be searched. Then no byte of this event is forwarded.
    pub(in crate::model) fn event(
        &mut self,
        event: &StreamEvent<'_>,
        tools: &mut dyn Tools,
        released: &mut dyn FnMut(&[u8]),
    ) -> Result<Passage, ToolCallFault> {
        let passes = match event.tree() {
            // `[DONE]` ends all calls. Other events without JSON, such as pings, contain no calls.
            None => !event.is_done() || self.calls.end(|_| true, tools),
            Some(tree) => {
                // Clients must not read another document than the one that is checked here.
                tree.strict()?;
                exact_names(tree)?;
                let view = tree.view();
                !view.is_object()
                    || self.readers.read(&mut self.calls, view, event.name(), tools)?
            }
        };
        if !passes {
            return Ok(Passage::Ends);
        }
        // All later events are held too, so that the order of the stream stays the same.
        if self.calls.is_holding() {
            self.queue.extend_from_slice(event.bytes());
            self.ends.push(self.queue.len());
            let bytes = self.queue.len() + self.ends.len() * EVENT_COST;
            return if bytes > HELD_MAX { Err(ToolCallFault::TooMuch) } else { Ok(Passage::Held) };
        }
        self.release(released);
        Ok(Passage::PassedOn)
    }

    /// Handles the end of the stream: incomplete calls are checked as they are. Returns false where
    /// the answer must end.
    pub(in crate::model) fn finish(
        &mut self,
        tools: &mut dyn Tools,
        ready: &mut dyn FnMut(&[u8]),
    ) -> bool {
        // A client may execute an incomplete call when the stream ends.
        let passes = self.calls.end(|_| true, tools);
        if passes {
            self.release(ready);
        }
        passes
    }

    /// Calls `ready` for the held events, in order.
    fn release(&mut self, ready: &mut dyn FnMut(&[u8])) {
        let (queue, mut from) = (std::mem::take(&mut self.queue), 0);
        for end in std::mem::take(&mut self.ends) {
            ready(part(&queue, from..end));
            from = end;
        }
    }
}
