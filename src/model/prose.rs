//! The texts of an answer: found wherever they stand in it, handed to who filters them, and put back. All else stays byte for byte.
//!
//! A text is every string of an answer but those that `is_no_text` names: an answer's own names and numbers, and what a tool is called with,
//! which nobody rewrites.

mod names;
mod walk;

use crate::seeded::{Seed, has};

use super::peek::member;
use super::sse;
use walk::{Sources, Walk};

pub use walk::ITEMS;

/// Choices of one answer.
const CHOICES_MAX: u64 = 1_024;
/// Depth of an answer that is looked through.
pub(super) const DEPTH_MAX: usize = 64;

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

/// An answer that cannot be looked through, so that nothing can be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or a string of it is not.
    #[error("the answer is not JSON")]
    Json,
    /// A choice whose number is none.
    #[error(
        "the index of a choice is not a whole number below {CHOICES_MAX} or stands there twice, or that of a block goes back"
    )]
    Index,
    /// A text that stands there twice under one name.
    #[error("a member of the answer stands there twice")]
    Twice,
    /// Deeper than `DEPTH_MAX`.
    #[error("the answer is nested deeper than {DEPTH_MAX}")]
    Depth,
}

/// A whole answer with its texts filtered; `None` where nothing changed.
///
/// # Errors
/// When it cannot be looked through.
pub fn whole(json: &[u8], prose: &mut dyn Prose) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut walk = Walk::new(json, prose, true);
    walk.document(json.trim_ascii())?;
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
    /// Appends an event with its texts filtered, and before it what was held of texts that it ends.
    ///
    /// # Errors
    /// When it cannot be looked through.
    pub fn event(&mut self, event: &[u8], prose: &mut dyn Prose, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        // Readers of streams drop it, and would read what stands behind it (WHATWG HTML section 9.2.6).
        if event.starts_with(b"\xef\xbb\xbf") {
            return Err(Unreadable::Json);
        }
        let Some(data) = sse::data(event) else {
            out.extend_from_slice(event);
            return Ok(());
        };
        let json = data.trim_ascii();
        if json == b"[DONE]" {
            self.finish(prose, out);
        }
        if json.is_empty() || json == b"[DONE]" {
            out.extend_from_slice(event);
            return Ok(());
        }
        let mut walk = Walk::new(&data, prose, false);
        walk.sources = std::mem::take(&mut self.sources);
        let walked = walk.document(json);
        self.sources = std::mem::take(&mut walk.sources);
        walked?;
        if matches!(walk.kind, Some("content_block_stop" | "message_stop")) {
            walk.end(None);
            walk.prose.part();
        }
        let (rest, holding) = (std::mem::take(&mut walk.rest), walk.prose.holding(None));
        // Nothing is held of most events.
        let here = if holding.is_empty() { Vec::new() } else { walk.channels() };
        let written = walk.written();
        rest.iter().for_each(|rest| self.again(rest, out));
        match &written {
            Some(data) => sse::with_data(event, data, out),
            None => out.extend_from_slice(event),
        }
        self.templates.retain(|known| holding.iter().any(|(choice, key)| known.is_of(*choice, key)));
        for (choice, key) in holding.into_iter().filter(|held| here.contains(held)) {
            self.templates.retain(|known| !known.is_of(choice, &key));
            let event = delta_of(json, &key).unwrap_or_else(|| event.to_vec());
            self.templates.push(Template { choice, key, event });
        }
        Ok(())
    }

    /// The stream is over: appends what is held.
    pub fn finish(&mut self, prose: &mut dyn Prose, out: &mut Vec<u8>) {
        for (choice, key) in prose.holding(None).into_iter().filter(|_| !has(Seed::HeldLost)) {
            let mut rest = String::new();
            prose.pause(Channel { choice, key: &key, path: "" }, &mut rest);
            self.again(&(choice, key, rest), out);
        }
    }

    /// The last event of a text once more, with what was held of it and nothing else.
    fn again(&self, (choice, key, rest): &(u64, String, String), out: &mut Vec<u8>) {
        let Some(template) = self.templates.iter().find(|template| template.is_of(*choice, key)).filter(|_| !rest.is_empty())
        else {
            return;
        };
        let Some(data) = sse::data(&template.event) else { return };
        let mut only = Only { choice: *choice, key, rest: rest.clone() };
        let mut walk = Walk::new(&data, &mut only, false);
        walk.alone = true;
        // It could be looked through once already.
        let _ = walk.value(data.trim_ascii(), "", 0);
        match walk.written() {
            Some(data) => sse::with_data(&template.event, &data, out),
            None => out.extend_from_slice(&template.event),
        }
    }
}

/// The delta that goes on from the beginning of one of Anthropic's blocks: what begins is not begun again.
fn delta_of(json: &[u8], key: &str) -> Option<Vec<u8>> {
    member(json, "type").filter(|kind| *kind == b"\"content_block_start\"")?;
    let index = number(member(json, "index")?)?;
    let data = format!(r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{key}_delta","{key}":""}}}}"#);
    Some(format!("event: content_block_delta\ndata: {data}\n\n").into_bytes())
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
