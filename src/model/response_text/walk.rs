//! Walks over one document and passes its texts through a filter.

mod response;
mod written;

use super::channel::{Channel, ChannelId};
use super::drain::{TextEnd, drain};
use super::filter::TextFilter;
use super::place::{EventNumber, NO_CHOICE, Sources, TextPlace};
use super::{Released, number};
use crate::model::dialect::texts::{
    are_choices, base_type, begins, is_apart, is_error, is_error_object, is_no_text, is_once,
    is_part, is_shown, path_name,
};
use crate::model::fold::{fold, is_folded};
use crate::model::raw_json::is_document;
use crate::model::unreadable::{CHOICES_MAX, DEPTH_MAX, Unreadable};
use crate::model::values::Values;

/// Most objects have at most this many members.
const MEMBERS: usize = 8;
/// The member whose text may consist of parts in an array.
const PARTED: &str = "content";
/// The path segment for the items of an array. A client may show each item separately.
pub const ITEMS: &str = "[]";

/// A member: its name as written, and its value.
type Member<'j, V> = (&'j [u8], V);

/// The members of an object, and its length in bytes.
struct Members<'j, V> {
    /// The members, in order.
    all: Vec<Member<'j, V>>,
    /// The length of the object in bytes.
    length: usize,
}

/// One string of a document, with its filtered text.
struct Piece<'j> {
    /// The choice of its text.
    choice: u64,
    /// The member of its text.
    key: &'j str,
    /// The offset of its first byte, the quote.
    from: usize,
    /// The offset after its last quote.
    to: usize,
    /// Whether the filtered text differs.
    changed: bool,
    /// The filtered text.
    text: String,
}

/// The state of a walk over one document.
pub(super) struct Walk<'j, 'p, D: Values<'j>> {
    /// The bytes of the event's data or of the answer.
    json: &'j [u8],
    /// The document.
    document: &'p D,
    /// The filter of the texts.
    pub(super) filter: &'p mut dyn TextFilter,
    /// The strings so far.
    pieces: Vec<Piece<'j>>,
    /// The ranges that become `null`.
    dropped: Vec<(usize, usize)>,
    /// The ranges of log probabilities in an event of a response.
    logprobs: Vec<(usize, usize)>,
    /// The number of the event, if it has one.
    pub(super) number: Option<EventNumber>,
    /// True in a response and its events, which repeat members of the request.
    response: bool,
    /// The held bytes of texts that have no part in this document.
    pub(super) rest: Vec<Released>,
    /// Whether each string is a complete text.
    whole: bool,
    /// Whether only texts are sent, because all other members were sent before.
    pub(super) alone: bool,
    /// The current choice.
    choice: u64,
    /// True inside an error, where every string is a text.
    error: bool,
    /// The index of the block that the event belongs to.
    block: Option<u64>,
    /// The type in the document.
    pub(super) kind: Option<&'j str>,
    /// The names and types from the root to the current value.
    path: String,
    /// The number of changes of texts.
    changed: usize,
    /// True if a text was found since the last item of an array.
    moved: bool,
    /// The last position of each text that comes in parts.
    pub(super) sources: Sources,
}

/// A member's name as text.
///
/// # Errors
/// When some clients could read it as another name.
fn plain_name(name: &[u8]) -> Result<&str, Unreadable> {
    let Ok(name) = std::str::from_utf8(name) else { return Err(Unreadable::Json) };
    // Filters compare names as written, but clients decode escapes. So an escaped name is refused.
    if name.contains('\\') {
        return Err(Unreadable::Json);
    }
    // Some clients compare names without regard to case.
    if is_folded(name) || !is_shown(&fold(name)) { Ok(name) } else { Err(Unreadable::Json) }
}

