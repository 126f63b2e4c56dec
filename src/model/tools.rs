//! What an answer would have tools called with: found in whole answers, put together from the pieces of streams, and held back until it
//! is judged. Nothing of it is ever changed: a call goes on byte for byte, or the answer ends.

mod typed;

use std::collections::{BTreeMap, BTreeSet};

use crate::json::{self, Limits, Object, Value};
use crate::seeded::{Seed, has};

use super::judge::fold;
use super::prose::{DEPTH_MAX, Unreadable};
use super::sse;
use typed::number;

/// Calls of one answer that are kept apart.
const CALLS_MAX: usize = 1_024;
/// Blocks of one answer.
const BLOCKS_MAX: u64 = 65_536;
/// Bytes of events that are held back at once.
const HELD_MAX: usize = 4 << 20;
/// What an event costs beside its bytes.
const EVENT_COST: usize = 8;
/// Bytes of a tool's name.
const NAME_MAX: usize = 256;
/// What a byte of an answer may cost when it is read, in the cost of a scalar.
const VALUES_EACH: usize = 8;
/// What an answer may cost in all, so.
const VALUES_MAX: usize = 1 << 22;
/// The choice that stands for Anthropic's blocks.
const BLOCKS: u64 = u64::MAX;
/// Members that are looked at here.
const WATCHED: [&str; 16] = [
    "arguments",
    "choices",
    "content_block",
    "custom",
    "delta",
    "finish_reason",
    "function",
    "function_call",
    "index",
    "input",
    "message",
    "name",
    "partial_json",
    "tool_calls",
    "type",
    "content",
];
/// Events that are looked at here.
const KINDS: [&str; 6] =
    ["content_block_delta", "content_block_start", "content_block_stop", "error", "message_start", "message_stop"];

/// What a tool is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// What should be a JSON document.
    Json(&'a [u8]),
    /// Text of no form (OpenAI's `custom` tools).
    Text(&'a str),
}

/// Who judges calls.
pub trait Tools {
    /// Whether there are tools whose calls are judged.
    fn any(&self) -> bool {
        false
    }

    /// Whether the answer has ended before its end: nothing more goes on.
    fn ended(&self) -> bool {
        false
    }

    /// Whether calls of that tool are.
    fn judges(&self, _tool: &str) -> bool {
        false
    }

    /// A whole call of such a tool. False where the answer ends here.
    fn call(&mut self, _tool: &str, _arguments: Arguments<'_>) -> bool {
        true
    }
}

impl Tools for () {}

/// Has every call in a whole answer judged; false where one must not go on.
///
/// # Errors
/// When the answer cannot be looked through.
pub fn whole(answer: &[u8], tools: &mut dyn Tools) -> Result<bool, Unreadable> {
    if !tools.any() {
        return Ok(true);
    }
    let value = read(answer)?;
    exact(&value)?;
    Ok(within(&value, tools))
}

fn read(document: &[u8]) -> Result<Value<'_>, Unreadable> {
    // An answer is held already, and its numbers (log probabilities) are many.
    let limits = Limits { depth: DEPTH_MAX, values: VALUES_MAX.min(document.len() * VALUES_EACH) };
    json::parse(document, &limits).map_err(|_| Unreadable::Json)
}

/// That no member has the name of one that is looked at here but for its case: some readers take it for that.
fn exact(value: &Value<'_>) -> Result<(), Unreadable> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(items) => items.iter().try_for_each(exact),
        Value::Object(object) => object.iter().try_for_each(|(key, value)| {
            if !WATCHED.contains(&key) && WATCHED.contains(&&*fold(key)) {
                return Err(Unreadable::Json);
            }
            // What a tool is called with has names of its own.
            if matches!(key, "arguments" | "input") { Ok(()) } else { exact(value) }
        }),
    }
}

/// The calls in a value at any depth: objects with a name and with what is called with it.
fn within(value: &Value<'_>, tools: &mut dyn Tools) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| within(item, tools)),
        Value::Object(object) => {
            let name = object.get("name").and_then(Value::as_str).filter(|name| tools.judges(name));
            let passes = name.is_none_or(|name| {
                let mut passes = |key, free| object.get(key).is_none_or(|with| judged(name, with, free, tools));
                passes("arguments", false) && passes("input", true)
            });
            passes && object.iter().all(|(_, value)| within(value, tools))
        }
    }
}

