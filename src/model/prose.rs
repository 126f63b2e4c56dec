//! The texts of an answer: found wherever they stand in it, handed to who filters them, and put back. All else stays byte for byte.
//!
//! A text is every string of an answer but those that `is_no_text` names: an answer's own names and numbers, and what a tool is called with,
//! which nobody rewrites.

mod names;

use std::collections::{BTreeMap, BTreeSet};

use crate::json::{self, Limits, Value};
use crate::seeded::{Seed, has};

use super::judge::fold;
use super::peek::{is_document, items, member, members};
use super::sse;
use names::{ONCE, SHOWN, is_lower, is_no_text};

/// The choice of texts that belong to none.
const NO_CHOICE: u64 = u64::MAX;
/// Texts of one stream of which is kept where they stood last.
const SOURCES_MAX: usize = 4_096;
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
}

/// Who filters the texts.
pub trait Prose: Send {
    /// The next piece of a text: appends to `out` what goes on of it.
    fn piece(&mut self, channel: Channel<'_>, text: &str, out: &mut String);
    /// Nothing more comes of a text, or what comes is a piece of its own: appends what was held.
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
    #[error("the index of a choice is not a whole number below {CHOICES_MAX}, or that of a block goes back")]
    Index,
    /// A text that stands there twice under one name.
    #[error("a member of the answer stands there twice")]
    Twice,
    /// Deeper than `DEPTH_MAX`.
    #[error("the answer is nested deeper than {DEPTH_MAX}")]
    Depth,
}

/// One string of a document, and what becomes of it.
struct Piece<'j> {
    choice: u64,
    key: &'j str,
    from: usize,
    to: usize,
    changed: bool,
    text: String,
}

/// One document while it is looked through.
struct Walk<'j, 'p> {
    json: &'j [u8],
    prose: &'p mut dyn Prose,
    pieces: Vec<Piece<'j>>,
    /// Places of what gives way to `null`.
    dropped: Vec<(usize, usize)>,
    /// What was held of texts that do not stand in this document.
    rest: Vec<(u64, String, String)>,
    /// Whether each string is a whole text.
    whole: bool,
    /// Whether nothing but texts goes out: all else has gone out once already.
    alone: bool,
    choice: u64,
    /// Inside an error every string is a text.
    error: bool,
    /// The block that the event is a piece of.
    block: Option<u64>,
    /// The names that lead here, behind the number of the block.
    path: String,
    /// Where each text stood last, of texts that come in pieces.
    sources: Sources,
}

/// Where the pieces of a stream's texts stood.
#[derive(Default)]
struct Sources {
    /// By choice and member, the last one.
    last: BTreeMap<u64, BTreeMap<String, String>>,
    /// How many they are.
    count: usize,
    /// The furthest of Anthropic's blocks.
    block: u64,
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
        if member(json, "type").is_some_and(|kind| kind == b"\"content_block_stop\"" || kind == b"\"message_stop\"") {
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
            prose.pause(Channel { choice, key: &key }, &mut rest);
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
        let mut walk = Walk { alone: true, ..Walk::new(&data, &mut only, false) };
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
        if channel == (Channel { choice: self.choice, key: self.key }) {
            out.push_str(&std::mem::take(&mut self.rest));
        }
    }

