//! The texts of an answer: found wherever they stand in it, handed to who filters them, and put back. All else stays byte for byte.
//!
//! A text is every string of an answer but those that `is_no_text` names: an answer's own names and numbers, and what a tool is called with,
//! which nobody rewrites.

mod walk;

use super::dialect::texts::{addition, ends_texts};
use super::event::StreamEvent;
use super::framing::sse::{self, EventLines};
use super::tree::TreeMemory;
use super::values::InPlace;
use walk::{Sources, Walk};

pub use super::unreadable::Unreadable;
pub use walk::ITEMS;

/// Which text a piece belongs to: pieces of one are put together by who reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel<'k> {
    /// The choice (`n` > 1).
    pub choice: u64,
    /// The member that holds it, such as `content`.
    pub key: &'k str,
    /// The names and types that lead there, for members of one name are put together by some readers and by others not.
    pub path: &'k str,
}

/// Who filters the texts.
pub trait Prose: Send {
    /// The next piece of a text: appends to `out` what goes on of it.
    fn piece(&mut self, channel: Channel<'_>, text: &str, out: &mut String);
    /// Nothing more comes of the texts of that name, wherever they stand, or what comes is a piece of its own: appends what was held.
    fn pause(&mut self, channel: Channel<'_>, out: &mut String);
    /// What follows of all texts is shown by itself, or behind what came: nothing that is open goes on there. Nothing is held.
    fn part(&mut self);
    /// The texts of a choice, or of all, of which something is held.
    fn holding(&self, choice: Option<u64>) -> Vec<(u64, String)>;
}

/// Lets every text pass.
impl Prose for () {
    fn piece(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        out.push_str(text);
    }

    fn pause(&mut self, _: Channel<'_>, _: &mut String) {}

    fn part(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<(u64, String)> {
        Vec::new()
    }
}

/// A whole answer with its texts filtered; `None` where nothing changed.
///
/// # Errors
/// When it cannot be looked through.
pub fn whole(json: &[u8], prose: &mut dyn Prose) -> Result<Option<Vec<u8>>, Unreadable> {
    let document = InPlace(json.trim_ascii());
    let mut walk = Walk::new(json, &document, prose, true);
    walk.document(document.0, document.0)?;
    Ok(walk.written())
}

/// The events of a stream.
#[derive(Default)]
pub struct Stream {
    /// For each text of which something is held: the last event of it, to be sent again with what was held.
    templates: Vec<Template>,
    sources: Sources,
}

struct Template {
    choice: u64,
    key: String,
    event: Vec<u8>,
}

impl Template {
    fn is_of(&self, choice: u64, key: &str) -> bool {
        self.choice == choice && self.key == key
    }
}

impl Stream {
    /// Reads an event and appends it with its texts filtered, and before it what was held of texts that it ends.
    ///
    /// # Errors
    /// When it cannot be looked through.
    pub fn event(
        &mut self,
        event: &[u8],
        prose: &mut dyn Prose,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let lines = EventLines::read(event);
        self.read(&StreamEvent::read(&lines, TreeMemory::default()), prose, out)
    }

    /// The same for an event that is read already.
    ///
    /// # Errors
    /// When it cannot be looked through.
    pub(super) fn read(
        &mut self,
        event: &StreamEvent<'_>,
        prose: &mut dyn Prose,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        let bytes = event.bytes();
        // Readers of streams drop it, and would read what follows it (WHATWG HTML section 9.2.6).
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(Unreadable::Json);
        }
        if event.is_done() {
            self.finish(prose, out);
        }
        let Some(tree) = event.tree() else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        let mut walk = Walk::new(event.data(), tree, prose, false);
        walk.sources = std::mem::take(&mut self.sources);
        let walked = walk.document(tree.json(), tree.root());
        self.sources = std::mem::take(&mut walk.sources);
        walked?;
        if walk.kind.is_some_and(ends_texts) {
            walk.end(None);
            walk.prose.part();
        }
        let (rest, holding) = (std::mem::take(&mut walk.rest), walk.prose.holding(None));
        // Nothing is held of most events.
        let here = if holding.is_empty() { Vec::new() } else { walk.channels() };
        let written = walk.written();
        rest.iter().for_each(|rest| self.again(rest, out));
        match &written {
            Some(data) => sse::with_data(bytes, data, out),
            None => out.extend_from_slice(bytes),
        }
        self.templates
            .retain(|known| holding.iter().any(|(choice, key)| known.is_of(*choice, key)));
        for (choice, key) in holding.into_iter().filter(|held| here.contains(held)) {
            self.templates.retain(|known| !known.is_of(choice, &key));
            let event = addition(tree.json(), &key).unwrap_or_else(|| bytes.to_vec());
            self.templates.push(Template { choice, key, event });
        }
        Ok(())
    }

    /// The stream is over: appends what is held.
    pub fn finish(&mut self, prose: &mut dyn Prose, out: &mut Vec<u8>) {
        for (choice, key) in prose.holding(None) {
            let mut rest = String::new();
            prose.pause(Channel { choice, key: &key, path: "" }, &mut rest);
            self.again(&(choice, key, rest), out);
        }
    }

    /// The last event of a text once more, with what was held of it and nothing else.
    fn again(&self, (choice, key, rest): &(u64, String, String), out: &mut Vec<u8>) {
        let Some(template) = self
            .templates
            .iter()
            .find(|template| template.is_of(*choice, key))
            .filter(|_| !rest.is_empty())
        else {
            return;
        };
        let lines = EventLines::read(&template.event);
        let event = StreamEvent::read(&lines, TreeMemory::default());
        let Some(tree) = event.tree() else { return };
        let mut only = Only { choice: *choice, key, rest: rest.clone() };
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

/// Puts one text in its place, and nothing in others'.
struct Only<'k> {
    choice: u64,
    key: &'k str,
    rest: String,
}

impl Prose for Only<'_> {
    fn piece(&mut self, channel: Channel<'_>, _: &str, out: &mut String) {
        if (channel.choice, channel.key) == (self.choice, self.key) {
            out.push_str(&std::mem::take(&mut self.rest));
        }
    }

    fn pause(&mut self, _: Channel<'_>, _: &mut String) {}

    fn part(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<(u64, String)> {
        Vec::new()
    }
}

fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