/// What a call's member holds: JSON as text or as it is; text of no form where it is `free`.
fn judged(name: &str, with: &Value<'_>, free: bool, tools: &mut dyn Tools) -> bool {
    match with {
        Value::Null => true,
        Value::String(text) if free => tools.call(name, Arguments::Text(text)),
        Value::String(text) => tools.call(name, Arguments::Json(text.as_bytes())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            tools.call(name, Arguments::Json(&written(with)))
        }
    }
}

fn written(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json::write(value, &mut out);
    out
}

/// Why a stream with tool calls cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be looked through.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// More is called than can be kept apart or held.
    #[error("the answer calls more than {CALLS_MAX} tools, or with more than {HELD_MAX} bytes")]
    TooMuch,
    /// Pieces that readers would put together in different ways: of a call that was judged already, of a name whose first pieces went
    /// on, of calls or blocks that are not counted from zero one by one.
    #[error("the pieces of its tool calls can be put together in different ways")]
    Odd,
}

/// Which member of a choice, or which dialect, a call stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Function,
    Custom,
    FormerFunction,
    Block,
}

/// One call of a stream.
struct Call {
    form: Form,
    name: String,
    /// JSON in pieces.
    json: String,
    /// Text of no form in pieces.
    text: String,
    /// What it was said to begin with, as a value.
    whole: Option<Vec<u8>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Held back until it is whole.
    Held,
    /// Of a tool that is not judged.
    Passing,
    /// Judged and whole.
    Done,
}

/// One event's part of a call.
#[derive(Default)]
struct Part<'p> {
    name: Option<&'p str>,
    json: &'p str,
    text: &'p str,
    whole: Option<&'p Value<'p>>,
}

impl<'p> Part<'p> {
    /// The part that an object with `name`, `arguments` and `input` is.
    fn of(object: &'p Object<'p>) -> Result<Self, Fault> {
        let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = typed::text(object, "name")?;
        let is_whole = |value: &&Value<'_>| !matches!(value, Value::Null | Value::String(_));
        let wholes = ["arguments", "input"].map(|key| object.get(key).filter(is_whole));
        if wholes.iter().flatten().count() > 1 {
            return Err(Fault::Odd);
        }
        let whole = wholes.into_iter().flatten().next();
        Ok(Self { name, json: text("arguments"), text: text("input"), whole })
    }

    const fn says_nothing(&self) -> bool {
        self.json.is_empty() && self.text.is_empty() && self.whole.is_none()
    }
}

impl Call {
    const fn new(form: Form) -> Self {
        Self { form, name: String::new(), json: String::new(), text: String::new(), whole: None, state: State::Held }
    }

    fn add(&mut self, part: &Part<'_>, tools: &dyn Tools) -> Result<(), Fault> {
        if let Some(name) = part.name.filter(|name| !name.is_empty()) {
            let first = self.name.is_empty();
            // Readers put pieces of a name together, or take the first or the last.
            self.name.push_str(name);
            if self.name.len() > NAME_MAX {
                return Err(Fault::TooMuch);
            }
            let judged = tools.judges(&self.name) || tools.judges(name);
            match self.state {
                State::Held if first && !judged => self.state = State::Passing,
                State::Passing | State::Done if judged => return Err(Fault::Odd),
                State::Held | State::Passing | State::Done => {}
            }
        }
        match self.state {
            State::Done if !part.says_nothing() => return Err(Fault::Odd),
            State::Held => {
                self.json.push_str(part.json);
                self.text.push_str(part.text);
                if let Some(whole) = part.whole {
                    // Of two, some readers take the last, and some put them together.
                    if self.whole.replace(written(whole)).is_some() {
                        return Err(Fault::Odd);
                    }
                }
            }
            State::Done | State::Passing => {}
        }
        Ok(())
    }

    /// It is whole: whether it may go on.
    fn end(&mut self, tools: &mut dyn Tools) -> bool {
        self.state = State::Done;
        let (whole, json, text) = (self.whole.take(), std::mem::take(&mut self.json), std::mem::take(&mut self.text));
        whole.as_deref().is_none_or(|whole| tools.call(&self.name, Arguments::Json(whole)))
            && (json.is_empty() || tools.call(&self.name, Arguments::Json(json.as_bytes())))
            && (text.is_empty() || tools.call(&self.name, Arguments::Text(&text)))
    }
}