impl<'j, 'p, D: Values<'j>> Walk<'j, 'p, D> {
    /// A walk over `document`, which is all or a part of `json`.
    pub(super) fn new(
        json: &'j [u8],
        document: &'p D,
        filter: &'p mut dyn TextFilter,
        whole: bool,
    ) -> Self {
        Self {
            json,
            document,
            filter,
            pieces: Vec::new(),
            dropped: Vec::new(),
            logprobs: Vec::new(),
            number: None,
            response: false,
            rest: Vec::new(),
            whole,
            alone: false,
            choice: NO_CHOICE,
            error: false,
            path: String::new(),
            sources: Sources::default(),
            block: None,
            kind: None,
            changed: 0,
            moved: false,
        }
    }

    /// Walks over the whole document. `root` is its outermost value, and `json` its bytes.
    pub(super) fn document(&mut self, json: &'j [u8], root: D::Value) -> Result<(), Unreadable> {
        // For an object, `object` checks its end later.
        let object = json.first() == Some(&b'{') && self.document.is_utf8();
        if object || is_document(json) { self.value(root, "", 0) } else { Err(Unreadable::Json) }
    }

    /// Walks over a value. `key` is the member with the value.
    pub(super) fn value(
        &mut self,
        value: D::Value,
        key: &'j str,
        depth: usize,
    ) -> Result<(), Unreadable> {
        // The limit prevents a stack overflow by deep nesting.
        if depth > DEPTH_MAX {
            return Err(Unreadable::Depth);
        }
        let raw = self.document.raw(value);
        match raw.first() {
            Some(b'"') => self.string(value, key),
            Some(b'{') => self.object(value, depth, false),
            Some(b'[') => self.array(value, key, depth),
            // Numbers and words, also those of Python. Other bytes are refused, because lenient
            // parsers accept other forms of strings.
            Some(_)
                if raw
                    .trim_ascii()
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) =>
            {
                Ok(())
            }
            Some(_) | None => Err(Unreadable::Json),
        }
    }

    /// Walks over an array.
    fn array(&mut self, value: D::Value, key: &'j str, depth: usize) -> Result<(), Unreadable> {
        let (chosen, parted) = (are_choices(key), key == PARTED);
        let from = self.path.len();
        // Choices are separate texts already, and parts of `content` form one text. Other items may
        // be shown separately.
        self.path.push_str(if chosen || parted { "" } else { ITEMS });
        let (mut found, mut choices, before) =
            (Ok(()), Vec::new(), std::mem::take(&mut self.moved));
        let mut pauses = parted;
        let document = self.document;
        let walked = document.items(value, |item| {
            if !self.whole
                && !chosen
                && (std::mem::take(&mut self.moved) || std::mem::take(&mut pauses))
            {
                self.end(TextEnd::All);
                // A client may show each part of a text separately.
                if parted {
                    self.filter.boundary();
                }
            }
            if found.is_ok() {
                found = match document.raw(item).first() {
                    Some(b'{') if chosen => self.of_choice(item, depth + 1, &mut choices),
                    Some(b'{') => self.object(item, depth + 1, parted),
                    _ => self.value(item, key, depth + 1),
                };
            }
        });
        walked.ok_or(Unreadable::Json)?;
        self.path.truncate(from);
        self.moved |= before;
        found
    }

    /// Reads the members of an object.
    fn members_of(&self, object: D::Value) -> Result<Members<'j, D::Value>, Unreadable> {
        let mut all = Vec::with_capacity(MEMBERS);
        match self.document.members(object, |name, value| all.push((name, value))) {
            Some(length) => Ok(Members { all, length }),
            None => Err(Unreadable::Json),
        }
    }

    /// The type of an object with these members.
    fn kind_of(&self, members: &[Member<'j, D::Value>]) -> Option<&'j str> {
        let (_, kind) = members.iter().rev().find(|(name, _)| *name == b"type")?;
        let kind = std::str::from_utf8(self.document.raw(*kind)).ok()?.trim();
        Some(base_type(kind.strip_prefix('"')?.strip_suffix('"')?))
    }

    /// Walks over an object. If it is a `part` of a text, its text is joined with the text of the
    /// same member without parts.
    fn object(&mut self, value: D::Value, depth: usize, part: bool) -> Result<(), Unreadable> {
        let Members { all, length } = self.members_of(value)?;
        // Only the outermost object has a type of event, an index, and an end to check.
        if depth > 0 {
            return self.described(&all, depth, part);
        }
        // Bytes after the outermost object could be another document for some clients.
        if length != self.document.raw(value).len() {
            return Err(Unreadable::Json);
        }
        self.kind = self.kind_of(&all);
        let document = self.document;
        self.error |= all.iter().any(|(name, value)| is_error_object(name, document.raw(*value)));
        // Of several members with one name, most parsers take the last.
        let index = all.iter().rev().find(|(name, value)| {
            *name == b"index" && document.raw(*value).trim_ascii() != b"null"
        });
        if let Some((_, index)) = index.filter(|_| !self.whole) {
            self.block = Some(number(document.raw(*index)).ok_or(Unreadable::Index)?);
        }
        self.respond(&all)?;
        self.described(&all, depth, part)
    }

    /// Walks over the members of an object, after its type was added to the path.
    fn described(
        &mut self,
        all: &[Member<'j, D::Value>],
        depth: usize,
        part: bool,
    ) -> Result<(), Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable::Depth);
        }
        let (from, kind) = (self.path.len(), self.kind_of(all));
        let part = part && kind.is_none_or(is_part);
        if let Some(kind) = kind.filter(|_| !part) {
            self.path.push(':');
            self.path.push_str(kind);
        }
        let found = self.members(all, depth, part);
        self.path.truncate(from);
        found
    }

    /// Walks over the members of an object, without its type.
    fn members(
        &mut self,
        all: &[Member<'j, D::Value>],
        depth: usize,
        part: bool,
    ) -> Result<(), Unreadable> {
        let mut texts = Vec::with_capacity(MEMBERS);
        for (name, value) in all {
            let raw = self.document.raw(*value);
            let name = plain_name(name)?;
            // Only a delta of the event itself is a part of a call, and it is a text.
            let is_within = name == "delta" && (depth > 0 || raw.first() != Some(&b'"'));
            if self.response && !self.error && !is_within && is_apart(name, self.kind) {
                continue;
            }
            if self.response && name == "logprobs" && raw.starts_with(b"[") {
                self.logprobs.push(self.place(raw.trim_ascii()));
            }
            if !is_no_text(name, raw) || self.error {
                // Numbers and words have no text, so it does not matter which one a client takes.
                if matches!(raw.first(), Some(b'"' | b'{' | b'[')) {
                    texts.push(name);
                }
                match (part && name == "text", raw.first()) {
                    (true, Some(b'"')) => self.string(*value, PARTED)?,
                    _ => self.named(name, *value, depth + 1)?,
                }
            } else if self.alone && is_once(name) {
                self.dropped.push(self.place(raw.trim_ascii()));
            }
        }
        // Of two members with one name, some clients take the first.
        texts.sort_unstable();
        if texts.windows(2).any(|pair| pair.first() == pair.last()) {
            Err(Unreadable::Twice)
        } else {
            Ok(())
        }
    }

    /// Walks over the value of a member, with its name in the path.
    fn named(&mut self, name: &'j str, value: D::Value, depth: usize) -> Result<(), Unreadable> {
        let (from, error) = (self.path.len(), self.error);
        self.path.push('/');
        self.path.push_str(path_name(name));
        self.error |= is_error(name);
        let found = self.value(value, name, depth);
        self.path.truncate(from);
        self.error = error;
        found
    }

    /// Handles a part at another position than the one before it, in another block or member. Some
    /// clients treat it as another text. So open constructs end there, also code fences.
    fn moved(&mut self, key: &str) -> Result<(), Unreadable> {
        if let Some(TextPlace { path, block }) = self.sources.last_place(self.choice, key)
            && *path == self.path
            && *block == self.block
        {
            return Ok(());
        }
        // For a part of an earlier block, some clients join by the block's index and others in
        // order of arrival.
        let before = self.sources.block_before(self.choice, key, self.response);
        if self.block.is_some_and(|block| block < before) {
            return Err(Unreadable::Index);
        }
        if !self.response {
            self.sources.block = self.block.unwrap_or(before);
        }
        if self.sources.place(self.choice, key, &self.path, self.block) {
            return Ok(());
        }
        self.end(TextEnd::All);
        self.filter.boundary();
        Ok(())
    }

    /// Walks over one choice of the answer. The held bytes of the choice are released at its end.
    /// If a text has changed, the `logprobs` of the choice become `null`.
    fn of_choice(
        &mut self,
        choice: D::Value,
        depth: usize,
        known: &mut Vec<u64>,
    ) -> Result<(), Unreadable> {
        let Members { all, .. } = self.members_of(choice)?;
        let (mut index, mut ended, mut tokens) = (Some(0), false, None);
        for (name, value) in &all {
            let value = self.document.raw(*value);
            match *name {
                b"index" => index = number(value),
                b"finish_reason" => ended = value.trim_ascii() != b"null",
                b"logprobs" => tokens = Some(value.trim_ascii()).filter(|value| *value != b"null"),
                _ => {}
            }
        }
        // Of two choices with one index, some clients take the first and others take both.
        let index = match index {
            // The filter keeps state for each choice, so their number is limited.
            Some(index) if index < CHOICES_MAX && !known.contains(&index) => index,
            Some(_) | None => return Err(Unreadable::Index),
        };
        known.push(index);
        let before = self.changed;
        // The texts inside belong to this choice.
        self.choice = index;
        self.described(&all, depth, false)?;
        self.choice = NO_CHOICE;
        if ended && !self.whole {
            self.end(TextEnd::Choice(index));
        }
        // Held bytes that `end` releases count as changes too.
        let changed = self.changed > before;
        if let Some(tokens) = tokens.filter(|_| changed) {
            self.dropped.push(self.place(tokens));
        }
        Ok(())
    }

    /// Ends texts: their held bytes are added to the last part in this document, or to `rest`.
    pub(super) fn end(&mut self, end: TextEnd<'_>) {
        let Self { filter, pieces, rest, changed, .. } = self;
        drain(&mut **filter, end, &mut |channel, held| {
            for piece in pieces.iter_mut().rev() {
                if (piece.choice, piece.key) == (channel.choice, channel.key) {
                    piece.text.push_str(&held);
                    piece.changed = true;
                    *changed += 1;
                    return;
                }
            }
            rest.push(Released { id: channel.id(), text: held });
        });
    }

    /// Filters a string.
    fn string(&mut self, value: D::Value, key: &'j str) -> Result<(), Unreadable> {
        let document = self.document;
        let read = document.text(value)?;
        // Some clients join the text with which an item begins and its deltas. Others ignore it.
        if !self.whole
            && !read.is_empty()
            && matches!(key, PARTED | "text" | "refusal")
            && self.kind.is_some_and(begins)
        {
            return Err(Unreadable::Begun);
        }
        if !self.whole && !self.alone && !read.is_empty() {
            self.moved(key)?;
        }
        self.moved = true;
        let (channel, mut text) = (
            Channel { choice: self.choice, key, path: &self.path },
            String::with_capacity(read.len()),
        );
        self.filter.push(channel, &read, &mut text);
        if self.whole {
            drain(self.filter, TextEnd::Text(channel), &mut |_, held| text.push_str(&held));
            // A client may show each string separately.
            self.filter.boundary();
        }
        let ((from, to), changed) = (self.place(document.raw(value)), text != *read);
        self.changed += usize::from(changed);
        // In a whole answer, no later part belongs to this text.
        if self.whole && !changed {
            return Ok(());
        }
        self.pieces.push(Piece { choice: self.choice, key, from, to, changed, text });
        Ok(())
    }

    /// The range of a value in the document.
    fn place(&self, value: &[u8]) -> (usize, usize) {
        let from = value.as_ptr() as usize - self.json.as_ptr() as usize;
        (from, from + value.len())
    }

    /// The texts with a part in this document.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        let mut channels = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            channels.push(ChannelId { choice: piece.choice, key: piece.key.to_owned() });
        }
        channels
    }
}
