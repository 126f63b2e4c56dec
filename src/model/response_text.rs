//! The texts of an answer: found wherever they are, filtered, and put back. All else stays byte for
//! byte.
//!
//! A text is every string of an answer, except the names and numbers of the answer itself and the
//! arguments of tool calls (`is_no_text` names them). `channel` says which pieces belong to one
//! text, `filter` what a filter does, `chain` how filters follow each other, and `drain` where
//! texts end.

mod chain;
mod channel;
mod drain;
mod filter;
mod walk;

use super::dialect::texts::{addition, ends_texts};
use super::event::StreamEvent;
use super::framing::sse::{self, EventLines};
use super::tree::TreeMemory;
use super::values::InPlace;
use drain::{TextEnd, drain};
use walk::{Sources, Walk};

pub use super::unreadable::Unreadable;
pub use chain::FilterChain;
pub use channel::{Channel, ChannelId};
pub use filter::TextFilter;
pub use walk::ITEMS;

/// A whole answer with its texts filtered; `None` where nothing changed.
///
/// # Errors
/// When it cannot be looked through.
pub fn whole(json: &[u8], filter: &mut dyn TextFilter) -> Result<Option<Vec<u8>>, Unreadable> {
    let document = InPlace(json.trim_ascii());
    let mut walk = Walk::new(json, &document, filter, true);
    walk.document(document.0, document.0)?;
    Ok(walk.written())
}

/// The texts of a stream of events.
#[derive(Default)]
pub struct StreamTexts {
    /// For each text of which something is held, its last event. The event is sent again with what
    /// was held.
    templates: Vec<Template>,
    sources: Sources,
}

struct Template {
    id: ChannelId,
    event: Vec<u8>,
}

/// What was held of a text that has no piece in the document at hand.
struct Released {
    id: ChannelId,
    text: String,
}

impl StreamTexts {
    /// Reads an event and appends it with its texts filtered, and before it what was held of texts that it ends.
    ///
    /// # Errors
    /// When it cannot be looked through.
    pub fn event(
        &mut self,
        event: &[u8],
        filter: &mut dyn TextFilter,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let lines = EventLines::read(event);
        self.read(&StreamEvent::read(&lines, TreeMemory::default()), filter, out)
    }

    /// The same for an event that is read already.
    ///
    /// # Errors
    /// When it cannot be looked through.
    pub(super) fn read(
        &mut self,
        event: &StreamEvent<'_>,
        filter: &mut dyn TextFilter,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let bytes = event.bytes();
        // Readers of streams drop it, and would read what follows it (WHATWG HTML section 9.2.6).
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(Unreadable::Json);
        }
        if event.is_done() {
            self.finish(filter, out);
        }
        let Some(tree) = event.tree() else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        let mut walk = Walk::new(event.data(), tree, filter, false);
        walk.sources = std::mem::take(&mut self.sources);
        let walked = walk.document(tree.json(), tree.root());
        self.sources = std::mem::take(&mut walk.sources);
        walked?;
        if walk.kind.is_some_and(ends_texts) {
            walk.end(TextEnd::All);
            walk.filter.boundary();
        }
        let (rest, holding) = (std::mem::take(&mut walk.rest), walk.filter.holding(None));
        // Nothing is held of most events.
        let here = if holding.is_empty() { Vec::new() } else { walk.channels() };
        let written = walk.written();
        for released in &rest {
            self.again(released, out);
        }
        match &written {
            Some(data) => sse::with_data(bytes, data, out),
            None => out.extend_from_slice(bytes),
        }
        self.templates.retain(|known| holding.contains(&known.id));
        for id in holding {
            if !here.contains(&id) {
                continue;
            }
            self.templates.retain(|known| known.id != id);
            let event = addition(tree.json(), &id.key).unwrap_or_else(|| bytes.to_vec());
            self.templates.push(Template { id, event });
        }
        Ok(())
    }

    /// The stream is over: appends what is held.
    pub fn finish(&mut self, filter: &mut dyn TextFilter, out: &mut Vec<u8>) {
        drain(filter, TextEnd::All, &mut |channel, text| {
            self.again(&Released { id: channel.id(), text }, out);
        });
    }

    /// The last event of a text once more, with what was held of it and nothing else.
    fn again(&self, released: &Released, out: &mut Vec<u8>) {
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
        walk.alone = true;
        // It could be looked through once already.
        let _ = walk.value(tree.root(), "", 0);
        match walk.written() {
            Some(data) => sse::with_data(&template.event, &data, out),
            None => out.extend_from_slice(&template.event),
        }
    }
}

/// Puts one text in its place, and nothing in the places of others.
struct Only<'k> {
    id: &'k ChannelId,
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

fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