/// Holds events back while a call that is judged is not whole.
#[derive(Default)]
pub struct Gate {
    /// By choice, whether it is the former `function_call`, and number.
    calls: BTreeMap<(u64, bool, u64), Call>,
    held: usize,
    queue: Vec<u8>,
    /// Where each event of the queue ends.
    ends: Vec<usize>,
    /// Anthropic's blocks so far, and those that are open: llama.cpp ends all of them at the end.
    blocks: u64,
    open: BTreeSet<u64>,
}

impl Gate {
    /// Takes an event and hands on what may go on, in the order of its coming; false where the answer ends here.
    ///
    /// # Errors
    /// When the stream cannot be looked through; nothing of this event goes on then.
    pub fn event(&mut self, event: &[u8], tools: &mut dyn Tools, ready: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let data = sse::data(event).filter(|data| !data.trim_ascii().is_empty());
        let passes = match data.as_deref().map(<[u8]>::trim_ascii) {
            None => true,
            Some(b"[DONE]") => self.end(|_| true, tools),
            Some(json) => {
                let value = read(json)?;
                exact(&value)?;
                self.document(&value, sse::name(event), tools)?
            }
        };
        if !passes {
            return Ok(false);
        }
        if self.held > 0 && !has(Seed::CallsLetGo) {
            self.queue.extend_from_slice(event);
            self.ends.push(self.queue.len());
            let bytes = self.queue.len() + self.ends.len() * EVENT_COST;
            return if bytes > HELD_MAX { Err(Fault::TooMuch) } else { Ok(true) };
        }
        self.release(ready);
        ready(event);
        Ok(true)
    }

    /// The stream is over: what was not whole is judged as it is.
    pub fn finish(&mut self, tools: &mut dyn Tools, ready: &mut dyn FnMut(&[u8])) -> bool {
        let passes = self.end(|_| true, tools);
        if passes {
            self.release(ready);
        }
        passes
    }

    fn release(&mut self, ready: &mut dyn FnMut(&[u8])) {
        let (queue, mut from) = (std::mem::take(&mut self.queue), 0);
        for end in std::mem::take(&mut self.ends) {
            ready(queue.get(from..end).unwrap_or_default());
            from = end;
        }
    }

    fn document(&mut self, value: &Value<'_>, named: Option<&str>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let Some(object) = value.as_object() else { return Ok(true) };
        let mut known = BTreeSet::new();
        for choice in typed::array(object, "choices")? {
            if !self.choice(choice, &mut known, tools)? {
                return Ok(false);
            }
        }
        // Some readers go by the one, and some by the other.
        let kind = match (object.get("type").and_then(Value::as_str), named) {
            (Some(kind), Some(named)) if kind != named && KINDS.contains(&named) => return Err(Fault::Odd),
            (kind, named) => kind.or(named),
        };
        match kind {
            Some("message_start") => {
                let content = object.get("message").and_then(Value::as_object).and_then(|message| message.get("content"));
                let none = content.and_then(Value::as_array).unwrap_or_default().is_empty();
                if none { Ok(true) } else { Err(Fault::Odd) }
            }
            Some("content_block_start") => self.block(object, tools),
            Some("content_block_delta") => {
                let json = typed::partial_json(object)?;
                let index = self.opened(object)?;
                // Some readers go by the number, and some by what began last.
                if !json.is_empty() && index + 1 != self.blocks {
                    return Err(Fault::Odd);
                }
                let of = (BLOCKS, false, index);
                self.piece(of, Form::Block, &Part { json, ..Part::default() }, tools)?;
                Ok(true)
            }
            Some("content_block_stop") => {
                let index = self.opened(object)?;
                self.open.remove(&index);
                Ok(self.end(|of| *of == (BLOCKS, false, index), tools))
            }
            Some("message_stop" | "error") => Ok(self.end(|_| true, tools)),
            Some(_) | None => Ok(true),
        }
    }

