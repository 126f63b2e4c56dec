//! The filter for a streamed answer. It reads the usage and filters texts and tool calls. It
//! removes the usage chunk that only the gateway requested.

use std::sync::Arc;

use super::event::StreamEvent;
use super::framing::Framing;
use super::framing::ndjson::{LineSplitter, append_lines};
use super::framing::sse::{EVENT_BYTES_MAX, EventLines, Splitter, TooLong};
use super::progress::Progress;
use super::redact::{Redacted, Redactor, Unsearchable};
use super::refused_call::SentTurn;
use super::repair;
use super::response_text::{StreamTexts, TextFilter};
use super::tools::{self, Gate, Passage, Tools};
use super::tree::TreeMemory;
use super::unreadable::Unreadable;
use super::usage::{Extent, Heard};
use super::{Dialect, Operation};

/// The faults of a stream that end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// An event is longer than the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The stream cannot be searched for the gateway's own secrets.
    #[error(transparent)]
    Unsearchable(#[from] Unsearchable),
    /// The content of an event cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// An event has lines that clients interpret in different ways.
    #[error("an event has lines that are no fields")]
    Lines,
    /// The name of an event differs from the type in its data. Some clients use the name and ignore
    /// events with an unknown name. Other clients use the data.
    #[error("an event's name is not what its data say it is")]
    Name,
    /// The stream is longer than the request's cap on output tokens allows.
    #[error("the stream has more bytes than the cap on its tokens allows")]
    Endless,
    /// The tool calls of the stream cannot be checked.
    #[error(transparent)]
    Tools(#[from] tools::ToolCallFault),
}

/// Forwards a stream of server-sent events. The bytes stay the same, with two exceptions: the texts
/// that `P` changes, and the usage event that the caller did not request.
///
/// In a dialect with lines of JSON, each line passes the filters as the data of an event.
pub struct StreamFilter<P> {
    /// Splits the bytes into lines, in a dialect with lines.
    lines: Option<LineSplitter>,
    /// Splits the bytes into events.
    splitter: Splitter,
    /// The number of bytes so far.
    taken: u64,
    /// Holds events while a tool call is incomplete.
    gate: Gate,
    /// The state for the end of a stream with a refused tool call.
    turn: SentTurn,
    /// The texts of the stream.
    texts: StreamTexts,
    /// The filters of texts and tool calls.
    filters: P,
    /// The progress of the stream.
    watch: Watch,
    /// The memory for the tree of the next event.
    memory: TreeMemory,
    /// The redaction of secrets, if there are any.
    redacted: Option<Redacted>,
    /// The maximum size of the stream.
    extent: Extent,
}

/// The state that [`StreamFilter`] reads from each event.
struct Watch {
    /// The dialect of the stream.
    dialect: Dialect,
    /// Whether the caller requested usage.
    usage_asked: bool,
    /// The state so far.
    progress: Progress,
}

impl<P: TextFilter + Tools> StreamFilter<P> {
    /// A filter for the answer to `operation`. Its texts and tool calls pass `filters`.
    /// `usage_asked` is true when the caller itself requested usage.
    #[must_use]
    pub fn new(operation: Operation, usage_asked: bool, filters: P) -> Self {
        let lines = match operation.dialect().framing() {
            Framing::Events => None,
            Framing::Lines => Some(LineSplitter::within(EVENT_BYTES_MAX)),
        };
        Self {
            lines,
            splitter: Splitter::default(),
            taken: 0,
            gate: Gate::default(),
            turn: SentTurn::new(operation.dialect()),
            texts: StreamTexts::new(operation.dialect().framing()),
            filters,
            watch: Watch {
                dialect: operation.dialect(),
                usage_asked,
                progress: Progress::default(),
            },
            memory: TreeMemory::default(),
            redacted: None,
            extent: Extent { text: u64::MAX, bytes: u64::MAX },
        }
    }

    /// The same filter, which also redacts the gateway's own secrets in its output.
    #[must_use]
    pub fn redacting(mut self, redactor: Arc<Redactor>) -> Self {
        self.redacted = Some(Redacted::new(redactor));
        self
    }

    /// The same filter with a maximum size.
    #[must_use]
    pub const fn within(mut self, extent: Extent) -> Self {
        self.extent = extent;
        self
    }

    /// The same filter for events of at most `limit` bytes.
    #[must_use]
    pub fn within_events(mut self, limit: usize) -> Self {
        if self.lines.is_some() {
            self.lines = Some(LineSplitter::within(limit));
            // A line becomes an event with more bytes, and is within the limit already.
            self.splitter = Splitter::within(usize::MAX);
        } else {
            self.splitter = Splitter::within(limit);
        }
        self
    }

    /// Takes the next bytes and appends the output to `out`. An incomplete event is held.
    ///
    /// Returns the offset in `out` where the dialect's last event begins, if it has come.
    ///
    /// # Errors
    /// When an event is too long or cannot be read. Nothing of that event was appended, and the
    /// stream must end.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
        let Some(lines) = &mut self.lines else { return self.events(bytes, out) };
        let (events, mut ready) = (lines.push(bytes)?, Vec::new());
        let last = self.events(&events, &mut ready)?;
        // Only whole events are ready, so each part is whole lines.
        let (before, end) = ready.split_at(last.unwrap_or(ready.len()));
        append_lines(before, out);
        let place = last.map(|_| out.len());
        append_lines(end, out);
        Ok(place)
    }

    /// Takes the next bytes of events. The result is as in [`StreamFilter::push`].
    fn events(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
        let Some(mut redacted) = self.redacted.take() else { return self.filter(bytes, out) };
        let mut ready = Vec::with_capacity(bytes.len());
        let last = self.filter(bytes, &mut ready)?;
        // The redactor holds back a possible beginning of a secret. It is flushed before the last
        // event, so that the returned offset is exactly where that event begins.
        let (before, end) = ready.split_at(last.unwrap_or(ready.len()));
        redacted.push(before, out)?;
        let place = last.map(|_| {
            redacted.finish(out);
            out.len()
        });
        redacted.push(end, out)?;
        if place.is_some() {
            redacted.finish(out);
        }
        self.redacted = Some(redacted);
        Ok(place)
    }

    /// Splits `bytes` into events and filters each one. The result is as in [`StreamFilter::push`],
    /// before the redaction.
    fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
        // Counts the bytes before they are parsed. A server without an end cannot use more than the
        // extent, even when no event is complete.
        self.taken += bytes.len() as u64;
        if self.taken > self.extent.bytes {
            return Err(StreamFault::Endless);
        }
        // Taken out, because the closure also borrows `self`.
        let mut splitter = std::mem::take(&mut self.splitter);
        let (mut last, mut read) = (None, Ok(()));
        let split = splitter.push(bytes, |event| {
            // After a fault no further event of the same bytes is read.
            if read.is_err() {
                return;
            }
            match self.event(event, out) {
                Ok(place) if self.watch.progress.ended => {
                    // If a server sends its last event several times, the first one counts.
                    last.get_or_insert(place);
                }
                Ok(_) => {}
                Err(fault) => read = Err(fault),
            }
        });
        self.splitter = splitter;
        split?;
        read?;
        // The text has its own limit: the cap on tokens times `answer_bytes_per_token`.
        if self.watch.progress.text > self.extent.text {
            return Err(StreamFault::Endless);
        }
        Ok(last)
    }

    /// Parses an event once for all filters and appends the output. Returns the offset in `out`
    /// where the event begins.
    fn event(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        let repaired = repair::event(self.watch.dialect, bytes);
        let lines = EventLines::read(repaired.as_deref().unwrap_or(bytes));
        // A client that splits the lines differently would see an event that no filter has checked.
        if !lines.is_plain() {
            return Err(StreamFault::Lines);
        }
        let event = StreamEvent::read(&lines, std::mem::take(&mut self.memory));
        // One parsed tree serves all filters, so they cannot disagree about the event.
        let (start, was_ended) = (out.len(), self.watch.progress.ended);
        let was_blocked = self.filters.ended();
        let mut begun = self.passed(&event, out);
        // A filter may end the answer with text that it held. Then this event is the first that is
        // not sent, because it may be the last one of the dialect.
        if !was_blocked && self.filters.ended() {
            out.truncate(start);
            begun = begun.map(|_| start);
        }
        if self.watch.progress.ended
            && !was_ended
            && let Ok(place) = &mut begun
        {
            *place = self.comment(*place, out);
        }
        // The memory of the tree is used again for the next event, also after a fault.
        self.memory = event.into_memory();
        begun
    }

    /// Inserts a comment before the last event at `place`, if filters have changed texts. Returns
    /// the new place of that event.
    fn comment(&self, place: usize, out: &mut Vec<u8>) -> usize {
        let changes = self.filters.changes();
        if changes == 0 || place == out.len() {
            return place;
        }
        // Clients ignore lines that begin with a colon (WHATWG HTML section 9.2.6).
        let comment = format!(": token-shield-removed: {changes}\n\n").into_bytes();
        let end = place + comment.len();
        out.splice(place..place, comment);
        end
    }

    /// Checks the name of an event, then passes it to the filters. The result is as in
    /// [`StreamFilter::event`].
    fn passed(&mut self, event: &StreamEvent<'_>, out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        if let Some(data) = event.tree()
            && !self.watch.dialect.is_named(event.name(), data)
        {
            return Err(StreamFault::Name);
        }
        let begun = out.len();
        // A client may join a text after the last line with the texts before it, which have ended.
        if self.lines.is_some() && self.watch.progress.ended {
            return Ok(begun);
        }
        // A filter that has ended the answer suppresses every later event.
        // `passes` also reads the usage of a suppressed chunk. The record needs its numbers.
        if self.filters.ended() || !self.watch.passes(event) {
            return Ok(begun);
        }
        if self.filters.any() {
            // Tool calls are checked first. Their pieces are held until the call is complete.
            return self.judged(event, out);
        }
        self.texts.read(event, &mut self.filters, out)?;
        Ok(begun)
    }

    /// Appends an event after the held events of tool calls that are now released. Returns the
    /// offset where the event begins.
    fn judged(&mut self, event: &StreamEvent<'_>, out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        let mut released = Vec::new();
        let next = self
            .gate
            .event(event, &mut self.filters, &mut |event| released.push(event.to_vec()))?;
        let mut begun = out.len();
        for event in released {
            // A released event can make a text filter end the answer.
            if self.filters.ended() {
                return Ok(begun);
            }
            begun = out.len();
            let lines = EventLines::read(&event);
            let event = StreamEvent::read(&lines, TreeMemory::default());
            self.turn.read(&event, true);
            self.texts.read(&event, &mut self.filters, out)?;
        }
        self.turn.read(event, next == Passage::PassedOn);
        if next == Passage::PassedOn && !self.filters.ended() {
            begun = out.len();
            self.texts.read(event, &mut self.filters, out)?;
        }
        Ok(begun)
    }

    /// Handles the end of the stream: appends everything that was held.
    ///
    /// # Errors
    /// When the held bytes cannot be read.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let Some(lines) = &mut self.lines else { return self.finish_events(out) };
        // A client may parse a last line without its line feed. So it is filtered too.
        let (rest, mut ready) = (lines.rest(), Vec::new());
        self.events(&rest, &mut ready)?;
        self.finish_events(&mut ready)?;
        append_lines(&ready, out);
        Ok(())
    }

    /// Handles the end of the events. The result is as in [`StreamFilter::finish`].
    fn finish_events(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let Some(mut redacted) = self.redacted.take() else { return self.rest(out) };
        let mut ready = Vec::new();
        let rest = self.rest(&mut ready);
        if rest.is_ok() {
            redacted.push(&ready, out)?;
            redacted.finish(out);
        }
        // The end of an answer with a refused call comes after this, and is redacted too.
        self.redacted = Some(redacted);
        rest
    }

    /// The events that end the answer with `text` in place of a refused tool call; `None` if the
    /// dialect has no such end. Text that was held comes first.
    #[must_use]
    pub fn end_with(&mut self, text: &str) -> Option<Vec<u8>> {
        let mut held = Vec::new();
        self.texts.finish(&mut self.filters, &mut held);
        // These events repeat members of the server's first event, so they are redacted too.
        held.extend_from_slice(&self.turn.end(text)?);
        if let Some(redacted) = &mut self.redacted {
            let mut out = Vec::new();
            redacted.push(&held, &mut out).ok()?;
            redacted.finish(&mut out);
            held = out;
        }
        if self.lines.is_none() {
            return Some(held);
        }
        let mut lines = Vec::new();
        append_lines(&held, &mut lines);
        Some(lines)
    }

    /// Filters the rest of an incomplete event and releases the held events and texts.
    fn rest(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        // A client may parse a last event without its empty line. So it is filtered too.
        let rest = self.splitter.rest();
        if self.filters.ended() {
            return Ok(());
        }
        self.event(&rest, out)?;
        if self.filters.any() {
            let mut released = Vec::new();
            self.gate.finish(&mut self.filters, &mut |event| released.push(event.to_vec()));
            for event in released {
                if !self.filters.ended() {
                    self.texts.event(&event, &mut self.filters, out)?;
                }
            }
        }
        // The texts come last: the events above may still add to them.
        if !self.filters.ended() {
            self.texts.finish(&mut self.filters, out);
        }
        Ok(())
    }

    /// The number of bytes that were taken so far.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The filters of texts and tool calls.
    #[must_use]
    pub const fn filters(&self) -> &P {
        &self.filters
    }

    /// The usage that the stream has reported so far, and the amount of text.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let progress = &self.watch.progress;
        // If the stream ends early, these bytes are counted in addition to the last usage.
        let since_usage = progress.text - progress.text_at_usage;
        Heard {
            usage: progress.usage,
            text: progress.text,
            since_usage,
            complete: progress.is_complete(),
        }
    }

    /// True once the stream is complete: its last event, a finish reason for each choice, or an
    /// error of the server has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.watch.progress.is_complete()
    }

    /// True once the server has reported an error in the stream.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.watch.progress.failed
    }

    /// The number of the last event that was sent, if the events have numbers.
    #[must_use]
    pub const fn last_number(&self) -> Option<u64> {
        self.texts.number()
    }

    /// True once the dialect's last event (`[DONE]`, `message_stop`) has passed.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.watch.progress.ended
    }
}

impl Watch {
    /// Reads an event. Returns false when the event must not reach the caller.
    fn passes(&mut self, event: &StreamEvent<'_>) -> bool {
        self.dialect.follow(&mut self.progress, event) || self.usage_asked
    }
}
