//! Redacts a stream of events. Events are held back while one of their texts ends with a possible
//! beginning of a secret.
//!
//! An event is forwarded byte for byte, unless a secret was found in it. Only whole events are held
//! back, so that no event has to be built again. Ordinary text is not held, because it does not end
//! with the first bytes of a secret.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::model::framing::sse::{self, DONE, EventLines, Splitter, TooLong};
use crate::model::ranges::part;

use super::document::Document;
use super::matcher::Track;
use super::{Edit, Redactor, SECRET_MARK, SECRET_MIN, found, redacted};

/// The maximum number of bytes of events that are held back at once.
const HELD_MAX: usize = 256 << 10;
/// From this many bytes on, the gateway replaces the beginning of a secret if it cannot hold more
/// of the stream. A shorter beginning, of at most seven bytes, may be sent. The rest of that secret
/// is not sent. Ordinary text is also replaced, if it ends with as many bytes of a secret and 256
/// KiB of other texts follow it.
const BEGUN_MIN: usize = 8;
/// The maximum number of texts in one stream that may end inside a secret.
const CHANNELS_MAX: usize = 4_096;

/// The reasons why a stream cannot be searched for secrets. Such a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsearchable {
    /// An event is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// More texts end in a possible secret than the gateway keeps.
    #[error("more than {CHANNELS_MAX} texts of the stream end in what could be a secret")]
    TooMany,
}

/// A part of a text in an event that may be held back.
struct Part {
    /// The offset where it begins in its text.
    base: u64,
    /// The number of the event.
    event: u64,
    /// The offset where it begins in the event's data.
    from: usize,
    /// Its length in bytes.
    length: usize,
}

/// A text that ends in a possible secret.
#[derive(Default)]
struct HeldText {
    /// The search in the text.
    track: Track,
    /// The parts that may contain the begun secret.
    parts: VecDeque<Part>,
    /// The offset after the last replaced byte of a secret.
    removed: u64,
}

impl HeldText {
    /// The range of a begun secret. At least `least` bytes of it have come, or a part of it was
    /// replaced already.
    fn begun(&self, redactor: &Redactor, least: usize) -> Option<Range<u64>> {
        // A part of this secret was replaced already. So the rest is replaced too, even if it is
        // short.
        if let Some(open) = self.track.open(&redactor.secrets, 0)
            && open < self.removed
        {
            return Some(open..self.track.at());
        }
        let open = self.track.open(&redactor.secrets, least)?;
        Some(open..self.track.at())
    }

    /// Removes the parts that end before `open`, or all of them.
    fn forget_before(&mut self, open: Option<u64>) {
        let Some(open) = open else {
            self.parts.clear();
            return;
        };
        while let Some(part) = self.parts.front()
            && part.base + part.length as u64 <= open
        {
            self.parts.pop_front();
        }
    }

    /// Replaces a range in every part that contains a piece of it.
    fn remove(&mut self, place: Range<u64>, edit: &mut impl FnMut(u64, Edit)) {
        let goes_on = place.start < self.removed;
        let from = place.start.max(self.removed);
        if from >= place.end {
            return;
        }
        self.removed = place.end;
        // One secret gets one mark, even if it spans several parts or is found in several steps.
        let mut mark = if goes_on { &b""[..] } else { SECRET_MARK };
        for part in &self.parts {
            let (begin, end) = (from.max(part.base), place.end.min(part.base + part.length as u64));
            if begin < end {
                let (begin, end) = ((begin - part.base) as usize, (end - part.base) as usize);
                edit(part.event, Edit { from: part.from + begin, to: part.from + end, mark });
                mark = b"";
            }
        }
    }
}

/// The texts of one answer.
#[derive(Default)]
pub(super) struct Texts {
    /// The texts by channel.
    channels: BTreeMap<Vec<u8>, HeldText>,
    /// True if one more text has come than can be kept. A secret that continues in it would not be
    /// found.
    is_full: bool,
}