    /// A block of Anthropic's begins: the next, whatever it is.
    fn block(&mut self, object: &Object<'_>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let index = number(object)?.ok_or(Fault::Odd)?;
        if index != self.blocks || index >= BLOCKS_MAX {
            return Err(Fault::Odd);
        }
        self.open.insert(index);
        self.blocks += 1;
        let block = typed::object(object, "content_block")?;
        if let Some(block) = block.filter(|block| block.get("name").is_some()) {
            self.piece((BLOCKS, false, index), Form::Block, &Part::of(block)?, tools)?;
        }
        Ok(true)
    }

    /// The number of an open block.
    fn opened(&self, object: &Object<'_>) -> Result<u64, Fault> {
        number(object)?.filter(|index| self.open.contains(index)).ok_or(Fault::Odd)
    }

    fn choice(&mut self, choice: &Value<'_>, known: &mut BTreeSet<u64>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let choice = choice.as_object().ok_or(Fault::Odd)?;
        let of = number(choice)?.unwrap_or_default();
        // Of two, some read the first, and some both.
        if !known.insert(of) || typed::calls(typed::object(choice, "message")?) {
            return Err(Fault::Odd);
        }
        if let Some(delta) = typed::object(choice, "delta")? {
            for call in typed::array(delta, "tool_calls")? {
                let call = call.as_object().ok_or(Fault::Odd)?;
                if !self.call(of, call, tools)? {
                    return Ok(false);
                }
            }
            if let Some(part) = typed::object(delta, "function_call")? {
                self.piece((of, true, 0), Form::FormerFunction, &Part::of(part)?, tools)?;
            }
        }
        let reason = choice.get("finish_reason").filter(|reason| !matches!(reason, Value::Null) && reason.as_str() != Some(""));
        Ok(reason.is_none() || self.end(|(choice, ..)| *choice == of, tools))
    }

    /// A piece of one of a choice's calls. With the next one those before it are whole.
    fn call(&mut self, of: u64, call: &Object<'_>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let known = self.calls.range((of, false, 0)..(of, true, 0)).count() as u64;
        let parts = [("function", Form::Function), ("custom", Form::Custom)];
        let parts = parts.map(|(key, form)| typed::object(call, key).map(|part| part.map(|part| (form, part))));
        let [function, custom] = parts;
        let mut parts = [function?, custom?].into_iter().flatten();
        let (first, second) = (parts.next(), parts.next());
        let begins = first.is_some_and(|(_, part)| part.get("name").is_some());
        // Without a number it is the next one, or the last one goes on.
        let index = number(call)?.unwrap_or(if begins { known } else { known.saturating_sub(1) });
        if index > known || second.is_some() {
            return Err(Fault::Odd);
        }
        let passes = index < known || self.end(|(choice, former, _)| *choice == of && !former, tools);
        let Some((form, part)) = first else {
            self.piece((of, false, index), Form::Function, &Part::default(), tools)?;
            return Ok(passes);
        };
        self.piece((of, false, index), form, &Part::of(part)?, tools)?;
        Ok(passes)
    }

    /// Adds a piece to a call.
    fn piece(&mut self, of: (u64, bool, u64), form: Form, part: &Part<'_>, tools: &dyn Tools) -> Result<(), Fault> {
        // A block that calls nothing has no call.
        if form == Form::Block && part.name.is_none() && part.says_nothing() && !self.calls.contains_key(&of) {
            return Ok(());
        }
        if self.calls.len() >= CALLS_MAX && !self.calls.contains_key(&of) {
            return Err(Fault::TooMuch);
        }
        let new = !self.calls.contains_key(&of);
        let call = self.calls.entry(of).or_insert_with(|| Call::new(form));
        let before = !new && call.state == State::Held;
        if call.form != form {
            return Err(Fault::Odd);
        }
        call.add(part, tools)?;
        let after = call.state == State::Held;
        self.held = self.held + usize::from(after && !before) - usize::from(before && !after);
        Ok(())
    }

    /// Calls are whole.
    fn end(&mut self, which: impl Fn(&(u64, bool, u64)) -> bool, tools: &mut dyn Tools) -> bool {
        if self.held == 0 {
            return true;
        }
        for (_, call) in self.calls.iter_mut().filter(|(of, call)| which(of) && call.state == State::Held) {
            self.held -= 1;
            if !call.end(tools) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
