//! An answer's stream on its way to the caller: usage is read, and the chunk that only the gateway asked for is taken out.

use memchr::memmem::Finder;

use super::peek::member;
use super::prose::{self, Prose, Unreadable};
use super::sse::{self, Splitter, TooLong};
use super::tools::{self, Gate, Tools};
use super::usage::{self, Usage};
use super::{Dialect, Operation};
use crate::seeded::{Seed, has};

/// What a stream can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An event is too long to be looked at.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// What it says cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It has lines that readers take for different things.
    #[error("an event has lines that are no fields")]
    Lines,
    /// Some readers go by an event's name, and leave out those that they do not know; others go by what its data say.
    #[error("an event's name is not what its data say it is")]
    Name,
    /// Its tool calls cannot be judged.
    #[error(transparent)]
    Tools(#[from] tools::Fault),
}

/// Passes a stream of server-sent events on, byte for byte but for the texts that `P` changes, and one event: the usage that the caller
/// did not ask for.
pub struct StreamFilter<P> {
    splitter: Splitter,
    taken: u64,
    gate: Gate,
    texts: prose::Stream,
    prose: P,
    watch: Watch,
    usage_word: Finder<'static>,
    end_word: Finder<'static>,
}

/// Whether the answer has ended before its end: nothing more goes on.
fn ended(tools: &impl Tools) -> bool {
    tools.ended() && !has(Seed::BlockedGoesOn)
}

/// What is watched for.
struct Watch {
    dialect: Dialect,
    usage_asked: bool,
    usage: Option<Usage>,
    ended: bool,
}

impl<P: Prose + Tools> StreamFilter<P> {
    /// A filter for the answer to `operation`, whose texts `prose` reads. `usage_asked` says whether the caller asked for usage itself.
    #[must_use]
    pub fn new(operation: Operation, usage_asked: bool, prose: P) -> Self {
        let dialect = operation.dialect();
        let end_word = match dialect {
            Dialect::OpenAi => "[DONE]",
            Dialect::Anthropic => "message_stop",
        };
        Self {
            splitter: Splitter::default(),
            taken: 0,
            gate: Gate::default(),
            texts: prose::Stream::default(),
            prose,
            watch: Watch { dialect, usage_asked, usage: None, ended: false },
            usage_word: Finder::new("usage"),
            end_word: Finder::new(end_word),
        }
    }

    /// Takes the next bytes and appends to `out` what goes on; an event that is not complete yet is held. Gives the place in `out` where
    /// the event begins with which the stream says that it is over.
    ///
    /// # Errors
    /// When an event is too long or cannot be read; nothing of it was passed on, and the stream cannot go on.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Fault> {
        self.taken += bytes.len() as u64;
        let Self { splitter, gate, texts, prose, watch, usage_word, end_word, .. } = self;
        let of_interest = |bytes: &[u8]| usage_word.find(bytes).is_some() || end_word.find(bytes).is_some();
        let (mut last, mut read) = (None, Ok(()));
        let judged = prose.any();
        splitter.push(bytes, |event| {
            let mut place = out.len();
            read = std::mem::replace(&mut read, Ok(())).and_then(|()| watch.dialect.admits(event));
            if read.is_ok() && !ended(prose) && (!of_interest(event) || watch.passes(event)) {
                read = match judged {
                    false => texts.event(event, prose, out).map_err(Fault::from),
                    true => Self::judged((gate, texts), event, prose, out).map(|begun| place = begun),
                };
            }
            if watch.ended {
                last.get_or_insert(place);
            }
        })?;
        read?;
        Ok(last)
    }

    /// An event behind what was held of tool calls; gives the place where it begins.
    fn judged(
        (gate, texts): (&mut Gate, &mut prose::Stream),
        event: &[u8],
        prose: &mut P,
        out: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut ready = Vec::new();
        gate.event(event, prose, &mut |event| ready.push(event.to_vec()))?;
        let mut place = out.len();
        for event in ready {
            if ended(prose) {
                break;
            }
            place = out.len();
            texts.event(&event, prose, out)?;
        }
        Ok(place)
    }

    /// The stream has ended: appends what was held.
    ///
    /// # Errors
    /// When what was held cannot be read.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let rest = self.splitter.rest();
        let Self { gate, texts, prose, watch, .. } = self;
        if ended(prose) {
            return Ok(());
        }
        watch.dialect.admits(&rest)?;
        let passes = watch.passes(&rest);
        if prose.any() {
            if passes {
                Self::judged((gate, texts), &rest, prose, out)?;
            }
            let mut ready = Vec::new();
            gate.finish(prose, &mut |event| ready.push(event.to_vec()));
            for event in ready {
                if !ended(prose) {
                    texts.event(&event, prose, out)?;
                }
            }
        } else if passes {
            texts.event(&rest, prose, out)?;
        }
        if !ended(prose) {
            texts.finish(prose, out);
        }
        Ok(())
    }

    /// Bytes that were taken so far.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Who reads the texts.
    #[must_use]
    pub const fn prose(&self) -> &P {
        &self.prose
    }

    /// What the stream has reported so far.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.watch.usage
    }

    /// True once the dialect's last event (`[DONE]`, `message_stop`) has passed.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.watch.ended
    }
}

