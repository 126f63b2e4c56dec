//! An answer's stream on its way to the caller: usage is read, and the chunk that only the gateway asked for is taken out.

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

/// What a stream can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// An event is too long to be looked at.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// It cannot be searched for the gateway's own secrets.
    #[error(transparent)]
    Unsearchable(#[from] Unsearchable),
    /// What it says cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It has lines that readers take for different things.
    #[error("an event has lines that are no fields")]
    Lines,
    /// Some readers go by an event's name, and leave out those that they do not know; others go by what its data say.
    #[error("an event's name is not what its data say it is")]
    Name,
    /// It has more than the request's cap of tokens can be.
    #[error("the stream has more bytes than the cap on its tokens allows")]
    Endless,
    /// Its tool calls cannot be judged.
    #[error(transparent)]
    Tools(#[from] tools::ToolCallFault),
}

/// Passes a stream of server-sent events on, byte for byte but for the texts that `P` changes, and one event: the usage that the caller
/// did not ask for.
pub struct StreamFilter<P> {
    splitter: Splitter,
    taken: u64,
    gate: Gate,
    texts: StreamTexts,
    filters: P,
    watch: Watch,
    memory: TreeMemory,
    redacted: Option<Redacted>,
    extent: Extent,
}

/// What is watched for.
struct Watch {
    dialect: Dialect,
    usage_asked: bool,
    progress: Progress,
}

impl<P: TextFilter + Tools> StreamFilter<P> {
    /// A filter for the answer to `operation`, whose texts and tool calls pass `filters`. `usage_asked` says whether the caller asked for usage itself.
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

    /// The same, with the gateway's own secrets taken out of whatever goes on.
    #[must_use]
    pub fn redacting(mut self, redactor: Arc<Redactor>) -> Self {
        self.redacted = Some(Redacted::new(redactor));
        self
    }

    /// The same, of no more than that extent.
    #[must_use]
    pub const fn within(mut self, extent: Extent) -> Self {
        self.extent = extent;
        self
    }

    /// Takes the next bytes and appends to `out` what goes on; an event that is not complete yet is held. Gives the place in `out` where
    /// the event begins with which the stream says that it is over.
    ///
    /// # Errors
    /// When an event is too long or cannot be read; nothing of it was passed on, and the stream cannot go on.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
        let Some(mut redacted) = self.redacted.take() else { return self.filter(bytes, out) };
        let mut ready = Vec::with_capacity(bytes.len());
        let last = self.filter(bytes, &mut ready)?;
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

    fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, StreamFault> {
        self.taken += bytes.len() as u64;
        if self.taken > self.extent.bytes {
            return Err(StreamFault::Endless);
        }
        let mut splitter = std::mem::take(&mut self.splitter);
        let (mut last, mut read) = (None, Ok(()));
        let split = splitter.push(bytes, |event| {
            if read.is_err() {
                return;
            }
            match self.event(event, out) {
                Ok(place) if self.watch.progress.ended => {
                    last.get_or_insert(place);
                }
                Ok(_) => {}
                Err(fault) => read = Err(fault),
            }
        });
        self.splitter = splitter;
        split?;
        read?;
        if self.watch.progress.text > self.extent.text {
            return Err(StreamFault::Endless);
        }
        Ok(last)
    }

    /// Reads an event once, for all who look into it, and appends what goes on. Gives the place where the event begins there.
    fn event(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        let lines = EventLines::read(bytes);
        if !lines.is_plain() {
            return Err(StreamFault::Lines);
        }
        let event = StreamEvent::read(&lines, std::mem::take(&mut self.memory));
        let begun = self.passed(&event, out);
        self.memory = event.into_memory();
        begun
    }

    fn passed(&mut self, event: &StreamEvent<'_>, out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        if event.tree().is_some_and(|data| !self.watch.dialect.is_named(event.name(), data)) {
            return Err(StreamFault::Name);
        }
        let begun = out.len();
        if self.filters.ended() || !self.watch.passes(event) {
            return Ok(begun);
        }
        if self.filters.any() {
            return self.judged(event, out);
        }
        self.texts.read(event, &mut self.filters, out)?;
        Ok(begun)
    }

    /// An event, after what was held of tool calls; gives the place where it begins.
    fn judged(&mut self, event: &StreamEvent<'_>, out: &mut Vec<u8>) -> Result<usize, StreamFault> {
        let mut released = Vec::new();
        let next = self
            .gate
            .event(event, &mut self.filters, &mut |event| released.push(event.to_vec()))?;
        let mut begun = out.len();
        for event in released {
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

    /// The stream has ended: appends what was held.
    ///
    /// # Errors
    /// When what was held cannot be read.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let Some(mut redacted) = self.redacted.take() else { return self.rest(out) };
        let mut ready = Vec::new();
        self.rest(&mut ready)?;
        redacted.push(&ready, out)?;
        redacted.finish(out);
        Ok(())
    }

    fn rest(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
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
        if !self.filters.ended() {
            self.texts.finish(&mut self.filters, out);
        }
        Ok(())
    }

    /// Bytes that were taken so far.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The filters.
    #[must_use]
    pub const fn filters(&self) -> &P {
        &self.filters
    }

    /// What the stream has reported and brought so far.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let progress = &self.watch.progress;
        let since_usage = progress.text - progress.text_at_usage;
        Heard {
            usage: progress.usage,
            text: progress.text,
            since_usage,
            complete: progress.is_complete(),
        }
    }

    /// True once the stream is complete: its last event or each choice's finish reason has come, or the server's own error.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.watch.progress.is_complete()
    }

    /// True once the server itself has reported an error in the stream.
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
    /// Reads an event; false when it must not reach the caller.
    fn passes(&mut self, event: &StreamEvent<'_>) -> bool {
        self.dialect.follow(&mut self.progress, event) || self.usage_asked
    }
}
