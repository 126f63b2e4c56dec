//! Conversion of a stream's events to one whole answer.

use std::borrow::Cow;

use crate::json::{self, Value};
use crate::model::Operation;
use crate::model::event::StreamEvent;
use crate::model::framing::Framing;
use crate::model::framing::ndjson::as_events;
use crate::model::framing::sse::{EventLines, Splitter};
use crate::model::progress::Progress;
use crate::model::tree::TreeMemory;

use super::{Unlike, object};

/// The document with the content of the events. Only events that all clients join in the same
/// manner are joined: texts, calls, finish reasons and usage.
///
/// # Errors
/// When there are other events, or the events end before the answer is complete.
pub fn joined(operation: Operation, events: &[u8]) -> Result<Vec<u8>, Unlike> {
    let dialect = operation.dialect();
    let events = match dialect.framing() {
        Framing::Events => Cow::Borrowed(events),
        Framing::Lines => Cow::Owned(as_events(events)),
    };
    let (mut splitter, mut all) = (Splitter::default(), Vec::new());
    splitter
        .push(&events, |event| all.push(event.to_vec()))
        .map_err(|_| Unlike::Odd("an event is too long"))?;
    // The last event may have no empty line after it.
    all.push(splitter.rest());
    let (mut progress, mut joiner) = (Progress::default(), dialect.joiner(operation));
    for event in &all {
        let lines = EventLines::read(event);
        let event = StreamEvent::read(&lines, TreeMemory::default());
        dialect.follow(&mut progress, &event);
        // The caller would take a joined answer with an error in it for a complete one.
        if progress.failed {
            return Err(Unlike::Odd("the server tells of an error"));
        }
        if let Some(data) = event.tree() {
            joiner.take(&object(data.json())?)?;
        }
    }
    // A connection can close early. The rest would look like a shorter, complete answer.
    if !progress.is_complete() {
        return Err(Unlike::Cut);
    }
    let mut out = Vec::new();
    json::write(&Value::Object(joiner.document()?), &mut out);
    Ok(out)
}