impl Dialect {
    /// That an event is the same for every reader of the dialect, as far as its lines go: those of Anthropic's have the name that their data
    /// have as a type, and those of OpenAI's have none, but for errors.
    fn admits(self, event: &[u8]) -> Result<(), Fault> {
        if !sse::is_plain(event) {
            return Err(Fault::Lines);
        }
        let Some(data) = sse::data(event).filter(|data| !matches!(data.trim_ascii(), b"" | b"[DONE]")) else { return Ok(()) };
        let name = sse::name(event).filter(|name| !name.is_empty());
        let told = match (self, name) {
            (Self::OpenAi, None | Some("message")) => true,
            (Self::OpenAi, Some(name)) => name == "error" && member(&data, "choices").is_none(),
            (Self::Anthropic, name) => {
                let kind = member(&data, "type").and_then(|kind| std::str::from_utf8(kind).ok());
                kind.and_then(|kind| kind.trim().strip_prefix('"')?.strip_suffix('"')) == name && name.is_some()
            }
        };
        if told { Ok(()) } else { Err(Fault::Name) }
    }
}

impl Watch {
    /// Reads an event; false when it must not reach the caller.
    fn passes(&mut self, event: &[u8]) -> bool {
        let Some(data) = sse::data(event) else { return true };
        match self.dialect {
            Dialect::OpenAi => self.openai(&data),
            Dialect::Anthropic => {
                self.anthropic(&data);
                true
            }
        }
    }

    fn openai(&mut self, data: &[u8]) -> bool {
        if data.trim_ascii() == b"[DONE]" {
            self.ended = true;
            return true;
        }
        let Some(usage) = member(data, "usage").and_then(usage::read) else { return true };
        self.report(usage);
        let without_choices = member(data, "choices").is_some_and(is_empty_array);
        self.usage_asked || !without_choices
    }

    fn anthropic(&mut self, data: &[u8]) {
        let kind = member(data, "type").map(<[u8]>::trim_ascii);
        let holder = match kind {
            Some(b"\"message_start\"") => member(data, "message"),
            Some(b"\"message_delta\"") => Some(data),
            Some(b"\"message_stop\"") => {
                self.ended = true;
                None
            }
            Some(_) | None => None,
        };
        if let Some(usage) = holder.and_then(|holder| member(holder, "usage")).and_then(usage::read) {
            self.report(usage);
        }
    }

    fn report(&mut self, usage: Usage) {
        self.usage = Some(self.usage.map_or(usage, |known| known.highest(usage)));
    }
}

/// True of `[]`, with whatever white space.
fn is_empty_array(raw: &[u8]) -> bool {
    raw.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]")
}
