//! The filter for a streamed answer. It reads the usage and filters texts and tool calls. It
//! removes the usage chunk that only the gateway requested.

use std::sync::Arc;

use super::event::StreamEvent;
use super::framing::sse::{EventLines, Splitter, TooLong};
use super::progress::Progress;
use super::redact::{Redacted, Redactor, Unsearchable};
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
pub struct StreamFilter<P> {
    /// Splits the bytes into events.
    splitter: Splitter,
    /// The number of bytes so far.
    taken: u64,
    /// Holds events while a tool call is incomplete.
    gate: Gate,
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
        Self {
            splitter: Splitter::default(),
            taken: 0,
            gate: Gate::default(),
            texts: StreamTexts::default(),
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

    /// Takes the next bytes and appends the output to `out`. An incomplete event is held.
    ///
    /// Returns the offset in `out` where the dialect's last event begins, if it has come.
    ///
    /// # Errors
    /// When an event is too long or cannot be read. Nothing of that event was appended, and the
    /// stream must end.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
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
        let lines = EventLines::read(bytes);
        // A client that splits the lines differently would see an event that no filter has checked.
        if !lines.is_plain() {
            return Err(StreamFault::Lines);
        }
        let event = StreamEvent::read(&lines, std::mem::take(&mut self.memory));
        // One parsed tree serves all filters, so they cannot disagree about the event.
        let begun = self.passed(&event, out);
        // The memory of the tree is used again for the next event, also after a fault.
        self.memory = event.into_memory();
        begun
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
            self.texts.event(&event, &mut self.filters, out)?;
        }
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
        let Some(mut redacted) = self.redacted.take() else { return self.rest(out) };
        let mut ready = Vec::new();
        self.rest(&mut ready)?;
        redacted.push(&ready, out)?;
        redacted.finish(out);
        Ok(())
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