    fn pause(&mut self, _: Channel<'_>, _: &mut String) {}

    fn part(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<(u64, String)> {
        Vec::new()
    }
}

impl<'j, 'p> Walk<'j, 'p> {
    fn new(json: &'j [u8], prose: &'p mut dyn Prose, whole: bool) -> Self {
        Self {
            json,
            prose,
            pieces: Vec::new(),
            dropped: Vec::new(),
            rest: Vec::new(),
            whole,
            alone: false,
            choice: NO_CHOICE,
            error: false,
            path: String::new(),
            sources: Sources::default(),
            block: None,
        }
    }

    fn document(&mut self, json: &'j [u8]) -> Result<(), Unreadable> {
        if !is_document(json) {
            return Err(Unreadable::Json);
        }
        if let Some(index) = member(json, "index").filter(|index| index.trim_ascii() != b"null") {
            let block = number(index).ok_or(Unreadable::Index)?;
            self.block = Some(block);
            self.path = block.to_string();
        }
        self.value(json, "", 0)
    }

    fn value(&mut self, value: &'j [u8], key: &'j str, depth: usize) -> Result<(), Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable::Depth);
        }
        match value.first() {
            Some(b'"') => self.string(value, key),
            Some(b'{') => self.object(value, depth),
            Some(b'[') => self.array(value, key, depth),
            // Numbers and words, those of Python too. Readers that are not strict have other strings.
            Some(_) if value.trim_ascii().iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) => Ok(()),
            Some(_) | None => Err(Unreadable::Json),
        }
    }

    fn array(&mut self, value: &'j [u8], key: &'j str, depth: usize) -> Result<(), Unreadable> {
        let mut found = Ok(());
        items(value, |item| {
            // Parts of a text may be shown each by itself.
            if !self.whole && key == "content" {
                self.end(None);
                self.prose.part();
            }
            if found.is_ok() {
                found = if key == "choices" { self.of_choice(item, depth + 1) } else { self.value(item, key, depth + 1) };
            }
        })
        .ok_or(Unreadable::Json)?;
        found
    }

    fn object(&mut self, value: &'j [u8], depth: usize) -> Result<(), Unreadable> {
        let (mut found, mut texts) = (Ok(()), BTreeSet::new());
        members(value, |name, value| {
            let text = std::str::from_utf8(name).ok().filter(|name| !name.contains('\\'));
            // Some readers take a name for another that differs in case.
            let text = text.filter(|name| is_lower(name) || !SHOWN.contains(&&*fold(name)));
            let Some(name) = text.filter(|_| found.is_ok()) else {
                found = found.and(Err(Unreadable::Json));
                return;
            };
            let calls = has(Seed::ArgumentsRewritten) && matches!(name, "tool_calls" | "arguments");
            let skipped = has(Seed::ReasoningSkipped) && name == "reasoning_content";
            if (!is_no_text(name) || calls || self.error) && !skipped {
                // Of two, some read the first.
                found = if texts.insert(name) { self.named(name, value, depth + 1) } else { Err(Unreadable::Twice) };
            } else if self.alone && ONCE.contains(&name) {
                self.dropped.push(self.place(value.trim_ascii()));
            }
        })
        .ok_or(Unreadable::Json)?;
        found
    }

    fn named(&mut self, name: &'j str, value: &'j [u8], depth: usize) -> Result<(), Unreadable> {
        let (from, error) = (self.path.len(), self.error);
        self.path.push('/');
        self.path.push_str(name);
        self.error |= matches!(name, "error" | "detail");
        let found = self.value(value, name, depth);
        self.path.truncate(from);
        self.error = error;
        found
    }

    /// A piece that stands elsewhere than the one before, in another block or member, belongs to another text for some readers: nothing that
    /// is open goes on there, and no fence.
    fn moved(&mut self, key: &str) -> Result<(), Unreadable> {
        let known = self.sources.last.get_mut(&self.choice).and_then(|known| known.get_mut(key));
        if known.as_ref().is_some_and(|known| **known == self.path) {
            return Ok(());
        }
        // What goes on in a block before it is put together by its number, or in the order of its coming.
        if self.block.is_some_and(|block| block < self.sources.block) {
            return Err(Unreadable::Index);
        }
        self.sources.block = self.block.unwrap_or(self.sources.block);
        if let Some(known) = known {
            known.clone_from(&self.path);
        } else if self.sources.count < SOURCES_MAX {
            self.sources.count += 1;
            self.sources.last.entry(self.choice).or_default().insert(key.to_owned(), self.path.clone());
            return Ok(());
        }
        self.end(None);
        self.prose.part();
        Ok(())
    }

    /// One of several answers: what it holds back comes out with its end, and the tokens of what has changed are left out.
    fn of_choice(&mut self, choice: &'j [u8], depth: usize) -> Result<(), Unreadable> {
        let (mut index, mut ended, mut tokens) = (Some(0), false, None);
        let object = members(choice, |name, value| match name {
            b"index" => index = number(value),
            b"finish_reason" => ended = value.trim_ascii() != b"null",
            b"logprobs" => tokens = Some(value.trim_ascii()).filter(|value| *value != b"null"),
            _ => {}
        });
        if object.is_none() {
            return self.value(choice, "", depth);
        }
        let (before, index) = (self.pieces.len(), index.filter(|index| *index < CHOICES_MAX).ok_or(Unreadable::Index)?);
        self.choice = index;
        self.object(choice, depth)?;
        self.choice = NO_CHOICE;
        if ended && !self.whole {
            self.end(Some(index));
        }
        let changed = self.pieces.iter().skip(before).any(|piece| piece.changed);
        if let Some(tokens) = tokens.filter(|_| changed && !has(Seed::TokensKept)) {
            self.dropped.push(self.place(tokens));
        }
        Ok(())
    }

    /// The texts of a choice, or all, are over: what is held of them comes out.
    fn end(&mut self, choice: Option<u64>) {
        for (choice, key) in self.prose.holding(choice).into_iter().filter(|_| !has(Seed::HeldLost)) {
            let mut rest = String::new();
            self.prose.pause(Channel { choice, key: &key }, &mut rest);
            match self.pieces.iter_mut().rev().find(|piece| piece.choice == choice && piece.key == key) {
                Some(piece) => {
                    piece.text.push_str(&rest);
                    piece.changed = true;
                }
                None => self.rest.push((choice, key, rest)),
            }
        }
    }

    fn string(&mut self, value: &'j [u8], key: &'j str) -> Result<(), Unreadable> {
        let read = json::parse(value, &Limits::deep(1)).map_err(|_| Unreadable::Json)?;
        let Value::String(read) = read else { return Err(Unreadable::Json) };
        if !self.whole && !self.alone && !read.is_empty() {
            self.moved(key)?;
        }
        let (channel, mut text) = (Channel { choice: self.choice, key }, String::with_capacity(read.len()));
        self.prose.piece(channel, &read, &mut text);
        if self.whole {
            self.prose.pause(channel, &mut text);
        }
        let ((from, to), changed) = (self.place(value), text != *read);
        self.pieces.push(Piece { choice: self.choice, key, from, to, changed, text });
        Ok(())
    }

    fn place(&self, value: &[u8]) -> (usize, usize) {
        let from = value.as_ptr() as usize - self.json.as_ptr() as usize;
        (from, from + value.len())
    }

    /// The texts that have a piece here.
    fn channels(&self) -> Vec<(u64, String)> {
        self.pieces.iter().map(|piece| (piece.choice, piece.key.to_owned())).collect()
    }

    /// The document with what has changed.
    fn written(self) -> Option<Vec<u8>> {
        let mut edits: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.changed) {
            let mut text = Vec::with_capacity(piece.text.len() + 2);
            json::write_string(&piece.text, &mut text);
            edits.push((piece.from, piece.to, text));
        }
        edits.extend(self.dropped.iter().map(|(from, to)| (*from, *to, b"null".to_vec())));
        if edits.is_empty() {
            return None;
        }
        edits.sort_by_key(|(from, ..)| *from);
        let (mut out, mut at) = (Vec::with_capacity(self.json.len() + 64), 0);
        for (from, to, text) in &edits {
            out.extend_from_slice(self.json.get(at..*from).unwrap_or_default());
            out.extend_from_slice(text);
            at = *to;
        }
        out.extend_from_slice(self.json.get(at..).unwrap_or_default());
        Some(out)
    }
}

fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
