//! The texts of an answer. They are found at every depth, filtered, and written back. All other
//! bytes stay the same.
//!
//! A text is every string of an answer, except names and numbers of the answer itself and arguments
//! of tool calls. `is_no_text` lists these exceptions. `channel` defines which parts belong to one
//! text, `filter` the interface of a filter, `chain` the order of filters, and `drain` the ends of
//! texts.

mod chain;
mod channel;
mod drain;
mod filter;
mod place;
mod walk;

use super::dialect::texts::{addition, ends_answer, ends_texts, is_delta, is_event};
use super::event::StreamEvent;
use super::framing::Framing;
use super::framing::sse::{self, EventLines};
use super::tree::{JsonTree, TreeMemory};
use super::values::{InPlace, Values as _};
use drain::{TextEnd, drain};
use place::{EventNumber, Sources};
use walk::Walk;

pub use super::dialect::texts::is_repeated;
pub use super::unreadable::Unreadable;
pub use chain::FilterChain;
pub use channel::{Channel, ChannelId};
pub use filter::TextFilter;
pub use walk::ITEMS;

/// Filters the texts of a whole answer. `None` if the answer is unchanged.
///
/// # Errors
/// When the answer cannot be searched.
pub fn whole(json: &[u8], filter: &mut dyn TextFilter) -> Result<Option<Vec<u8>>, Unreadable> {
    let document = InPlace(json.trim_ascii());
    let mut walk = Walk::new(json, &document, filter, true);
    walk.document(document.0, document.0)?;
    Ok(walk.written())
}

/// The texts of a stream of events.
#[derive(Default)]
pub struct StreamTexts {
    /// For each text with held bytes, its last event. This event is sent again with the held bytes.
    templates: Vec<Template>,
    /// The last positions of the texts.
    sources: Sources,
    /// The number of the last event that was sent, if the events have numbers.
    number: Option<u64>,
    /// Whether an event with `"done": true` ends all texts, as in Ollama's dialect.
    ends_with_done: bool,
}

/// The last event of a text.
struct Template {
    /// The text.
    id: ChannelId,
    /// The bytes of the event.
    event: Vec<u8>,
}

/// The held bytes of a text without a part in the current document.
struct Released {
    /// The text.
    id: ChannelId,
    /// The held bytes.
    text: String,
}

