//! Holds the events of a stream back while a call that is judged is not whole.

use crate::model::dialect::calls::CallReaders;
use crate::model::event::StreamEvent;

use super::calls::StreamCalls;
use super::names::exact_names;
use super::{HELD_MAX, ToolCallFault, Tools};

/// What an event costs beside its bytes.
const EVENT_COST: usize = 8;

/// Whether an event is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Passage {
    /// It is passed on.
    PassedOn,
    /// It is held back.
    Held,
    /// The answer ends before it.
    Ends,
}

/// Holds events back while a call that is judged is not whole.
#[derive(Default)]
pub(in crate::model) struct Gate {
    calls: StreamCalls,
    readers: CallReaders,
    queue: Vec<u8>,
    /// Where each event of the queue ends.
    ends: Vec<usize>,
}

impl Gate {
    /// Decides whether an event is passed on. Hands out the events before it that were held and are now released, in order.
    ///
    /// # Errors
    /// When the stream cannot be looked through; nothing of this event is passed on then.
    pub(in crate::model) fn event(
        &mut self,
        event: &StreamEvent<'_>,
        tools: &mut dyn Tools,
        released: &mut dyn FnMut(&[u8]),
    ) -> Result<Passage, ToolCallFault> {
        let passes = match event.tree() {
            None => !event.is_done() || self.calls.end(|_| true, tools),
            Some(tree) => {
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
        if self.calls.is_holding() {
            self.queue.extend_from_slice(event.bytes());
            self.ends.push(self.queue.len());
            let bytes = self.queue.len() + self.ends.len() * EVENT_COST;
            return if bytes > HELD_MAX { Err(ToolCallFault::TooMuch) } else { Ok(Passage::Held) };
        }
        self.release(released);
        Ok(Passage::PassedOn)
    }

    /// The stream is over: what was not whole is judged as it is.
    pub(in crate::model) fn finish(
        &mut self,
        tools: &mut dyn Tools,
        ready: &mut dyn FnMut(&[u8]),
    ) -> bool {
        let passes = self.calls.end(|_| true, tools);
        if passes {
            self.release(ready);
        }
        passes
    }

    fn release(&mut self, ready: &mut dyn FnMut(&[u8])) {
        let (queue, mut from) = (std::mem::take(&mut self.queue), 0);
        for end in std::mem::take(&mut self.ends) {
            ready(queue.get(from..end).unwrap_or_default());
            from = end;
        }
    }
}