impl Texts {
    /// Searches the data of the event with that number. Returns the edits in this event and in
    /// earlier ones. `error` is true if the event is known to be an error.
    pub(super) fn read(
        &mut self,
        redactor: &Redactor,
        data: &[u8],
        error: bool,
        event: u64,
    ) -> Vec<(u64, Edit)> {
        let document = Document::read(data);
        let mut here = Vec::new();
        if error || document.is_error {
            redactor.places(&document, &mut here);
        }
        redactor.bare_secrets(&document, &mut here);
        let mut edits = Vec::with_capacity(here.len());
        for edit in here {
            edits.push((event, edit));
        }
        if redactor.secrets.is_empty() {
            return edits;
        }
        let mut name = Vec::new();
        for text in &document.texts {
            let inside = part(data, text.from..text.to);
            // A name is complete in one event, so it is searched on its own.
            if text.is_name {
                found(&redactor.secrets, inside, true, |from, to| {
                    edits.push((
                        event,
                        Edit { from: text.from + from, to: text.from + to, mark: SECRET_MARK },
                    ));
                });
                continue;
            }
            document.channel(text, &mut name);
            let mut channel = self.channels.remove(&name).unwrap_or_default();
            channel.parts.push_back(Part {
                base: channel.track.at(),
                event,
                from: text.from,
                length: inside.len(),
            });
            let mut places = Vec::new();
            channel.track.push(&redactor.secrets, inside, true, &mut |place| places.push(place));
            places.into_iter().for_each(|place| {
                channel.remove(place, &mut |event, edit| edits.push((event, edit)))
            });
            let open = channel.track.open(&redactor.secrets, 0);
            if self.channels.len() >= CHANNELS_MAX {
                // There is no room for another text: the begun secret is replaced at once, and the
                // stream ends.
                self.is_full |= !channel.track.is_idle();
                let place = open.map(|open| open..channel.track.at());
                place.into_iter().for_each(|place| {
                    channel.remove(place, &mut |event, edit| edits.push((event, edit)))
                });
            } else if !channel.track.is_idle() {
                // Parts before the begun secret need not wait.
                channel.forget_before(open);
                self.channels.insert(name.clone(), channel);
            }
        }
        edits
    }

    /// The number of the first event that must be held.
    fn waits(&self) -> Option<u64> {
        self.channels.values().filter_map(|channel| Some(channel.parts.front()?.event)).min()
    }

    /// Handles the end of the stream. If a text ends with [`SECRET_MIN`] bytes of a secret or more,
    /// they are replaced.
    pub(super) fn end(&mut self, redactor: &Redactor, edit: &mut impl FnMut(u64, Edit)) {
        for channel in self.channels.values_mut() {
            if let Some(begun) = channel.begun(redactor, SECRET_MIN) {
                channel.remove(begun, edit);
            }
        }
        self.channels.clear();
    }

    /// Handles a full buffer. If a text ends with [`BEGUN_MIN`] bytes of a secret or more, they are
    /// replaced. The search continues, so that the rest of that secret is replaced too.
    fn release(&mut self, redactor: &Redactor, edit: &mut impl FnMut(u64, Edit)) {
        for channel in self.channels.values_mut() {
            if let Some(begun) = channel.begun(redactor, BEGUN_MIN) {
                channel.remove(begun, edit);
            }
            channel.parts.clear();
        }
    }
}

/// An event in the queue, with the edits of its data.
struct HeldEvent {
    /// The bytes to send.
    bytes: Vec<u8>,
    /// The number of bytes that came. It counts against [`HELD_MAX`], even if lines were removed.
    came: usize,
    /// The edits of its data.
    edits: Vec<Edit>,
}

/// A stream of server-sent events with the secrets redacted.
pub struct Redacted {
    /// The secrets and addresses.
    redactor: Arc<Redactor>,
    /// Splits the bytes into events.
    splitter: Splitter,
    /// The texts of the stream.
    texts: Texts,
    /// The held events, in order.
    queue: VecDeque<HeldEvent>,
    /// The number of the first event in the queue.
    first: u64,
    /// The number of held bytes.
    held: usize,
}