impl StreamTexts {
    /// The texts of a stream in that framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        // In the other dialects a text may go on after such an event.
        Self { ends_with_done: framing == Framing::Lines, ..Self::default() }
    }

    /// Filters an event and appends it. First appends the held bytes of the texts that it ends.
    ///
    /// # Errors
    /// When the event cannot be searched.
    pub fn event(
        &mut self,
        event: &[u8],
        filter: &mut dyn TextFilter,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let lines = EventLines::read(event);
        self.read(&StreamEvent::read(&lines, TreeMemory::default()), filter, out)
    }

    /// The same for an event that is already parsed.
    ///
    /// # Errors
    /// When the event cannot be searched.
    pub(super) fn read(
        &mut self,
        event: &StreamEvent<'_>,
        filter: &mut dyn TextFilter,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let bytes = event.bytes();
        // Clients of streams drop a byte order mark and would parse the bytes after it (WHATWG
        // HTML, section 9.2.6).
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(Unreadable::Json);
        }
        // No text can follow, so the held bytes must come before `[DONE]`.
        if event.is_done() {
            self.finish(filter, out);
        }
        let Some(tree) = event.tree() else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        // What was held of a text comes before the event that repeats the text.
        if repeats(tree) && filter.is_holding() {
            self.finish(filter, out);
        }
        let mut walk = Walk::new(event.data(), tree, filter, false);
        walk.sources = std::mem::take(&mut self.sources);
        let walked = walk.document(tree.json(), tree.root());
        self.sources = std::mem::take(&mut walk.sources);
        walked?;
        // No text follows the last line of Ollama's answers. Clients may show blocks separately. So
        // open constructs do not continue in the next block.
        let mut is_last = false;
        if self.ends_with_done {
            tree.members(tree.root(), |name, value| is_last |= ends_answer(name, tree.raw(value)));
        }
        if is_last || walk.kind.is_some_and(ends_texts) {
            walk.end(TextEnd::All);
            walk.filter.boundary();
        }
        let (rest, holding) = (std::mem::take(&mut walk.rest), walk.filter.holding(None));
        // Most events leave no held bytes.
        let here = if holding.is_empty() { Vec::new() } else { walk.channels() };
        // The held bytes of ended texts belong before this event.
        for released in &rest {
            self.again(released, out);
        }
        count(&mut self.number, &mut walk.number);
        let written = walk.written();
        match &written {
            Some(data) => sse::with_data(bytes, data, out),
            None => out.extend_from_slice(bytes),
        }
        // A text without held bytes needs no template.
        self.templates.retain(|known| holding.contains(&known.id));
        for id in holding {
            if !here.contains(&id) {
                continue;
            }
            self.templates.retain(|known| known.id != id);
            // A block must not start twice, so its template is a delta.
            let event = addition(tree.json(), &id.key).unwrap_or_else(|| bytes.to_vec());
            self.templates.push(Template { id, event });
        }
        Ok(())
    }

    /// The number of the last event that was sent, if the events have numbers.
    #[must_use]
    pub(super) const fn number(&self) -> Option<u64> {
        self.number
    }

    /// Handles the end of the stream: appends the held bytes.
    pub fn finish(&mut self, filter: &mut dyn TextFilter, out: &mut Vec<u8>) {
        drain(filter, TextEnd::All, &mut |channel, text| {
            self.again(&Released { id: channel.id(), text }, out);
        });
        // The filter also reads the last lines of texts without held bytes.
        filter.boundary();
    }

    /// Sends the last event of a text again, only with the held bytes of that text.
    fn again(&mut self, released: &Released, out: &mut Vec<u8>) {
        let Released { id, text } = released;
        let Some(template) = self.templates.iter().find(|template| template.id == *id) else {
            return;
        };
        if text.is_empty() {
            return;
        }
        let lines = EventLines::read(&template.event);
        let event = StreamEvent::read(&lines, TreeMemory::default());
        let Some(tree) = event.tree() else { return };
        let mut only = Only { id, rest: text.clone() };
        let mut walk = Walk::new(event.data(), tree, &mut only, false);
        // Members such as usage and tool calls must not be sent twice.
        walk.alone = true;
        walk.sources = std::mem::take(&mut self.sources);
        // The event was already searched once without an error.
        let _ = walk.value(tree.root(), "", 0);
        self.sources = std::mem::take(&mut walk.sources);
        count(&mut self.number, &mut walk.number);
        match walk.written() {
            Some(data) => sse::with_data(&template.event, &data, out),
            None => out.extend_from_slice(&template.event),
        }
    }
}

/// Whether the document is an event of a response that does not add to a text.
fn repeats(tree: &JsonTree<'_>) -> bool {
    let Some(kind) = tree.view().text("type") else { return false };
    is_event(kind) && !is_delta(kind)
}

/// Counts an event. If the number is not higher than that of the event before, because more events
/// were sent than the server has counted, it becomes the next one.
fn count(last: &mut Option<u64>, number: &mut Option<EventNumber>) {
    let Some(number) = number else { return };
    if let Some(last) = *last
        && number.value <= last
    {
        number.value = last.saturating_add(1);
        number.changed = true;
    }
    *last = Some(number.value);
}

/// A filter that inserts one text at its position and empties all others.
struct Only<'k> {
    /// The text that is inserted.
    id: &'k ChannelId,
    /// The bytes to insert. They are inserted once.
    rest: String,
}

impl TextFilter for Only<'_> {
    fn push(&mut self, channel: Channel<'_>, _: &str, out: &mut String) {
        if self.id.is_of(channel.choice, channel.key) {
            out.push_str(&std::mem::take(&mut self.rest));
        }
    }

    fn flush(&mut self, _: Channel<'_>, _: &mut String) {}

    fn boundary(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }
}

/// A number of digits only; `None` for signs, fractions and other values.
fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