impl Redacted {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Self {
            redactor,
            splitter: Splitter::within(usize::MAX),
            texts: Texts::default(),
            queue: VecDeque::new(),
            first: 0,
            held: 0,
        }
    }

    /// Takes whole events or parts of them, and appends the output to `out`.
    ///
    /// # Errors
    /// When an event is too long, or there are too many texts.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Unsearchable> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let pushed = splitter.push(bytes, |event| self.event(event, out));
        self.splitter = splitter;
        pushed?;
        if self.texts.is_full { Err(Unsearchable::TooMany) } else { Ok(()) }
    }

    /// Handles the end of the stream, or of the part before its last event. Appends everything that
    /// was held.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let rest = self.splitter.rest();
        if !rest.is_empty() {
            self.event(&rest, out);
        }
        let (mut texts, mut late) = (std::mem::take(&mut self.texts), Vec::new());
        texts.end(&self.redactor, &mut |number, edit| late.push((number, edit)));
        late.into_iter().for_each(|(number, edit)| self.edit(number, edit));
        self.release(u64::MAX, out);
    }

    /// Searches an event, queues it, and appends the events that need not wait.
    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) {
        let number = self.first + self.queue.len() as u64;
        // Every event enters the queue, so that held events keep their order.
        self.queue.push_back(HeldEvent {
            bytes: self.lines(event),
            came: event.len(),
            edits: Vec::new(),
        });
        self.held += event.len();
        let lines = EventLines::read(event);
        let data = lines.data().unwrap_or_default();
        let json = !matches!(data.trim_ascii(), b"" | DONE);
        // Without secrets, only errors are searched, for addresses.
        if json
            && (!self.redactor.secrets.is_empty() || memchr::memmem::find(data, b"error").is_some())
        {
            let edits =
                self.texts.read(&self.redactor, data, lines.name() == Some("error"), number);
            edits.into_iter().for_each(|(number, edit)| self.edit(number, edit));
        }
        // The stream ends here. The held events may contain the beginning of a secret.
        if self.texts.is_full {
            return self.queue.clear();
        }
        // A text that repeats the beginning of a secret must not delay the stream without limit.
        if self.held > HELD_MAX {
            return self.let_go(out);
        }
        let until = self.texts.waits().unwrap_or(u64::MAX);
        self.release(until, out);
    }

    /// Adds an edit to a queued event. An edit of a released event has no effect.
    fn edit(&mut self, number: u64, edit: Edit) {
        if let Some(place) = number.checked_sub(self.first)
            && let Ok(place) = usize::try_from(place)
            && let Some(event) = self.queue.get_mut(place)
        {
            event.edits.push(edit);
        }
    }

    /// The event without the non-data lines that contain a secret: comments, names, identifiers.
    fn lines(&self, event: &[u8]) -> Vec<u8> {
        let mut clean = true;
        for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
            if !line.starts_with(b"data:") {
                found(&self.redactor.secrets, line, false, |_, _| clean = false);
            }
        }
        if clean {
            return event.to_vec();
        }
        let mut kept = Vec::with_capacity(event.len());
        let mut rest = event;
        while !rest.is_empty() {
            let (line, after) = rest.split_at(sse::line_length(rest));
            rest = after;
            let mut shows = false;
            found(&self.redactor.secrets, line, false, |_, _| shows = true);
            // Data lines stay. Their strings are redacted one by one.
            if line.starts_with(b"data:") || !shows {
                kept.extend_from_slice(line);
            }
        }
        kept
    }

    /// Appends the held events when the buffer is full, except a possible beginning of a secret.
    /// The stream continues.
    fn let_go(&mut self, out: &mut Vec<u8>) {
        let mut late = Vec::new();
        self.texts.release(&self.redactor, &mut |number, edit| late.push((number, edit)));
        late.into_iter().for_each(|(number, edit)| self.edit(number, edit));
        self.release(u64::MAX, out);
    }

    /// Appends the queued events with numbers below `until`, with their edits.
    fn release(&mut self, until: u64, out: &mut Vec<u8>) {
        while self.first < until
            && let Some(event) = self.queue.pop_front()
        {
            self.first += 1;
            self.held = self.held.saturating_sub(event.came);
            if event.edits.is_empty() {
                out.extend_from_slice(&event.bytes);
                continue;
            }
            match EventLines::read(&event.bytes).data() {
                Some(data) => sse::with_data(&event.bytes, &redacted(data, event.edits), out),
                None => out.extend_from_slice(&event.bytes),
            }
        }
    }
}
